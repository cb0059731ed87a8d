"""codir: smaller, faster transformer encoders by contrastive distillation on intermediate representations."""

__version__ = "0.1.0"
