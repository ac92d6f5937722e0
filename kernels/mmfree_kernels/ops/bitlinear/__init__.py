"""Norm, quantiser and ternary product of a BitLinear layer, for training and for packed weights."""
