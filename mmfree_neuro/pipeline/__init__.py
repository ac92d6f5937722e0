"""A step of the flow in each file. Stands on everything below, and on the three folders,
which it imports where they are needed."""
