"""What a run is: the job, what was counted, the reference engine, the files of runs and
states. Stands on `graph` and `mapping`."""
