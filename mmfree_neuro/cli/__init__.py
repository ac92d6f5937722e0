"""The command line: a command in each file. Stands on `pipeline`."""
