"""The checkpoint family `hgrn_bit`: its configuration, names, norms and lowering.  Stands on
`lowering` and `model`; the float model is in `mmfree_kernels.float_model`."""
