"""The kinds of inputs, a file for the inputs of each subject, and a table of all."""
