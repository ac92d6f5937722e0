"""What no mapping can do without: proven bounds of cores, chips, time and messages."""
