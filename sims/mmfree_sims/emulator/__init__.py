"""The emulator of the reference machine: runs an image, from its bytes alone."""
