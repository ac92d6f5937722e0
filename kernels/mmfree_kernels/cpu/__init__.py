"""Ternary products and neuron programs in C, and in NumPy where no compiler was found."""
