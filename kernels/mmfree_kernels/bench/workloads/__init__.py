"""What is measured: a workload in each file."""
