"""The MPI engine: ranks that hold chips. Stands on `tiles`."""
