"""What lies in a run folder, read without touching it: unfinished, or with damaged files."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from codir.errors import ModelError, RunError
from codir.manifest import read_whole
from codir.models.classes import class_names, require_one_answer
from codir.models.loading import load_config
from codir.record.run_data import find_near
from codir.record.runfolder import RunFolder
from codir.reports.values import Report

_LAYERS = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")


class RunFiles:
    """A run folder's files as plain values; what is missing or damaged is empty, and the report says why.

    Raises:
        RunError: it is no run.
        ModelError: its model gives several answers to a text, which its numbers misread.
    """

    def __init__(self, path: Path, report: Report):
        _require_run(path)
        run, self.path = RunFolder(path), path

        def read(part: str, file: Path, reader: Callable[[Path], Any]) -> dict[str, Any]:
            try:
                found = reader(file)
                if not isinstance(found, dict):
                    raise ValueError(f"it holds {type(found).__name__}, no mapping")
                return found
            except FileNotFoundError:
                return {}
            except (OSError, ValueError, RunError, yaml.YAMLError) as error:
                report.miss(f"{file} is damaged: {error}", part)
                return {}

        self.config = read("configuration", run.config, lambda file: yaml.safe_load(file.read_bytes()))
        self.config_text = run.config.read_text("utf-8", "replace") if self.config else ""
        self.metrics = read("results", run.metrics, read_whole)
        self.environment = read("environment", run.environment, read_whole)
        status = read("state of the run", path / "run.json", read_whole)
        self.command = str(self.config.get("command") or ("distill" if "comparison" in self.metrics else "finetune"))
        self.state = str(status.get("state") or "running")
        self.finished = self.state == "finished" and bool(self.metrics)
        self.attempts: list[dict[str, Any]] = status.get("attempts") or []
        self.log = read_log(run.log, report, self.finished)
        self.classes: list[str] = []
        try:
            config = load_config(path)
        except ModelError:  # none yet, or damaged, which is said where the model is run
            return
        if self.command != "pretrain":
            require_one_answer(config, str(path))
        self.classes = list(class_names(config).values())

    def section(self, name: str) -> dict[str, Any]:
        """Returns a section of the configuration, empty where there is none."""
        return self.config.get(name) or {}

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
        ended = [each for each in self.attempts if "ended" in each]
        times = [[datetime.fromisoformat(each[key]) for key in ("started", "ended")] for each in ended]
        return sum((end - start).total_seconds() for start, end in times)

    @property
    def started(self) -> str | None:
        """When the attempt began that the results are of: the last that finished, else the last."""
        finished = [each for each in self.attempts if each.get("state") == "finished"]
        return next((each.get("started") for each in reversed(finished or self.attempts)), None)


def _require_run(path: Path) -> None:
    if not path.is_dir():
        what, way = "is a file" if path.exists() else "does not exist", ""
        if not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
            way = " A model's name on the Hub is not enough: the report is made of what a training left here."
        raise RunError(f"{path} {what}. Give a run folder of `codir distill`, or a study's folder.{way}")
    if path.parent.name == "comparison" and RunFolder(path.parent.parent).is_run:
        way = f"codir report {shlex.quote(str(path.parent.parent))}"
        raise RunError(f"{path} is a student of comparison. Report the run: {way}")
    if not RunFolder(path).is_run:
        inside = sorted(entry.parent for entry in path.glob("*/codir.yaml"))[:1]
        shown = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        way = "Give the --output of `codir distill`, `codir finetune`, `codir pretrain` or `codir study`."
        way = f"It holds runs: codir report {shlex.quote(str(inside[0]))}" if inside else way
        raise RunError(f"{path} is neither a run nor a study: it holds {shown}. {way}")


def finite(value: Any) -> float | None:
    """Returns None for what is not a finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns those of the metrics that are finite numbers."""
    return {name: found for name, value in metrics.items() if (found := finite(value)) is not None}


def layers_in(folder: Path | None) -> int | None:
    """Reads the number of layers off a model folder's `config.json`; None where it does not say."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return None
    return next((config[name] for name in _LAYERS if isinstance(config.get(name), int)), None)


def read_log(path: Path, report: Report | None = None, finished: bool = True) -> list[dict[str, Any]]:
    """Reads a `log.jsonl`; lines that cannot be read are left out, and the report says which.

    The last line may be half written by a training that is under way or was killed: no damage unless `finished`.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    entries, bad = [], []
    for number, text in enumerate(lines, 1):
        try:
            entries.append(json.loads(text))
        except ValueError:
            bad.append(number)
    if report is not None and bad and (finished or bad != [len(lines)]):
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        report.miss(f"{path} is damaged or cut off; left out: line {shown} of {len(lines)}", "curves")
    return [entry for entry in entries if isinstance(entry, dict)]
