"""Whole checkpoints: a manifest with the digest of every file is written last; no manifest, no checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from codir import manifest
from codir.files import remove, write_json

MANIFEST = "manifest.json"


def seal(folder: Path) -> None:
    """Writes the manifest of a checkpoint whose files are all there: from now on it counts as whole."""
    write_json(folder / MANIFEST, {"files": manifest.entries(folder, but=(MANIFEST,))})


def damage(folder: str | Path) -> str | None:
    """Returns what is wrong with a checkpoint in a few words, or None if it is whole."""
    if Path(folder).is_file():
        return "it is a file"
    if not (Path(folder) / MANIFEST).is_file():
        return "it was not written to its end"
    return manifest.fault_by(Path(folder) / MANIFEST)


def checkpoints(folder: str | Path) -> list[Path]:
    """Lists the checkpoints in `folder`, whole or not, newest (highest step) first."""
    found = Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    return sorted(
        (path for path in found if path.name.rpartition("-")[2].isdigit()), key=step_of, reverse=True
    )


def step_of(path: Path) -> int:
    """Returns the step of a checkpoint folder, from its name."""
    return int(path.name.rpartition("-")[2])


def last_whole(folder: str | Path, say: Callable[[str], None]) -> Path | None:
    """Returns the newest whole checkpoint in `folder`, or None; `say` is told of damaged newer ones, which go."""
    for path in checkpoints(folder):
        reason = damage(path)
        if reason is None:
            return path
        say(f"Checkpoint {path} is damaged ({reason}); falling back to the one before it.")
        remove(path)
    return None
