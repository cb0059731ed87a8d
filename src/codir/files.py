"""Files and folders that others may be writing, too: locks, files written whole or not at all, outputs of a user's.

Everything temporary that codir puts into a folder is called `.codir-tmp-SOMETHING` and is locked by the process that
writes it. So whoever opens the folder later can tell what a killed process left, and sweeps it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, ParamSpec, TypeVar

import xxhash

from codir.errors import FolderInUseError, RunError

try:
    import fcntl
except ImportError:  # Windows: no advisory locks there, the lock file alone has to do
    fcntl = None  # type: ignore[assignment]

P = ParamSpec("P")
R = TypeVar("R")

TEMPORARY = ".codir-tmp-"
"""How the names of temporary files and folders, and of locks beside outputs, begin."""

LOCK = ".lock"
"""The file in a folder whose lock is the folder's."""

_TRIES = 200
# Room for what is written inside of a folder, in bytes of the path: `comparison/finetune/checkpoints/checkpoint-...`.
_ROOM = 240


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


# ---- locks -------------------------------------------------------------------------------------------------

_held: set[int] = set()


def _forget_locks() -> None:
    for handle in _held:
        os.close(handle)
    _held.clear()


# A lock lives as long as any process has its file open: a worker that outlived its parent would keep the folder locked.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


def try_lock(path: Path, make: bool = False) -> int | None:
    """Locks a file or folder (`make`: one that may be missing), without waiting, until `unlock` or the process's end.

    It is the lock of what has the name *now*: a file that another process removed or replaced meanwhile is not what
    the next one finds. Returns what `unlock` takes; None on a system or a disk without locks, where one has to do
    without. Raises `BlockingIOError` where another process holds it, `FileNotFoundError` for what is missing.
    """
    for _ in range(_TRIES):
        try:
            if make:
                path.parent.mkdir(parents=True, exist_ok=True)
            if fcntl is None:
                path.touch()
                return None
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT if make else os.O_RDONLY | os.O_NONBLOCK, 0o644)
            except PermissionError:  # another user's, in a shared folder; a lock needs no more than reading
                handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            if not make:
                raise
            continue  # whoever was refused here has just removed the folder it had made
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                _held.add(handle)
                return handle
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(handle)
            if isinstance(error, BlockingIOError):
                raise
            return None  # a disk without locks
        os.close(handle)  # the lock of a file that is no longer there keeps nobody out
        time.sleep(0.001)
    raise FileNotFoundError(path)


def unlock(handle: int | None) -> None:
    """Gives back what `try_lock` returned (in a forked process: nothing, since the lock is not its own)."""
    if handle in _held:
        _held.discard(handle)
        os.close(handle)


@contextlib.contextmanager
def exclusive(folder: str | Path) -> Iterator[None]:
    """Holds the lock of `folder` (made if missing, swept first); a second process gets a `FolderInUseError` at once."""
    place = real_path(folder)
    try:
        handle = try_lock(place / LOCK, make=True)
    except BlockingIOError as error:
        raise FolderInUseError(
            f"Another process is working in {folder}. Wait for it to end or choose another output folder."
        ) from error
    try:
        sweep(place)
        yield
    finally:
        unlock(handle)


def _new_temporary(folder: Path, directory: bool = False) -> tuple[Path, int | None]:
    """Makes a temporary file or folder in `folder`; returns it with its lock, by which it is kept."""
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
    path, lock = _new_temporary(parent, directory=True)
    try:
        yield path
    finally:
        remove(path)
        unlock(lock)


def sweep(folder: str | Path) -> None:
    """Removes the temporary files and folders that killed processes left in `folder`; those in use stay."""
    if fcntl is None:  # nothing tells a file in use from one that is not
        return
    with contextlib.suppress(OSError):
        for path in list(Path(folder).glob(f"{TEMPORARY}*")):
            with contextlib.suppress(OSError):
                if (handle := try_lock(path)) is not None:
                    remove(path)
                    unlock(handle)


def is_trace(name: str) -> bool:
    """Whether a name is that of a lock or of something temporary: a folder with nothing else counts as empty."""
    return name == LOCK or name.startswith(TEMPORARY)


def remove(path: Path) -> None:
    """Removes a file or a folder with what is in it, if it is there and that can be done."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


# ---- files written whole or not at all ---------------------------------------------------------------------


@contextlib.contextmanager
def whole_file(path: str | Path, mode: Literal["w", "wb"] = "wb") -> Iterator[IO[Any]]:
    """Yields a file (`w`: of UTF-8) that gets the name `path`, synced and renamed, if the block succeeds.

    A symbolic link is written through: it stays, and its target gets the content.
    """
    named, path = path, real_path(path)
    if path.exists() and not path.is_file():  # a pipe or a device would be replaced by a file
        raise IsADirectoryError(errno.EISDIR, "it is there and no regular file", str(named))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, lock = _new_temporary(path.parent)
    try:
        with open(temporary, mode, encoding="utf-8" if mode == "w" else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise
    finally:
        unlock(lock)


@contextlib.contextmanager
def whole_text_file(path: str | Path) -> Iterator[IO[str]]:
    """Yields a UTF-8 text file with the guarantees of `whole_file`; raises `RunError` where it cannot be written."""
    try:
        with whole_file(path, "w") as file:
            yield file
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror or error}.") from error


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes `content` with the guarantees of `whole_file`."""
    with whole_file(path) as file:
        file.write(content)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 `text` with the guarantees of `whole_file`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON with the guarantees of `whole_file`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file; raises `RunError` if it is damaged or cannot be read, `FileNotFoundError` if it is missing."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, lists nested too deep
        raise RunError(f"{path} is damaged and cannot be read as JSON: {error}") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}.") from error


