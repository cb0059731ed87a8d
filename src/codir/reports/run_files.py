"""What lies in a run folder, read without touching it: of any age, unfinished, or with damaged files."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from codir.errors import RunError
from codir.manifest import read_whole
from codir.runs.run_data import find_near
from codir.runs.runfolder import RunFolder

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_NO_HUB = (
    "The report is made of what a training left on this machine: a model's name on the Hub is not enough."
)
Command = Literal["distill", "finetune", "pretrain"]


@dataclass
class RunFiles:
    """A run folder's files as plain values; what is missing is empty.

    Attributes:
        path: the folder.
        command: which command made it.
        config: the resolved configuration.
        config_text: the same as it stands in `codir.yaml`.
        metrics: `metrics.json`.
        environment: `environment.json`.
        status: `run.json`.
        log: the main student's log entries.
        missing: (part, why) of files that could not be read.
    """

    path: Path
    command: Command
    config: dict[str, Any]
    config_text: str
    metrics: dict[str, Any]
    environment: dict[str, Any]
    status: dict[str, Any]
    log: list[dict[str, Any]]
    missing: list[tuple[str, str]] = field(default_factory=list)

    @property
    def state(self) -> str:
        """State of the run; a folder from before there was `run.json` is finished if it has its results."""
        return str(self.status.get("state") or ("finished" if self.metrics else "running"))

    @property
    def finished(self) -> bool:
        """Whether the run came to its end and left its results."""
        return self.state == "finished" and bool(self.metrics)

    @property
    def seconds(self) -> float | None:
        """Wall-clock time of all attempts that ended in order; None if unknown."""
        total = 0.0
        for attempt in items(self.status.get("attempts")):
            try:
                ended = datetime.fromisoformat(attempt["ended"])
                total += (ended - datetime.fromisoformat(attempt["started"])).total_seconds()
            except (KeyError, TypeError, ValueError):
                continue
        return total or None

    @property
    def started(self) -> str | None:
        """When the attempt began that the results are of: the last that finished, else the last."""
        attempts = [mapping(each) for each in items(self.status.get("attempts"))]
        finished = [each for each in attempts if each.get("state") == "finished"]
        times = [each["started"] for each in (*attempts, *finished) if isinstance(each.get("started"), str)]
        last = times[-1] if times else self.status.get("started") or self.environment.get("time")
        return last if isinstance(last, str) else None

    def section(self, name: str) -> dict[str, Any]:
        """Returns a section of the configuration, empty where there is none."""
        return mapping(self.config.get(name))

    def find(self, path: str | Path) -> Path | None:
        """Finds a path that the run names: as it stands, or, if relative, beside the run folder or above it.

        A run is started from some folder and looked at from another one, or on another machine.
        """
        return find_near(self.path, path)


def read_run(path: Path) -> RunFiles:
    """Reads a run folder.

    Raises:
        RunError: it is none.
    """
    _require_run(path)
    missing: list[tuple[str, str]] = []
    run = RunFolder(path)
    config_text, config = _config(run.config, missing)
    metrics = _json(run.metrics, "results", missing)
    status = _json(path / "run.json", "state of the run", missing)
    return RunFiles(
        path=path,
        command=_command(config, metrics),
        config=config,
        config_text=config_text,
        metrics=metrics,
        environment=_json(run.environment, "environment", missing),
        status=status,
        log=read_log(run.log, missing, status.get("state", "finished") == "finished"),
        missing=missing,
    )


def _require_run(path: Path) -> None:
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        hub = "" if path.exists() or not _HUB_NAME.fullmatch(str(path)) else f" {_NO_HUB}"
        raise RunError(f"{path} {what}. Give a run folder of `codir distill`, or a study's folder.{hub}")
    if path.parent.name == "comparison" and RunFolder(path.parent.parent).is_run:
        raise RunError(
            f"{path} is a student of comparison. Report the run: codir report {shlex.quote(str(path.parent.parent))}"
        )
    if RunFolder(path).is_run or (path / "metrics.json").is_file():
        return
    inside = sorted(entry.parent for entry in path.glob("*/codir.yaml"))[:3]
    shown = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
    way = (
        f"It holds runs: codir report {shlex.quote(str(inside[0]))}"
        if inside
        else "Give the --output of `codir distill`, `codir finetune`, `codir pretrain` or `codir study`."
    )
    raise RunError(f"{path} is neither a run nor a study: it holds {shown}. {way}")


def _config(path: Path, missing: list[tuple[str, str]]) -> tuple[str, dict[str, Any]]:
    if not path.is_file():
        missing.append(("configuration", f"{path.name} is not there"))
        return "", {}
    try:
        text = path.read_text(encoding="utf-8")
        return text, mapping(yaml.safe_load(text))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        missing.append(("configuration", f"{path} is damaged: {error}"))
        return "", {}


def _json(path: Path, what: str, missing: list[tuple[str, str]]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return mapping(read_whole(path))
    except (OSError, RunError) as error:
        missing.append((what, f"{path} is damaged: {error}"))
        return {}


def read_log(
    path: Path, missing: list[tuple[str, str]] | None = None, finished: bool = True
) -> list[dict[str, Any]]:
    """Reads a `log.jsonl`; lines that cannot be read are named in `missing`.

    The last line may be half written by a training that is under way or was killed: no damage unless `finished`.
    """
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        if missing is not None:
            missing.append(("curves", f"{path} cannot be read: {error.strerror or error}"))
        return []
    entries, bad = [], []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError:
            bad.append(number)
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    if bad == [len(lines)] and not finished:
        bad = []
    if bad and missing is not None:
        missing.append(("curves", _bad_lines(path, bad, len(lines))))
    return entries


def _bad_lines(path: Path, bad: list[int], lines: int) -> str:
    if bad == [lines]:
        return f"line {lines} of {path}, its last, is cut off and left out: the file was not copied whole"
    shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
    which = f"line {shown} of {path} is" if len(bad) == 1 else f"lines {shown} of {path} are"
    return f"{which} damaged and left out"


def _command(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> Command:
    named = config.get("command")
    if named in ("distill", "finetune", "pretrain"):
        return named
    if "corpus" in config or "scores" in metrics:
        return "pretrain"
    return "distill" if "teacher" in config or "comparison" in metrics else "finetune"


def mapping(value: Any) -> dict[str, Any]:
    """Returns a mapping as it is and anything else as an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    """Returns a list as it is and anything else as an empty one."""
    return list(value) if isinstance(value, list) else []
