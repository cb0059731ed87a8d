"""All commands and Python on the pages that export, measure and draw are run; see `test_commands.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from docs_runner import DEPLOYING, run_page


@pytest.mark.timeout(900)  # seconds each, unless the machine is busy
@pytest.mark.parametrize("page", DEPLOYING)
def test_what_a_page_shows_runs(
    page: str, here: Path, made_before: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_before(page)
    run_page(page, monkeypatch)
