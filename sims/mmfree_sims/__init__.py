"""The engines: fast, gpu, Lava and MPI, which give the bits and counts of the reference."""
