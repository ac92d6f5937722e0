"""Malformed inputs for every command, and what became of each; `fuzz.py` beside this folder runs
them."""
