"""One rule for what is written where a user says: refused at once, or this process's alone until it is there."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

import xxhash

from codir.errors import FolderInUseError, RunError
from codir.locks import TEMPORARY, at_home, real_path, sweep, try_lock, unlock
from codir.storage import require_name, require_writable

P = ParamSpec("P")
R = TypeVar("R")


def writes(
    argument: str = "output", *, inputs: tuple[str, ...] = (), folder: bool = False, option: str = "--output"
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets a function run under `output_file` for the file that its argument names; None names no file.

    Args:
        argument: of the function, the file it writes; `wanted.output` is an attribute of an argument. Where the
            function has no argument `overwrite`, it may replace.
        folder: it is a folder, into which several files are written: it is only `held`.
        inputs: arguments that are files it reads.
        option: the flag of the command line that gives the argument, for messages.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def alone(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            values = given.arguments
            first, *inner = argument.split(".")
            for name in (first, *inputs):
                values[name] = at_home(values[name])
            args, kwargs = given.args, given.kwargs  # type: ignore[assignment]
            path = functools.reduce(getattr, inner, values[first])
            if path is None:
                return function(*args, **kwargs)
            if folder:
                require_name(path, folder=True)
                with held(path, option):
                    return function(*args, **kwargs)
            with output_file(
                path,
                overwrite=values.get("overwrite", True),
                inputs=tuple(values[name] for name in inputs),
                option=option,
            ):
                return function(*args, **kwargs)

        return alone

    return decorate


def beside(path: Path, ending: str) -> Path:
    """Returns a hidden name beside a file or folder that follows from its name and is never too long."""
    return path.with_name(f"{TEMPORARY}{xxhash.xxh3_64_hexdigest(os.fsencode(path.name))}.{ending}")


@contextlib.contextmanager
def output_file(
    path: str | Path,
    *,
    overwrite: bool = False,
    own: Callable[[Path], bool] | None = None,
    inputs: tuple[str | Path, ...] = (),
    option: str = "--output",
) -> Iterator[Path]:
    """Holds the right to write a file for the block, which computes and writes it.

    Of two processes that want to write the same file the second is refused at once, whatever names or symbolic links
    they reach it by. Folders that are missing are made, and removed again if nothing was written.

    Args:
        path: the file; a symbolic link stays, and its target is written.
        overwrite: the file may be there.
        own: says of a file that is there whether it may be replaced without `overwrite`.
        inputs: files that are read; the output may be none of them.
        option: the flag that names the file, for messages.

    Raises:
        RunError: there can be no such file, a folder, an input or something else is in its way, or the folder cannot be
            written to.
        FolderInUseError: another process is writing it.
    """
    path = Path(path)
    check_file(path, overwrite=overwrite, own=own, inputs=inputs, option=option)
    with held(path, option):
        # again: another process may have finished in between
        check_file(path, overwrite=overwrite, own=own, inputs=inputs, option=option)
        yield path


def check_file(
    path: Path,
    *,
    overwrite: bool = False,
    own: Callable[[Path], bool] | None = None,
    inputs: tuple[str | Path, ...] = (),
    option: str = "--output",
) -> None:
    """Raises `RunError` for an output that cannot or should not be written; arguments as for `output_file`."""
    require_name(path)
    if path.is_dir():
        raise RunError(f"{path} is a folder. Give the name of the file to write.")
    if not path.exists():
        return
    if not path.is_file():
        raise RunError(f"{path} is a device or a pipe, which is never replaced. Choose another {option}.")
    if any(Path(each).exists() and path.samefile(each) for each in inputs):
        raise RunError(f"The output {path} is the input. Choose another {option}.")
    if overwrite or (own is not None and own(path)):
        return
    if own is not None:
        raise RunError(
            f"{path} exists and is none of codir's. Choose another {option}, or add --overwrite to replace it."
        )
    raise RunError(f"{path} exists already. Choose another {option}, or allow it with --overwrite.")


@contextlib.contextmanager
def held(path: str | Path, option: str = "--output") -> Iterator[None]:
    """Holds the lock of an output, a file or a folder, for the block; it lies beside the output, not in it.

    Raises:
        RunError: the folder around it cannot be written to.
        FolderInUseError: another process holds it.
    """
    place = real_path(path)
    made = [each for each in place.parents if not each.exists()]
    require_writable(place.parent)
    lock = beside(place, "lock")
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
