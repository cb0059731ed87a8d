"""The reader's world, a copy for each page."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from docs_runner import BEFORE, run, smaller
from docs_world import TEST, hub, write_world

from codir.deploy.submission import ROWS


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    write_world(folder)
    return folder


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a copy of the world the current folder."""
    folder = tmp_path / "reader"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CODIR_CACHE", str(folder / "cache"))
    monkeypatch.setattr(datasets, "load_dataset", hub)
    for name in ROWS:  # the official test sets have up to 390,965 rows
        monkeypatch.setitem(ROWS, name, TEST)
    return folder


@pytest.fixture(scope="session")
def made_before(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], None]:
    """Makes, in the current folder, the runs that a page goes on from; a copy where another page had the same made."""
    kept = tmp_path_factory.mktemp("before")

    def make(page: str) -> None:
        wanted = BEFORE.get(page, ())
        copy = kept / hashlib.sha256("\n".join(wanted).encode()).hexdigest()
        if copy.is_dir():
            shutil.copytree(copy, "runs")
        elif wanted:
            for command in wanted:
                run(smaller(command))
            shutil.copytree("runs", copy)

    return make
