"""The partitioner: places a graph on cores and chips, routes it, and proves the result."""
