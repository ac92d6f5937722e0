"""What comes in: configurations, tensors, checkpoints, tokenizers, text.  Stands on `files`."""
