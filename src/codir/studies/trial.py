"""One training of a study: which recipe, task, student, seed and settings, and where its run folder lies."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import xxhash

from codir.storage import read_json, write_json

Phase = Literal["search", "final"]

TRIALS = "trials"
ABOUT = "about.json"
_SEED = re.compile(r"seed-(\d+)$")


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Returns 8 hexadecimal digits of searched settings; `""` where nothing is searched."""
    if not settings:
        return ""
    text = json.dumps(_plain(settings), sort_keys=True, ensure_ascii=False)
    return xxhash.xxh3_64(text.encode()).hexdigest()[:8]


def _plain(value: Any) -> Any:
    """Makes 1 and 1.0 the same: YAML, Optuna and JSON do not agree on which of them a round number is."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


@dataclass(frozen=True)
class Trial:
    """One training of a study.

    Attributes:
        recipe: its name in the study.
        task: its name in the study.
        student: name of the student; None where the study has one for all.
        seed: of the order, the dropout and whatever is drawn.
        settings: what is searched, dotted keys with values; empty in a study that searches nothing.
        phase: `search` for the trials that settings are chosen by, `final` for those that are compared. It is no part
            of the key: a final trial whose training a search has done already is not repeated.
        stage: what a search is at, for people: `fine-tuning`, `kd`, `crd`.
    """

    recipe: str
    task: str
    student: str | None
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    phase: Phase = "final"
    stage: str = ""

    @property
    def group(self) -> tuple[str, str | None, str]:
        """Task, student and recipe: what is searched and compared as one."""
        return self.task, self.student, self.recipe

    @property
    def key(self) -> str:
        """The trial in one line, `mrpc/half/codir-fine-1a2b3c4d/seed-1`: stable over processes, machines, versions."""
        digest = settings_digest(self.settings)
        name = f"{self.recipe}-{digest}" if digest else self.recipe
        return "/".join([self.task, *([self.student] if self.student else []), name, f"seed-{self.seed}"])

    def folder(self, output: Path) -> Path:
        """Returns its run folder in the study's folder."""
        return output / TRIALS / self.key

    def describe(self, output: Path) -> None:
        """Writes beside the seeds' folders what they are runs of, for `codir.studies.results`."""
        path = self.folder(output).parent / ABOUT
        content = {
            "recipe": self.recipe,
            "task": self.task,
            "student": self.student,
            "settings": dict(self.settings),
        }
        if not path.is_file() or read_json(path) != content:
            write_json(path, content)

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return self.key


def read_trials(output: Path) -> list[Trial]:
    """Returns every trial that has a folder in a study's folder, whatever state it is in, in order of their keys."""
    found = []
    for about in sorted((output / TRIALS).glob(f"**/{ABOUT}")):
        content = read_json(about)
        for folder in about.parent.iterdir():
            if folder.is_dir() and (match := _SEED.match(folder.name)):
                found.append(Trial(seed=int(match[1]), **content))
    return sorted(found, key=lambda trial: (trial.task, trial.student or "", trial.recipe, trial.key))
