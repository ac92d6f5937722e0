"""The float model: in memory, streamed from files, evaluated, calibrated. Stands on `ops`."""
