"""Contrastive losses, the memory bank and who is a negative. They know torch, and nothing of transformers."""
