"""Functions on tensors: pooling, losses, bank and negatives. They know torch, and nothing of transformers."""
