"""From a model to a graph: schemes, ternary codes, formats, norms. Stands on `model` and
`graph`."""
