"""Who is at work where: locks that end with their process, and temporary files that are swept when it is gone.

Everything temporary that codir puts into a folder is called `.codir-tmp-SOMETHING`, a short name of its own, and is
locked by the process that writes it. So whoever opens the folder later can tell what a killed process left, and sweeps
it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codir.errors import FolderInUseError, RunError

try:
    import fcntl
except ImportError:  # Windows: no advisory locks there, the lock file alone has to do
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".codir-tmp-"
"""How the names of temporary files and folders, and of locks beside outputs, begin."""

LOCK = ".lock"
"""The file in a folder whose lock is the folder's."""

# What versions before this naming left: `.run.json.abcd1234`, `.codir-probe-abcd1234`.
_OLD_TEMPORARY = re.compile(r"\.[\w-]+\.(json|yaml|md|html|png|safetensors)\.[a-z0-9_]{8}|\.codir-probe-.+")
_TRIES = 200


def at_home(path: Any) -> Any:
    """Returns a path, as text or `Path`, with the user's folder in the place of a leading `~`; all else as it is.

    A shell does that for most of what is typed, not for `--output=~/runs`, and nobody does it in files and in Python.
    """
    if isinstance(path, str | Path) and str(path).startswith(("~/", "~\\")):
        return type(path)(os.path.expanduser(path))
    return path


def real_path(path: str | Path) -> Path:
    """Returns where a path leads, through symbolic links, there or not; raises `RunError` for links in a circle."""
    found = os.path.realpath(path)
    if os.path.islink(found):
        raise RunError(f"{path} is a symbolic link that leads in a circle. Choose another name.")
    return Path(found)


_held: set[int] = set()


def _forget_locks() -> None:
    for handle in _held:
        os.close(handle)
    _held.clear()


# A lock lives as long as any process has its file open: a worker that outlived its parent would keep the folder locked.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


def try_lock(path: Path, make: bool = False) -> int | None:
    """Locks a file or folder, without waiting, for as long as this process lives or until `unlock`.

    The lock is the operating system's: it ends with the process, however that ends. It is the lock of what has the name
    *now*: a file that another process removed or replaced meanwhile is not what the next one finds.

    Args:
        path: the file or folder.
        make: makes the file, and the folders above it, if it is not there.

    Returns:
        What `unlock` takes; None on a system or a disk without locks, where one has to do without.

    Raises:
        BlockingIOError: another process holds it.
        FileNotFoundError: there is no such file and `make` is false.
    """
    if fcntl is None:
        if make:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return None
    flags = os.O_RDWR | os.O_CREAT if make else os.O_RDONLY | os.O_NONBLOCK
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(0.001)
        try:
            if make:
                path.parent.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(path, flags, 0o644)
            except PermissionError:  # another user's, in a shared folder; a lock needs no more than reading
                handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            if make:
                continue  # whoever was refused here has just removed the folder it had made
            raise
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            now = os.stat(path)
        except FileNotFoundError:
            now = None
        except OSError as error:
            os.close(handle)
            if isinstance(error, BlockingIOError):
                raise
            return None  # a disk without locks
        if now is not None and os.path.samestat(os.fstat(handle), now):
            _held.add(handle)
            return handle
        os.close(handle)  # the lock of a file that is no longer there keeps nobody out
    raise FileNotFoundError(path)


def unlock(handle: int | None) -> None:
    """Gives back what `try_lock` returned (in a forked process: nothing, since the lock is not its own)."""
    if handle in _held:
        _held.discard(handle)
        os.close(handle)


@contextlib.contextmanager
def exclusive(folder: str | Path) -> Iterator[None]:
    """Holds the lock of `folder` (made if missing) for the block; a second process gets a `FolderInUseError` at once.

    What killed processes left in the folder is swept first.
    """
    place = real_path(folder)
    try:
        handle = try_lock(place / LOCK, make=True)
    except BlockingIOError as error:
        raise FolderInUseError(
            f"Another process is working in {folder}. Wait for it to end or choose another output folder."
        ) from error
    try:
        sweep(place, old=True)
        yield
    finally:
        unlock(handle)


def new_temporary(folder: Path, directory: bool = False) -> tuple[Path, int | None]:
    """Makes a temporary file or folder in `folder`; returns it with its lock (for `unlock`), by which it is kept."""
    for _ in range(_TRIES):
        if directory:
            path = Path(tempfile.mkdtemp(dir=folder, prefix=TEMPORARY))
        else:
            handle, name = tempfile.mkstemp(dir=folder, prefix=TEMPORARY)
            os.close(handle)
            path = Path(name)
        try:
            return path, try_lock(path)
        except (BlockingIOError, FileNotFoundError):  # somebody swept it before it was locked
            remove(path)
    raise RunError(f"No temporary file can be made in {folder}. Try again.")


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yields a new folder in `parent`, which goes after the block unless it was renamed, or with the next sweep."""
    path, lock = new_temporary(parent, directory=True)
    try:
        yield path
    finally:
        remove(path)
        unlock(lock)


def sweep(folder: str | Path, old: bool = False) -> None:
    """Removes the temporary files and folders that killed processes left in `folder`; those in use stay.

    Args:
        folder: may be missing; the folders inside of it are not looked into.
        old: also what earlier versions left, whose files have no lock: the folder must be locked by the caller.
    """
    if fcntl is None:  # nothing tells a file in use from one that is not
        return
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            path = Path(entry.path)
            if entry.name.startswith(TEMPORARY):
                with contextlib.suppress(OSError):
                    if (handle := try_lock(path)) is not None:
                        remove(path)
                        unlock(handle)
            elif old and _OLD_TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                path.unlink(missing_ok=True)


def is_trace(name: str) -> bool:
    """Whether a name is that of a lock or of something temporary: a folder with nothing else counts as empty."""
    return name == LOCK or name.startswith(TEMPORARY) or _OLD_TEMPORARY.fullmatch(name) is not None


def remove(path: Path) -> None:
    """Removes a file or a folder with what is in it, if it is there and that can be done."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
