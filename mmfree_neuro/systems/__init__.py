"""The hardware as data: records of chips and systems, their loader, and the shipped files.
Stands on `errors` alone."""
