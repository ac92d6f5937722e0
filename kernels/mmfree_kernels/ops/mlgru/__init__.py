"""The token mixer: the gated scan over time, and what follows it."""
