"""Published and measured rows of GPUs, and rooflines. Stands on `cost`."""
