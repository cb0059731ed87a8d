"""Ctrl-C and SIGTERM as a wish to stop after this step, not as the end of the process."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Whether somebody has asked the training to stop.

    Attributes:
        number: of the first signal that has come; 0 for none.
    """

    def __init__(self) -> None:
        self.number = 0

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
        if self.number:
            raise KeyboardInterrupt
        self.number = number


def signal_name(number: int) -> str:
    """Returns `SIGTERM` for 15."""
    return signal.Signals(number).name
