"""All commands and Python on the pages are run, in order, page by page, in a small made-up world.

What a reader has, the world has: models under the names of the pages (a folder of that name wins over the Hub), GLUE,
files. All of it is tiny, and `docs_runner.SMALLER` adds what makes a command take a second instead of hours. What
cannot run here stands in `docs_runner.NOT_RUN` or `NOT_OURS` with its reason; `test_shown_commands.py` checks all of
them for flags that do not exist, and fails for a command that is neither run nor listed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from docs_runner import run_page, with_something_to_run

# A minute each; what their commands are made of is tested elsewhere.
LONG = ("docs/choosing.md", "docs/deployment.md", "docs/index.md", "docs/studies.md")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] * (page in LONG)) for page in with_something_to_run()],
)
def test_what_a_page_shows_runs(
    page: str, here: Path, made_before: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_before(page)
    run_page(page, monkeypatch)
