"""Temporary folders that go even after kill -9: the next process that makes one removes those whose owner is gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from codir.errors import RunError
from codir.locks import exclusive

_LOCKS = os.name == "posix"  # elsewhere a folder that is in use cannot be told from one that is not


@contextlib.contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Yields an empty folder in the place for temporary files; it is deleted after the block, or by the next one.

    While the block runs, this process holds a lock inside. The lock is the operating system's and ends with the
    process, however that ends: so a folder without one belongs to nobody.

    Args:
        prefix: starts the folder's name, `codir-latency-`.
    """
    place = Path(tempfile.gettempdir())
    sweep(place, prefix)
    # under another name until it is locked, so that nobody else takes it for a left-over
    making = Path(tempfile.mkdtemp(prefix=".codir-making-"))
    with exclusive(making):
        folder = place / f"{prefix}{making.name.removeprefix('.codir-making-')}"
        making.rename(folder)
        try:
            inside = folder / "content"
            inside.mkdir()
            yield inside
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sweep(place: Path, prefix: str) -> None:
    """Removes the folders of processes that are gone."""
    for folder in place.glob(f"{prefix}*") if _LOCKS else ():
        # one that was made by an older codir has no lock file, and may be in use
        if (folder / ".lock").is_file():
            with contextlib.suppress(RunError, OSError), exclusive(folder):
                shutil.rmtree(folder, ignore_errors=True)
