"""Kernels: the float model and its training in torch and Triton, and what engines stand on."""
