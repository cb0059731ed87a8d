"""Files are written whole or not at all, their names and disks are checked first."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import xxhash

from codir.errors import RunError
from codir.locks import new_temporary, real_path, remove, unlock

# Room for what is written inside of a folder, in bytes of the path: `comparison/finetune/checkpoints/checkpoint-...`.
_ROOM = 240


@contextlib.contextmanager
def whole_file(path: str | Path, mode: Literal["w", "wb"] = "wb") -> Iterator[IO[Any]]:
    """Yields a file that gets the name `path`, synced and renamed, if the block succeeds, and is deleted otherwise.

    A symbolic link is written through: it stays, and its target gets the content.

    Args:
        path: of the file; its folder is made if it is not there.
        mode: `wb` for bytes, `w` for UTF-8 text.
    """
    named, path = path, real_path(path)
    if path.exists() and not path.is_file():  # a pipe or a device would be replaced by a file
        raise IsADirectoryError(errno.EISDIR, "it is there and no regular file", str(named))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, lock = new_temporary(path.parent)
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
    """Writes `content` to `path` by way of a temporary file beside it, synced and then renamed."""
    with whole_file(path) as file:
        file.write(content)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 `text` to `path` with the guarantees of `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON with the guarantees of `write_text`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
        RunError: it is damaged or cannot be read; names the file and the line.
        FileNotFoundError: it is not there.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (
        ValueError,
        RecursionError,
    ) as error:  # no JSON, no UTF-8, numbers too long, lists nested too deep
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


def human_bytes(count: float) -> str:
    """Returns a byte count as people write it: `1.5 GB` (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def require_disk(folder: str | Path, needed: int, what: str) -> None:
    """Raises `RunError` unless the disk that holds `folder` has `needed` bytes (and 5 % over) free.

    Args:
        folder: an existing folder or one that is to be made.
        needed: bytes that will be written.
        what: named in the message, for example "the teacher's cache".
    """
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
    """Raises `RunError` if there can be no file of that name, or no folder with anything in it.

    Args:
        path: of a file or a folder, there or not.
        folder: it is a folder's, so there must be room in the path for what is written inside.
    """
    full = os.path.realpath(path) if "\0" not in str(path) else ""
    room = _ROOM if folder else 0
    longest = os.pathconf("/", "PC_PATH_MAX") if hasattr(os, "pathconf") else 1 << 20
    why = None
    if not full:
        why = "it has a NUL character in it"
    elif len(os.fsencode(full)) + room >= longest:
        less = " less what is needed for the names inside of it" if folder else ""
        why = f"its path has {len(os.fsencode(full)):,} bytes, and {longest - 1:,} is the most{less}"
    else:
        try:
            os.stat(full)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                size = max(len(os.fsencode(part)) for part in Path(full).parts)
                why = f"it has {size:,} bytes, which is more than the file system takes"
    if why:
        shown = str(path) if len(str(path)) <= 400 else f"{str(path)[:200]}...{str(path)[-100:]}"
        raise RunError(
            f"There can be no {'folder' if folder else 'file'} {shown!r}: {why}. Choose another name."
        )


def require_writable(folder: str | Path) -> None:
    """Makes `folder` and proves that a file can be written there; raises `RunError` if not."""
    require_name(folder, folder=True)
    try:
        place = real_path(folder)
        place.mkdir(parents=True, exist_ok=True)
        probe, lock = new_temporary(place)
        remove(probe)
        unlock(lock)
    except OSError as error:
        place = Path(folder)
        inside = next((each for each in (place, *place.parents) if each.is_file()), None)
        why = f"{inside} is a file" if inside is not None else error.strerror or error
        raise RunError(f"Cannot write to the folder {folder}: {why}. Choose another one.") from error
