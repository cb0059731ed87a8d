"""Ctrl-C and SIGTERM as a wish to stop after this step, not as the end of the process."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Whether somebody has asked the training to stop, and by which signal."""

    def __init__(self) -> None:
        self.name: str | None = None

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.name is not None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Notes the first SIGINT or SIGTERM that comes during the block; a second one stops at once."""
        before = {}
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
