"""The frozen teacher and its outputs on disk."""
