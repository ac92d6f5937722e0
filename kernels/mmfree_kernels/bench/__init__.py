"""What a GPU does with a model: points, workloads, meters and rows.  Stands on every other wing."""
