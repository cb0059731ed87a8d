"""Cache entries on disk: folders of .npy files that are whole or not there, and checked when they are opened.

An entry is built in a folder `.building-LOCK-...` beside its place, under the lock `.lock-LOCK` (by default the entry's
own name). Every file is synced, then the manifest with the size and digest of each is written, then the folder is
renamed. So an entry without a manifest that fits is damaged, and a building folder whose lock is free was left by a
process that died.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from codir.errors import RunError
from codir.manifest import entry as facts_of
from codir.manifest import fault_by
from codir.storage import human_bytes, require_disk, write_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.json"
_BUILDING = ".building-"
_DEAD_WITHOUT_LOCKS = (
    86_400.0  # seconds after which a building folder counts as left over where there are no locks
)

Report = Callable[[str], None]


def default_cache_folder() -> Path:
    """Returns the folder named by CODIR_CACHE, or ~/.cache/codir."""
    return Path(os.environ.get("CODIR_CACHE") or Path.home() / ".cache" / "codir").expanduser()


def fault_of(entry: Path, only: Collection[str] | None = None) -> str | None:
    """Reads every file of an entry once; returns what is wrong with it, or None if it is whole.

    Args:
        entry: its folder.
        only: names of the files to look at; None looks at all.
    """
    return fault_by(entry / MANIFEST, only)


def _lock_file(path: Path) -> BinaryIO:
    try:
        return open(path, "a+b")
    except PermissionError:  # made by another user of a shared cache; a lock does not need more than reading
        return open(path, "rb")


@contextlib.contextmanager
def building_lock(folder: Path, name: str, report: Report, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of one entry for the block; yields whether it is held.

    The lock is the operating system's and ends with the process. Where there are none (Windows, some network disks)
    the block runs without: two builders then both work, and the first one's rename counts.

    Args:
        folder: the cache folder.
        name: the entry.
        report: is told if another process holds it.
        wait: wait for the other process; False yields False at once.
    """
    with _lock_file(folder / f".lock-{name}") as file:
        told = False
        held = True
        while fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not wait:
                    held = False
                    break
                if not told:
                    report(
                        f"Another process is computing the same teacher's outputs in {folder}; waiting for it."
                    )
                    told = True
                time.sleep(0.1)
            except OSError:  # a disk without locks
                held = wait
                break
        yield held


def remove_leftovers(folder: Path, report: Report, own: str) -> None:
    """Removes building folders whose process has died; the caller holds the lock of the entry `own`."""
    for path in sorted(folder.glob(f"{_BUILDING}*")):
        found = re.fullmatch(rf"{re.escape(_BUILDING)}(.+)-[^-]+", path.name)
        if not found or not path.is_dir():
            continue
        locked = building_lock(folder, found[1], report, wait=False) if found[1] != own else nullcontext(True)
        with contextlib.suppress(OSError), locked as held:
            if not held or (fcntl is None and time.time() - path.stat().st_mtime < _DEAD_WITHOUT_LOCKS):
                continue
            size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
            shutil.rmtree(path)
            report(f"Removed {path}, left by a process that died while computing ({human_bytes(size)}).")


def remove_entry(entry: Path, locked: bool, lock: str | None = None) -> None:
    """Removes a damaged entry, unless another process is about to replace it or just has.

    Args:
        entry: its folder.
        locked: whether the caller holds its lock.
        lock: the name of its lock, where that is not its own.

    Raises:
        RunError: the file system does not let it.
    """
    try:
        name = lock or entry.name
        with (
            nullcontext(True) if locked else building_lock(entry.parent, name, lambda _: None, wait=False)
        ) as held:
            if held and fault_of(entry) is not None:
                shutil.rmtree(entry)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(
            f"The damaged cache {entry} cannot be removed: {error.strerror or error}. Remove it yourself, or choose "
            "another cache folder (CODIR_CACHE)."
        ) from error


@contextlib.contextmanager
def new_entry(
    folder: Path,
    name: str,
    needed: int,
    damaged: Collection[Path],
    report: Report,
    lock: str | None = None,
) -> Iterator[EntryWriter]:
    """Gives the writer of one entry, after damaged and left-over ones are gone and the disk has been asked for room.

    Args:
        folder: the cache folder.
        name: the entry; its lock is held by the caller.
        needed: bytes it will take.
        damaged: entries in the way, to be removed.
        report: is told about what a dead process left.
        lock: the name of the lock that the caller holds, where it is not the entry's; damaged entries have it, too.

    Raises:
        RunError: the disk is too small, or something damaged cannot be removed.
    """
    for path in damaged:
        remove_entry(path, locked=lock is not None or path.name == name)
    remove_leftovers(folder, report, own=lock or name)
    require_disk(folder, needed, "the teacher's cache")
    with EntryWriter(folder, name, lock) as writer:
        yield writer


class EntryWriter:
    """One entry under construction: `create` its arrays, fill them, then `finish`.

    Args:
        folder: the cache folder.
        name: the entry; its lock is held by the caller.
        lock: the name of that lock, where it is not the entry's.

    Used as a context manager it removes what was begun if the block raises.
    """

    def __init__(self, folder: Path, name: str, lock: str | None = None):
        self.target = folder / name
        self.place = Path(tempfile.mkdtemp(dir=folder, prefix=f"{_BUILDING}{lock or name}-"))
        self.arrays: dict[str, np.memmap] = {}

    def __enter__(self) -> EntryWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.arrays.clear()
        shutil.rmtree(self.place, ignore_errors=True)  # after finish() there is nothing left of it

    def create(self, name: str, shape: tuple[int, ...], dtype: type) -> np.memmap:
        """Makes the file `name`.npy with its space on the disk reserved, and returns it as a writable memory map.

        Raises:
            RunError: the disk is full. (Without the reservation a full disk would kill the process later, with SIGBUS.)
        """
        path = self.place / f"{name}.npy"
        try:
            array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            if hasattr(os, "posix_fallocate"):
                with open(path, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise RunError(
                f"Cannot write the cache file {path}: {error.strerror or error}. Free some space, choose another "
                "cache folder (CODIR_CACHE), or go without (--no-cache)."
            ) from error
        self.arrays[name] = array
        return array

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Syncs all files, writes the manifest with `facts` in it, and puts the entry in its place."""
        files: dict[str, Any] = {}
        for name in list(self.arrays):
            array = self.arrays.pop(name)
            array.flush()
            path = self.place / f"{name}.npy"
            _sync(path)
            files[path.name] = {**facts_of(path), "shape": list(array.shape)}
            del array  # unmapped: Windows renames no folder with mapped files
        write_json(self.place / MANIFEST, {**facts, "files": files})
        os.chmod(self.place, 0o755)  # mkdtemp makes it private; a cache may be shared
        _sync(self.place)
        try:
            os.rename(self.place, self.target)
        except OSError as error:
            if fault_of(self.target) is not None:
                raise RunError(f"Cannot put the cache entry {self.target} in its place: {error}.") from error
        _sync(self.target.parent)


def _sync(path: Path) -> None:
    """Makes sure a file's or folder's content is on the disk (folders cannot be synced on Windows)."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
