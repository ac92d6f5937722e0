"""From counts to time and energy, with ranges. Stands on `run`, `mapping` and `systems`."""
