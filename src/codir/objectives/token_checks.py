"""What every objective over single tokens checks before anything is computed."""

from __future__ import annotations

from codir.errors import ConfigError
from codir.objectives.base import ObjectiveContext


def check_tokens(name: str, context: ObjectiveContext) -> None:
    """Raises `ConfigError` without a teacher, or where teacher and student see different tokens."""
    if context.teacher is None:
        raise ConfigError(f"The objective {name!r} needs a teacher and there is none: name one, or drop {name!r}.")
    if not context.aligned:
        raise ConfigError(
            f"The objective {name!r} compares single tokens, and teacher and student tokenise differently: take a "
            "student with the teacher's tokenizer, or an objective over pooled blocks or logits (crd, pkd, kd)."
        )


def heads_of(name: str, context: ObjectiveContext) -> tuple[int, int]:
    """Returns the attention heads of student and teacher; raises `ConfigError` for a model that has none."""
    assert context.teacher is not None, "check_tokens comes first"
    for side, shape in (("student", context.student), ("teacher", context.teacher)):
        if shape.heads is None:
            raise ConfigError(
                f"The objective {name!r} compares attention, and the {side} has none: choose an objective over "
                "hidden states, pooled blocks or logits (crd, kd, logit_mse)."
            )
    return context.student.heads or 0, context.teacher.heads or 0
