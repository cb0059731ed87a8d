"""What was measured with the recipes: one entry for each recipe, task, student and budget of the committed studies.

The file `evidence.json` in this folder is written by `python benchmarks/evidence.py draw`, from the same results that
docs/evidence.md is drawn from; nobody edits it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from codir.errors import RunError

FILE = "evidence.json"
_AGAIN = (
    "Reinstall codir, write it again with `python benchmarks/evidence.py draw` in a clone, or name another file with "
    "--evidence FILE."
)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedGain(Interval):
    """Points gained over another arm of the same study at the same budget (0.80 against 0.79 is one point).

    Attributes:
        seeds: the gain by seed; empty in older files.
    """

    seeds: Mapping[int, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Entry:
    """What one recipe gave on one task, over its seeds.

    Attributes:
        study: its name in benchmarks/evidence.
        recipe: of codir.
        settings: what the study set differently in it, by dotted keys.
        task: name of the task.
        kind: `classification` or `regression`.
        metric: the score's.
        examples: N, labelled training examples.
        teacher_blocks, teacher_width, teacher_score: of the teacher.
        layers, width, parameters: of the student.
        epochs, steps: the budget.
        seeds: number of trials.
        mean, deviation: of the score over the seeds.
        kept: the score in percent of the teacher's.
        over_kd: gain over `kd`; None where the study has no such trials.
        over_undistilled: gain over the student that learned from the labels alone, from the same start and at the same
            rate; None where the study has no such trials.
        seconds: of a training, on the machine of the study.
        learning_rate: of the trials; None where the file does not say it.
        tuned: the study set the learning rate for this recipe alone, so that a gain is not the recipe's.
        split: what the scores are of; `holdout`: settings were chosen by them.
    """

    study: str
    recipe: str
    settings: Mapping[str, Any] = field(hash=False)
    task: str
    kind: str
    metric: str
    examples: int
    teacher_blocks: int
    teacher_width: int
    teacher_score: float
    layers: int
    width: int
    parameters: int
    epochs: float
    steps: int
    seeds: int
    mean: float
    deviation: float | None
    kept: float
    over_kd: PairedGain | None
    seconds: float | None
    learning_rate: float | None
    tuned: bool = False
    split: str = "validation"
    over_undistilled: PairedGain | None = None

    @property
    def depth(self) -> float:
        """The student's share of the teacher's blocks."""
        return self.layers / self.teacher_blocks

    @property
    def narrowness(self) -> float:
        """The student's share of the teacher's width."""
        return self.width / self.teacher_width


@dataclass(frozen=True)
class Evidence:
    """All entries and where they come from.

    Attributes:
        entries: in the order of the file.
        versions: of the packages that they were made with.
        path: of the file.
    """

    entries: tuple[Entry, ...]
    versions: Mapping[str, Any]
    path: str

    @cached_property
    def recipes(self) -> tuple[str, ...]:
        """Names of the recipes in it."""
        return tuple(dict.fromkeys(entry.recipe for entry in self.entries))


def load_evidence(path: str | Path | None = None) -> Evidence:
    """Reads the evidence.

    Args:
        path: another file than the one that comes with codir.

    Raises:
        RunError: there is no such file, it is damaged, or there is nothing in it; names the entry and the key.
    """
    place = Path(path).expanduser() if path is not None else Path(str(files("codir.config"))) / FILE
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"There is no evidence to recommend by: {place} does not exist. {_AGAIN}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{place} is damaged and cannot be read: {error}. {_AGAIN}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("entries"), list):
        raise RunError(f"{place} holds no list `entries`: it is no file of evidence. {_AGAIN}")
    entries = []
    for number, values in enumerate(content["entries"], start=1):
        try:
            entries.append(_entry(values))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise RunError(f"{place}, entry {number}: {what}. {_AGAIN}") from error
    if not entries:
        raise RunError(f"{place} has no entries: there is no evidence to recommend by. {_AGAIN}")
    return Evidence(tuple(entries), content.get("versions") or {}, str(place))


def _entry(values: Mapping[str, Any]) -> Entry:
    teacher, student = values["teacher"], values["student"]
    settings = dict(values.get("settings") or {})
    own_rate = settings.pop("training.learning_rate", None)
    rate = values.get("learning_rate", own_rate)
    seeds = values["seeds"]
    entry = Entry(
        study=str(values["study"]),
        recipe=str(values["recipe"]),
        settings=settings,
        task=str(values["task"]),
        kind=str(values["kind"]),
        metric=str(values["metric"]),
        examples=int(values["train_examples"]),
        teacher_blocks=int(teacher["blocks"]),
        teacher_width=int(teacher["width"]),
        teacher_score=float(teacher["score"]),
        layers=int(student["layers"]),
        width=int(student["width"]),
        parameters=int(student["parameters"]),
        epochs=float(values["epochs"]),
        steps=int(values["steps"]),
        seeds=len(seeds) if isinstance(seeds, list) else int(seeds),
        mean=float(values["mean"]),
        deviation=None if values.get("sd") is None else float(values["sd"]),
        kept=float(values["kept"]),
        over_kd=_paired(values.get("over_kd")),
        seconds=None if values.get("seconds") is None else float(values["seconds"]),
        learning_rate=None if rate is None else float(rate),
        tuned=own_rate is not None,
        split=str(values.get("split") or "validation"),
        over_undistilled=_paired(values.get("over_undistilled")),
    )
    numbers = [entry.mean, entry.kept, entry.epochs]
    for gain in (entry.over_kd, entry.over_undistilled):
        numbers += [] if gain is None else [gain.mean, gain.low, gain.high, *gain.seeds.values()]
    if min(entry.examples, entry.teacher_blocks, entry.layers, entry.teacher_width, entry.seeds) < 1:
        raise ValueError("counts of examples, blocks, width and seeds must be at least 1")
    if not all(map(math.isfinite, numbers)):
        raise ValueError("mean, kept, epochs and gains must be finite")
    return entry


def _paired(values: Mapping[str, Any] | None) -> PairedGain | None:
    if values is None:
        return None
    mean, low, high = (float(values[key]) for key in ("mean", "low", "high"))
    return PairedGain(
        mean, low, high, {int(seed): float(gain) for seed, gain in (values.get("seeds") or {}).items()}
    )
