"""What a trial's student started from, as its results say it: the study's student, the recipe's start, its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codir.config.student_config import StudentConfig, start_of

_PREFIX = "student."


def resolved_start(student: Mapping[str, Any], arm: Mapping[str, Any]) -> dict[str, Any]:
    """Returns every setting of a student, defaults too, so that two are equal where their trainings started alike.

    The order is that of `codir study`: a recipe's start counts where the study's student says nothing of it, the
    recipe's settings count over both; a recipe with a student of its own has that one.

    Args:
        student: settings of the study's student that are not the default.
        arm: of the results: `start`, `student`, `settings` with dotted keys.
    """
    own = {
        key.removeprefix(_PREFIX): value for key, value in arm["settings"].items() if key.startswith(_PREFIX)
    }
    given = arm.get("student") or {**start_of(arm.get("start", {}), student), **student}
    return {**StudentConfig().model_dump(mode="json"), **given, **own}
