"""What a caller hands to a training in Python is looked at first: models, examples and what makes batches of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset

from codir.errors import ConfigError


def require_objects(student: Any, teacher: Any, examples: Any, collator: Any) -> None:
    """Checks the kinds of a trainer's arguments.

    Raises:
        ConfigError: the name of a model in place of the model, a stream of examples without a length, or one of
            transformers' collators, whose batches hold neither example ids nor the teacher's columns.
    """
    for model, whose in ((student, "student"), (teacher, "teacher")):
        if isinstance(model, str | Path):
            raise ConfigError(
                f"The {whose} is {str(model)!r:.100}, not a model: load it with "
                "`AutoModelForSequenceClassification.from_pretrained(...)`."
            )
    if not isinstance(examples, Dataset):
        raise ConfigError(
            f"The training examples are a {type(examples).__name__}, not a datasets.Dataset: a training needs to know "
            "how many they are, and their columns (`codir.data.encoding.encode` makes them)."
        )
    if type(collator).__module__.startswith("transformers."):
        raise ConfigError(
            f"data_collator={type(collator).__name__} makes batches without example ids and the teacher's columns: "
            "leave it out, codir's own pads just so."
        )
