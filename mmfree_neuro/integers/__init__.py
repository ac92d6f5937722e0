"""Integer arithmetic: fixed point, tables, ternary matrices.  Stands on `errors` alone."""
