"""The folder of a recommendation's trial and run: whether it is free, and whether a resume asks for what lies there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codir.config.config import DistillConfig
from codir.config.loading import load_distill
from codir.errors import RunError
from codir.runs.runfolder import RunFolder
from codir.storage import read_json, write_json

TRIAL = Path("trial") / "trial.json"
"""What a trial needs to go on; without it there is none."""
STUDENT = "student"
"""Folder of the run."""
_COMMAND = "command.json"
_MISSING = object()


def check_folder(folder: Path) -> None:
    """Raises `RunError` if the folder holds a trial or a run already."""
    if (folder / TRIAL).is_file() or RunFolder(folder / STUDENT).is_run:
        raise RunError(
            f"{folder} already holds a recommendation's trial or run. Add --resume to go on with it, or choose another "
            "--output."
        )


def note_command(folder: Path, command: Mapping[str, Any]) -> None:
    """Writes what was asked for, so that a resume can be held to it.

    Args:
        folder: of the trial and the run.
        command: values by flag, all that decides on what is computed.
    """
    write_json(folder / _COMMAND, dict(command))


def check_command(folder: Path, command: Mapping[str, Any]) -> None:
    """Makes sure that a resume asks for what was begun; flags that an older version did not note are not compared.

    Raises:
        RunError: names every flag that differs, with both values.
    """
    path = folder / _COMMAND
    before = read_json(path) if path.is_file() else {}
    differing = [
        f"  {flag}: {_shown(value)} there, {_shown(command.get(flag))} now"
        for flag, value in before.items()
        if value != command.get(flag, _MISSING)
    ]
    if differing:
        raise RunError(
            f"{folder} holds what another command began:\n"
            + "\n".join(differing)
            + "\nGive the same flags, or choose another --output."
        )


def begun(output: str | Path) -> DistillConfig | None:
    """Returns the configuration of the long run in its folder, None if it has not begun."""
    run = RunFolder(output)
    if not run.is_run:
        return None
    return load_distill(config=run.config, flags={"output": ("--output", str(run.path))})


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "(not set)"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
