"""Hugging Face encoders: loading, students, representations, classes, inference."""
