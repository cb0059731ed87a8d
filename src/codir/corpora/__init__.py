"""Pre-training corpora: text in, packed blocks of tokens on disk out."""
