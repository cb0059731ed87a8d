"""Checks that every objective over single tokens, or over attention, makes before anything is computed."""

from __future__ import annotations

from codir.errors import ConfigError
from codir.losses.base import ObjectiveContext
from codir.models.representations import EncoderShape


def check_teacher(name: str, context: ObjectiveContext) -> EncoderShape:
    """Returns the teacher's shape; raises `ConfigError` if there is no teacher."""
    if context.teacher is None:
        raise ConfigError(
            f"The objective {name!r} needs a teacher and there is none: name one, or drop {name!r}."
        )
    return context.teacher


def check_tokens(name: str, context: ObjectiveContext) -> EncoderShape:
    """Returns the teacher's shape; raises `ConfigError` where single tokens cannot be compared.

    Args:
        name: of the objective, for the messages.
        context: to be checked.

    Raises:
        ConfigError: there is no teacher, or it tokenises differently from the student.
    """
    teacher = check_teacher(name, context)
    if not context.aligned:
        raise ConfigError(
            f"The objective {name!r} compares single tokens, and teacher and student tokenise differently, so that "
            "their tokens are not the same: choose a student with the teacher's tokenizer, or an objective over whole "
            "texts ('kd', 'crd', 'pkd', 'cls_cosine')."
        )
    return teacher


def heads_of(name: str, context: ObjectiveContext) -> tuple[int, int]:
    """Returns the numbers of attention heads of student and teacher, which may differ.

    Raises:
        ConfigError: there is no teacher, or one side has no attention.
    """
    teacher = check_teacher(name, context)
    for side, shape in (("student", context.student), ("teacher", teacher)):
        if shape.heads is None:
            raise ConfigError(
                f"The objective {name!r} compares attention, and the {side} has none: choose an objective over hidden "
                "states, pooled blocks or logits instead ('hidden_mse', 'crd', 'kd')."
            )
    return context.student.heads or 0, teacher.heads or 0


def equal_heads(name: str, context: ObjectiveContext) -> int:
    """Returns the number of heads of both sides; raises `ConfigError` as `heads_of`, or if the two differ."""
    own, other = heads_of(name, context)
    if own != other:
        raise ConfigError(
            f"The objective {name!r} compares head by head, and the student has {own} heads, the teacher {other}: "
            "choose a student with the teacher's heads (student.width takes heads away, student.intermediate does "
            "not), or use 'relations' with relation_heads, which cuts both into the same number."
        )
    return own
