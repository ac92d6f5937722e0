"""The chain placer's model: the graph as a chain of pieces, what crosses its cuts, how cores
are filled."""
