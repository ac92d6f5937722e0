"""Training: the recipe, half blocks with backward passes written by hand, a step as one CUDA
graph. Stands on `float_model` and `ops`."""
