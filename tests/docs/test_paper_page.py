"""The page that leads from the paper to the code names only what exists."""

from __future__ import annotations

import re
from importlib import import_module

import pytest
from docs_pages import ROOT, pages, read, spans

from codir.config.library import load_recipe, recipe_names

NAMES = sorted(
    {
        (page, span)
        for page in pages()
        for span in spans(page)
        if re.fullmatch(r"codir(\.\w+)+", span) and span != "codir.yaml"
    }
)


def find(name: str) -> object:
    """Returns the module, or the attribute of one."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        module, _, attribute = name.rpartition(".")
        return getattr(find(module), attribute)


@pytest.mark.parametrize(("page", "name"), NAMES)
def test_names_of_the_code_can_be_imported(page: str, name: str) -> None:
    find(name)


def test_the_paper_page_names_enough() -> None:
    named = {name for page, name in NAMES if page == "docs/paper.md"}
    assert len(named) > 12
    page = read("docs/paper.md")
    for part in ("Eq. 1", "Eq. 2", "Eq. 3", "Eq. 4", "Eq. 5", "3.1", "3.3", "4.1", "4.2", "4.3", "4.4"):
        assert part in page, part
    for table in range(1, 6):
        assert f"codir reproduce table{table} " in page


def test_every_distilling_and_pretraining_recipe_of_the_paper_is_on_its_page() -> None:
    page = read("docs/paper.md")
    ours = {"mlm-head", "codir-plus"}  # a head for an encoder; the recipe chosen on held-out training data
    for name in recipe_names():
        assert name in ours or f"`{name}`" in page, f"{name} ({load_recipe(name).source})"


def test_tests_that_it_names_exist() -> None:
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(re.findall(r"`(test_\w+\.py)`", read("docs/paper.md"))) <= there


def test_recipes_named_after_the_word_recipe_exist() -> None:
    for name in re.findall(r"[Rr]ecipes? `([a-z-]+)`", read("docs/paper.md")):
        assert name in recipe_names(), name


def test_a_wrong_name_would_be_found() -> None:
    with pytest.raises(AttributeError):
        find("codir.losses.kd.no_such_loss")
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        find("codir.no_such_package.thing")
