"""The integer meaning: nodes, their programs and proof, the graph file.  Stands on `integers`."""
