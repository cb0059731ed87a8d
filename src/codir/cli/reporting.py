"""Failures that are not bugs end in one message and an exit code, without a traceback."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from typing import ParamSpec

import typer

from codir.errors import CodirError, ConfigError, InterruptedRunError, ProcessEndedError
from codir.settings import out_of_range

P = ParamSpec("P")

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, what shells expect

_DISK = {
    errno.ENOSPC: "the disk is full. Free some space or choose an output folder on another disk",
    errno.EDQUOT: "your disk quota is used up. Free some space or choose an output folder on another disk",
    errno.EROFS: "the file system is read-only. Choose another output folder",
    errno.ENAMETOOLONG: "that is longer than a name can be. Choose another one",
    errno.EACCES: "permission denied. Choose a folder you may read and write",
}


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Wraps a command: errors of the input or the machine become messages, bugs keep their traceback.

    Exit codes: 2 for a `CodirError` or a disk that cannot be written, 130 after Ctrl-C. Of several processes that
    torchrun started, which all find the same fault, the first one of a machine says it.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            # numbers that no flag can mean: not finite, or beyond what is counted anywhere
            for name, value in kwargs.items():
                if isinstance(value, int | float) and (problem := out_of_range(value)) is not None:
                    raise ConfigError(f"--{name.replace('_', '-')} is {value}: {problem}")
            command(*args, **kwargs)
        except ProcessEndedError as error:
            raise _exit(BAD_INPUT, f"Error: {error}", everywhere=True) from error
        except InterruptedRunError as error:
            raise _exit(INTERRUPTED, str(error)) from error
        except CodirError as error:
            raise _exit(BAD_INPUT, f"Error: {error}") from error
        except KeyboardInterrupt as error:
            hint = " The same command with --resume goes on from the last checkpoint." if "resume" in kwargs else ""
            raise _exit(INTERRUPTED, f"Stopped.{hint}") from error
        except OSError as error:
            if error.errno not in _DISK:
                raise
            place = f"{str(error.filename)[:300]}: " if error.filename else ""
            raise _exit(BAD_INPUT, f"Error: {place}{_DISK[error.errno]}.") from error

    return wrapped


def _exit(code: int, message: str, everywhere: bool = False) -> typer.Exit:
    if int(os.environ.get("LOCAL_RANK") or 0) > 0 and not everywhere:
        return typer.Exit(code)
    from codir.printing import errors

    errors().print(message, style="red", soft_wrap=True)
    return typer.Exit(code)
