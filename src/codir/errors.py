"""Errors a user can act on: each names the value, the place and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class CodirError(Exception):
    """Base of every error that is the input's or the machine's fault, not a bug in codir.

    The command line prints it without a traceback and exits with code 2.
    """


class ConfigError(CodirError):
    """A setting is unknown, out of range, or does not fit with another one."""


class DataError(CodirError):
    """A data file or data set cannot be used: missing column, unreadable line, bad label, too few rows."""


class ModelError(CodirError):
    """A model folder or architecture cannot be used as asked."""


class RunError(CodirError):
    """A run folder is in the way, damaged, locked, or cannot be written."""


class FolderInUseError(RunError):
    """Another process works in the folder."""


class ProcessEndedError(RunError):
    """Another process of a training in several processes has ended, so this one cannot go on."""


class TrainingDivergedError(CodirError):
    """A loss term or the weights stopped being finite; the message names the term and the last good checkpoint."""


class InterruptedRunError(CodirError):
    """The run was stopped by Ctrl-C or a signal after saving a checkpoint; `--resume` goes on from there."""


def nearest(value: str, known: Iterable[str]) -> str:
    """Returns `" (did you mean 'x'?)"` for the known name closest to `value`, or an empty string."""
    match = get_close_matches(value, list(known), n=1, cutoff=0.6)
    return f" (did you mean {match[0]!r}?)" if match else ""
