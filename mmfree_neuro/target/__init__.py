"""The reference machine: what its words, sections and files mean, whatever runs on it."""
