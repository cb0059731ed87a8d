"""Files are written whole or not at all, folders are used by one process at a time, disks are checked first."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import xxhash

from codir.errors import FolderInUseError, RunError

try:
    import fcntl
except ImportError:  # Windows: no advisory locks there, the lock file alone has to do
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def whole_file(path: str | Path, mode: Literal["w", "wb"] = "wb") -> Iterator[IO[Any]]:
    """Yields a file that gets the name `path`, synced and renamed, if the block succeeds, and is deleted otherwise.

    Args:
        path: of the file; its folder is made if it is not there.
        mode: `wb` for bytes, `w` for UTF-8 text.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, mode, encoding="utf-8" if mode == "w" else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


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
    """Reads a JSON file; a damaged one raises `RunError` with the file and the line."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged and cannot be read as JSON: {error}") from error


def file_digest(path: str | Path) -> str:
    """Returns the 128-bit xxHash of a file's content, in hexadecimal (a fingerprint, not a signature)."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
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


def require_writable(folder: str | Path) -> None:
    """Makes `folder` and proves that a file can be written there; raises `RunError` if not."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".codir-probe-"):
            pass
    except OSError as error:
        place = Path(folder)
        inside = next((each for each in (place, *place.parents) if each.is_file()), None)
        why = f"{inside} is a file" if inside is not None else error.strerror or error
        raise RunError(f"Cannot write to the folder {folder}: {why}. Choose another one.") from error


_held: set[IO[str]] = set()


def _forget_locks() -> None:
    for file in _held:
        file.close()
    _held.clear()


# A lock lives as long as any process has its file open: a worker that outlived its parent would keep the folder locked.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


@contextlib.contextmanager
def exclusive(folder: str | Path) -> Iterator[None]:
    """Holds the lock of `folder` (made if missing) for the block; a second process gets a `RunError` at once.

    The lock is the operating system's: it ends with the process, however that ends.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / ".lock"
    with open(path, "a+", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise FolderInUseError(
                    f"Another process is working in {folder}. Wait for it to end or choose another output folder."
                ) from error
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)
