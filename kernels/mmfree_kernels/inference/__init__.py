"""The float model on a GPU with packed weights: prefill, decoders for few sequences, dozens and
many."""