def file_digest(path: str | Path) -> str:
    """Returns the 128-bit xxHash of a file's content, in hexadecimal (a fingerprint, not a signature)."""
    digest = xxhash.xxh3_128()
    part = memoryview(bytearray(1 << 20))  # filled again and again: half the time of new ones
    with open(path, "rb", buffering=0) as file:
        while length := file.readinto(part):
            digest.update(part[:length])
    return digest.hexdigest()


# ---- names and disks ---------------------------------------------------------------------------------------


def human_bytes(count: float) -> str:
    """Returns a byte count as people write it: `1.5 GB` (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def require_disk(folder: str | Path, needed: int, what: str) -> None:
    """Raises `RunError` unless the disk of `folder` has `needed` bytes (and 5 % over) free for `what`."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed * 1.05 > free:
        raise RunError(
            f"{what} needs {human_bytes(needed)} on the disk of {folder}, which has {human_bytes(free)} free. "
            "Free some space or choose a folder on another disk."
        )


def require_name(path: str | Path, folder: bool = False) -> None:
    """Raises `RunError` if there can be no file of that name, or no folder with codir's files in it."""
    what, inside = ("folder", "with the names of what is written inside of it ") if folder else ("file", "")
    try:
        os.stat(os.path.realpath(path) + "/x" * (_ROOM // 2 if folder else 0))
        return
    except ValueError:
        why = "it has a NUL character in it"
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            return
        why = f"{inside}it has more bytes than the file system takes"
    shown = str(path) if len(str(path)) <= 400 else f"{str(path)[:200]}...{str(path)[-100:]}"
    raise RunError(f"There can be no {what} {shown!r}: {why}. Choose another name.")


def require_writable(folder: str | Path) -> None:
    """Makes `folder` and proves that a file can be written there; raises `RunError` if not."""
    require_name(folder, folder=True)
    try:
        place = real_path(folder)
        place.mkdir(parents=True, exist_ok=True)
        probe, lock = _new_temporary(place)
        remove(probe)
        unlock(lock)
    except OSError as error:
        place = Path(folder)
        inside = next((each for each in (place, *place.parents) if each.is_file()), None)
        why = f"{inside} is a file" if inside is not None else error.strerror or error
        raise RunError(f"Cannot write to the folder {folder}: {why}. Choose another one.") from error


# ---- what is written where a user says ---------------------------------------------------------------------


def writes(
    argument: str = "output", *, inputs: tuple[str, ...] = (), option: str = "--output"
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets a function run under `output_file` for the file that its argument names; None names no file.

    The arguments `inputs` are files it reads, `option` is the argument's flag. A function without an argument
    `overwrite` may replace the file.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def alone(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            values = given.arguments
            for name in (argument, *inputs):
                values[name] = at_home(values[name])
            if values[argument] is None:
                return function(*given.args, **given.kwargs)
            read, replace = tuple(values[name] for name in inputs), values.get("overwrite", True)
            with output_file(values[argument], overwrite=replace, inputs=read, option=option):
                return function(*given.args, **given.kwargs)

        return alone

    return decorate


@contextlib.contextmanager
def output_file(path: str | Path, *, option: str = "--output", **allowed: Any) -> Iterator[Path]:
    """Holds the right to write a file for the block, which computes and writes it; arguments as for `check_file`.

    Of two processes that want to write the same file the second is refused at once, whatever names or symbolic links
    they reach it by. Folders that are missing are made, and removed again if nothing was written.
    """
    path = Path(path)
    check_file(path, option=option, **allowed)
    with held(path, option):
        check_file(path, option=option, **allowed)  # again: another process may have finished in between
        yield path


def check_file(
    path: Path,
    *,
    overwrite: bool = False,
    own: Callable[[Path], bool] | None = None,
    inputs: tuple[str | Path, ...] = (),
    option: str = "--output",
) -> None:
    """Raises `RunError` for an output that cannot or should not be written.

    Args:
        path: the file; a symbolic link stays, and its target is written.
        overwrite: the file may be there.
        own: says of a file that is there whether it may be replaced without `overwrite`.
        inputs: files that are read; the output may be none of them.
        option: the flag that names the file, for messages.
    """
    require_name(path)
    if path.is_dir():
        raise RunError(f"{path} is a folder. Give the name of the file to write.")
    if not path.exists():
        return
    if not path.is_file():
        raise RunError(f"{path} is a device or a pipe, which is never replaced. Choose another {option}.")
    if any(Path(each).exists() and path.samefile(each) for each in inputs):
        raise RunError(f"The output {path} is the input. Choose another {option}.")
    if not overwrite and (own is None or not own(path)):
        none = "" if own is None else " and is none of codir's"
        raise RunError(f"{path} exists already{none}. Choose another {option}, or allow it with --overwrite.")


@contextlib.contextmanager
def held(path: str | Path, option: str = "--output") -> Iterator[None]:
    """Holds the lock of an output, a file or a folder, for the block; it lies beside the output, not in it.

    Raises `FolderInUseError` where another process holds it.
    """
    place = real_path(path)
    made = [each for each in place.parents if not each.exists()]
    require_writable(place.parent)
    # a name that follows from the output's and is never too long
    lock = place.with_name(f"{TEMPORARY}{xxhash.xxh3_64_hexdigest(os.fsencode(place.name))}.lock")
    try:
        handle = try_lock(lock, make=True)
    except BlockingIOError as error:
        raise FolderInUseError(
            f"Another process is writing {path}. Wait for it to end or choose another {option}."
        ) from error
    try:
        sweep(place.parent)
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        unlock(handle)
        if not place.exists():
            with contextlib.suppress(OSError):  # up to the first that is not empty
                for folder in made:
                    folder.rmdir()
