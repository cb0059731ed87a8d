"""Ends processes at a chosen moment, as kill -9 would."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def die(*args: Any, **kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(target: Any, name: str, number: int) -> Callable[[], None]:
    """Returns what makes the n-th call of `target.name` (from 1) the last thing a process does."""

    def arm() -> None:
        function = getattr(target, name)
        calls = [0]

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == number:
                die()
            return function(*args, **kwargs)

        setattr(target, name, wrapped)

    return arm


def begin(work: Callable[[], Any]) -> int:
    """Starts `work` in a child process and returns its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def end(child: int) -> int:
    """Waits for a child process; returns its exit code, or minus the signal that ended it."""
    for _ in range(1200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child process did not end")


def forked(work: Callable[[], Any]) -> int:
    """Does both."""
    return end(begin(work))
