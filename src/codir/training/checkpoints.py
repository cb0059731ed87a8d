"""Whole checkpoints: a manifest with the digest of every file is written last; no manifest, no checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from codir.errors import RunError
from codir.storage import file_digest, read_json, write_json

MANIFEST = "manifest.json"


def seal(folder: str | Path) -> None:
    """Writes the manifest of a checkpoint whose files are all there: from now on it counts as whole."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    write_json(
        folder / MANIFEST,
        {
            str(path.relative_to(folder)): {"bytes": path.stat().st_size, "xxh3": file_digest(path)}
            for path in files
        },
    )


def is_sealed(folder: str | Path) -> bool:
    """Whether a checkpoint was written to its end; `damage` also looks at its content."""
    return (Path(folder) / MANIFEST).is_file()


def damage(folder: str | Path) -> str | None:
    """Returns what is wrong with a checkpoint in a few words, or None if it is whole."""
    folder = Path(folder)
    if not is_sealed(folder):
        return "it was not written to its end"
    try:
        manifest = read_json(folder / MANIFEST)
    except RunError:
        return f"{MANIFEST} is unreadable"
    for name, expected in manifest.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
        if file_digest(path) != expected["xxh3"]:
            return f"the content of {name} has changed"
    return None


def checkpoints(folder: str | Path) -> list[Path]:
    """Lists the checkpoints in `folder`, whole or not, newest (highest step) first."""
    found = Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    named = [path for path in found if path.is_dir() and path.name.rpartition("-")[2].isdigit()]
    return sorted(named, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """Returns the step of a checkpoint folder, from its name."""
    return int(path.name.rpartition("-")[2])


def last_whole(folder: str | Path, say: Callable[[str], None]) -> Path | None:
    """Returns the newest whole checkpoint in `folder`, or None; damaged newer ones are named and removed.

    Args:
        folder: where the checkpoints lie.
        say: receives one sentence for each checkpoint that is passed over.
    """
    for path in checkpoints(folder):
        reason = damage(path)
        if reason is None:
            return path
        say(f"Checkpoint {path} is damaged ({reason}); falling back to the one before it.")
        shutil.rmtree(path)
    return None
