"""Candidates of `codir recommend` compete on the user's own training data before the long run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codir.errors import ConfigError
from codir.workflows.recommend import Recommendation


def check_folder(folder: Path, resume: bool) -> None:
    """Refuses a folder that is in the way."""


def trial(found: Recommendation, folder: Path, **settings: Any) -> Recommendation:
    """Not there yet."""
    raise ConfigError("--trial is not there yet: leave it out.")


def run(found: Recommendation, resume: bool) -> None:
    """Distils as recommended."""
    from codir.workflows.distill import distill

    distill(found.config.model_copy(update={"resume": resume}))
