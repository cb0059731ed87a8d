"""Training: the Trainer, its arguments, checkpoints, samplers, collator and callbacks."""
