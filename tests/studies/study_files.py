"""What a study has finished, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Returns time and content of every file of the finished trials below a study's folder."""
    found = {}
    for state in (folder / "trials").glob("**/run.json"):
        if json.loads(state.read_text())["state"] == "finished":
            for path in sorted(state.parent.rglob("*")):
                if path.is_file() and path.name != ".lock":
                    found[str(path.relative_to(folder))] = (path.stat().st_mtime_ns, path.read_bytes())
    return found
