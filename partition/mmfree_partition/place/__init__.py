"""The placers, one in each file, all with one signature.  `placers` has the table of them."""
