"""The page people look at: what a run or a study kept and gained, as one self-contained HTML file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codir.reports.make import report

__all__ = ["report"]


def __getattr__(name: str) -> Any:
    """Imports `report` on its first use."""
    if name != "report":
        raise AttributeError(f"module 'codir.reports' has no attribute {name!r}")
    from codir.reports.make import report

    return report
