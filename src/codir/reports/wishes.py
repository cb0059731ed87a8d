"""What a report is asked for beside its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wishes:
    """What a report is asked for beside its folder.

    Attributes:
        latency: file of `codir latency --output`; None takes `latency.json` in the folder, if there is one.
        exported: folders of `codir export`.
        data_dir: folder of the task's data, instead of the one that the run names.
        examples: validation examples that models are run over.
        models: whether models are run at all.
    """

    latency: Path | None = None
    exported: Sequence[Path] = ()
    data_dir: Path | None = None
    examples: int = 1000
    models: bool = True
