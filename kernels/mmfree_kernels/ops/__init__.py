"""Operators: a folder each, with Triton kernels and a naive twin beside them."""
