"""What lies in a run folder, read without touching it: of any age, unfinished, or with damaged files."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from codir.errors import CodirError, ModelError, RunError
from codir.manifest import read_whole
from codir.models.labels import class_names, require_one_answer
from codir.models.loading import load_config
from codir.record.run_data import find_near
from codir.record.runfolder import RunFolder

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_NO_HUB = (
    "The report is made of what a training left on this machine: a model's name on the Hub is not enough."
)
_LAYERS = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")
Missing = list[tuple[str, str]]


@dataclass
class RunFiles:
    """A run folder's files as plain values; what is missing is empty, and what cannot be read stands in `missing`."""

    path: Path
    missing: Missing = field(default_factory=list)

    def __post_init__(self) -> None:
        """Reads the folder.

        Raises:
            RunError: it is no run.
            ModelError: its model gives several answers to a text, which its numbers misread.
        """
        _require_run(self.path)
        run = RunFolder(self.path)
        self.config_text, self.config = self._yaml(run.config)
        self.metrics = self._json(run.metrics, "results")
        self.status = self._json(self.path / "run.json", "state of the run")
        self.environment = self._json(run.environment, "environment")
        named = self.config.get("command")
        if named not in ("distill", "finetune", "pretrain"):
            distilled = "teacher" in self.config or "comparison" in self.metrics
            pretrained = "corpus" in self.config or "scores" in self.metrics
            named = "pretrain" if pretrained else "distill" if distilled else "finetune"
        self.command: str = named
        # a folder from before there was `run.json` is finished if it has its results
        self.state = str(self.status.get("state") or ("finished" if self.metrics else "running"))
        self.finished = self.state == "finished" and bool(self.metrics)
        self.log = read_log(run.log, self.missing, self.status.get("state", "finished") == "finished")
        self.attempts = [mapping(each) for each in items(self.status.get("attempts"))]
        try:
            config = load_config(self.path)
        except ModelError:  # none yet, or damaged, which is said where the model is run
            self.classes: list[str] = []
            return
        if self.command != "pretrain":
            require_one_answer(config, str(self.path))
        try:
            self.classes = [str(name) for name in class_names(config).values()]
        except (CodirError, AttributeError, TypeError, ValueError):
            self.classes = []

    def section(self, name: str) -> dict[str, Any]:
        """Returns a section of the configuration, empty where there is none."""
        return mapping(self.config.get(name))

    def find(self, path: Any) -> Path | None:
        """Finds a path that the run names: as it stands, or, if relative, beside the run folder or above it."""
        return find_near(self.path, str(path)) if path else None

    @property
    def teacher(self) -> Path | None:
        """The teacher's folder, if it is here."""
        return self.find(self.config.get("teacher"))

    @property
    def seconds(self) -> float:
        """Wall-clock time of all attempts that ended in order."""
        total = 0.0
        for attempt in self.attempts:
            try:
                ended, started = (datetime.fromisoformat(attempt[key]) for key in ("ended", "started"))
                total += (ended - started).total_seconds()
            except (KeyError, TypeError, ValueError):
                continue
        return total

    @property
    def started(self) -> str | None:
        """When the attempt began that the results are of: the last that finished, else the last."""
        finished = [each for each in self.attempts if each.get("state") == "finished"]
        times = [
            each["started"] for each in (*self.attempts, *finished) if isinstance(each.get("started"), str)
        ]
        last = times[-1] if times else self.status.get("started") or self.environment.get("time")
        return last if isinstance(last, str) else None

    @property
    def examples(self) -> dict[str, int]:
        """Validation examples that the scores are of, by split, the main one first."""
        return examples_in(self.metrics)

    def _yaml(self, path: Path) -> tuple[str, dict[str, Any]]:
        if not path.is_file():
            self.missing.append(("configuration", f"{path.name} is not there"))
            return "", {}
        try:
            text = path.read_text(encoding="utf-8")
            return text, mapping(yaml.safe_load(text))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            self.missing.append(("configuration", f"{path} is damaged: {error}"))
            return "", {}

    def _json(self, path: Path, what: str) -> dict[str, Any]:
        try:
            return mapping(read_whole(path)) if path.is_file() else {}
        except (OSError, RunError) as error:
            self.missing.append((what, f"{path} is damaged: {error}"))
            return {}


def _require_run(path: Path) -> None:
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        hub = "" if path.exists() or not _HUB_NAME.fullmatch(str(path)) else f" {_NO_HUB}"
        raise RunError(f"{path} {what}. Give a run folder of `codir distill`, or a study's folder.{hub}")
    if path.parent.name == "comparison" and RunFolder(path.parent.parent).is_run:
        way = f"codir report {shlex.quote(str(path.parent.parent))}"
        raise RunError(f"{path} is a student of comparison. Report the run: {way}")
    if RunFolder(path).is_run or (path / "metrics.json").is_file():
        return
    inside = sorted(entry.parent for entry in path.glob("*/codir.yaml"))[:1]
    shown = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
    way = "Give the --output of `codir distill`, `codir finetune`, `codir pretrain` or `codir study`."
    way = f"It holds runs: codir report {shlex.quote(str(inside[0]))}" if inside else way
    raise RunError(f"{path} is neither a run nor a study: it holds {shown}. {way}")


def read_log(path: Path, missing: Missing | None = None, finished: bool = True) -> list[dict[str, Any]]:
    """Reads a `log.jsonl`; lines that cannot be read are named in `missing`.

    The last line may be half written by a training that is under way or was killed: no damage unless `finished`.
    """
    missing = [] if missing is None else missing
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    except OSError as error:
        missing.append(("curves", f"{path} cannot be read: {error.strerror or error}"))
        return []
    entries, bad = [], []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(json.loads(line))
        except ValueError:
            bad.append(number)
    if bad == [len(lines)] and finished:
        missing.append(
            ("curves", f"line {bad[0]} of {path}, its last, is cut off and left out: was it copied whole?")
        )
    elif bad and bad != [len(lines)]:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        missing.append(("curves", f"{path} is damaged; left out: line {shown}"))
    return [entry for entry in entries if isinstance(entry, dict)]


def mapping(value: Any) -> dict[str, Any]:
    """Returns a mapping as it is and anything else as an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    """Returns a list as it is and anything else as an empty one."""
    return list(value) if isinstance(value, list) else []


def finite(value: Any) -> float | None:
    """Returns None for what is not a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None


def whole(value: Any) -> int | None:
    """Returns None for what is no count."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns those of the metrics that are finite numbers."""
    return {str(name): float(value) for name, value in metrics.items() if finite(value) is not None}


def examples_in(metrics: Mapping[str, Any]) -> dict[str, int]:
    """Returns validation examples by split, as a `metrics.json` has them."""
    found = mapping(metrics.get("validation_examples"))
    return {split: many for split, many in found.items() if isinstance(many, int)}


def layers_in(folder: Path | None) -> int | None:
    """Reads the number of layers off a model folder's `config.json`; None where it does not say."""
    try:
        config = mapping(json.loads((folder / "config.json").read_text(encoding="utf-8"))) if folder else {}
    except (OSError, ValueError):
        return None
    return next((config[name] for name in _LAYERS if isinstance(config.get(name), int)), None)
