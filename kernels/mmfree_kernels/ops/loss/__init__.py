"""The head's loss, computed without ever holding all logits."""
