"""The integer graph on a GPU: neuron programs become Triton kernels, with the reference's bits."""
