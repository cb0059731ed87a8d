"""Imports only go down the floors of ARCHITECTURE.md, which is read here so that the page stays true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "codir"
# Not on a floor: the package's front door and `python -m codir`, which may import everything and are imported by
# others for `__version__` alone.
FRONT = {"codir", "codir.__main__"}


Floor = tuple[int, int]


def read_floors(page: str) -> dict[str, Floor]:
    """Returns (floor, place in its row) of each package in the table's rows `| 4 | `codir.losses` | ... |`."""
    floors: dict[str, Floor] = {}
    for row in re.findall(r"^\| *(\d+) *\|([^|]*)\|", page, flags=re.MULTILINE):
        for place, name in enumerate(re.findall(r"`(codir\.\w+)`", row[1])):
            assert name not in floors, f"{name} is in the table twice"
            floors[name] = (int(row[0]), place)
    return floors


def imports_of(source: str, module: str, is_package: bool) -> list[tuple[int, str]]:
    """Returns (line, full name) of everything from codir that a file imports, wherever in the file it does so.

    `from codir.models import student` is given as `codir.models.student`: for the floors only the second part counts.
    Also seen: imports inside functions and under TYPE_CHECKING, relative ones, `import_module("codir. ...")`.
    """
    package = module if is_package else module.rpartition(".")[0]
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                found.append((node.lineno, node.args[0].value))
    return [(line, name) for line, name in found if name.split(".")[0] == "codir"]


def violations(source: str, module: str, floors: dict[str, Floor], is_package: bool = False) -> list[str]:
    """Returns one message for each import of `module` that goes up, or sideways into another package."""
    if module in FRONT:
        return []
    own = ".".join(module.split(".")[:2])
    messages = []
    for line, name in imports_of(source, module, is_package):
        if name == "codir.__version__":
            continue
        target = ".".join(name.split(".")[:2])
        if target == own:
            continue
        if target not in floors:
            messages.append(f"{module}, line {line}: imports {name}, which stands on no floor")
        elif floors[target] >= floors[own]:
            messages.append(
                f"{module}, line {line}: imports {name} (floor {floors[target][0]}) from floor {floors[own][0]}"
            )
    return messages


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = list(path.relative_to(SOURCE.parent).with_suffix("").parts)
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


FLOORS = read_floors((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))


def test_imports_only_go_down() -> None:
    found = []
    for module, path in modules():
        found += violations(path.read_text(encoding="utf-8"), module, FLOORS, path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_the_table_names_what_is_on_disk() -> None:
    on_disk = {".".join(module.split(".")[:2]) for module, _ in modules()} - FRONT
    assert set(FLOORS) == on_disk


def test_only_the_ground_floors_know_no_transformers() -> None:
    for module, path in modules():
        own = ".".join(module.split(".")[:2])
        if module not in FRONT and FLOORS[own][0] <= 1:
            imported = set()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported.add((node.module or "").split(".")[0])
            assert not imported & {"transformers", "datasets", "accelerate"}, module


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("codir.contrast.nce", "from codir.models.representations import represent"),
        ("codir.contrast.nce", "from codir import models"),
        ("codir.contrast.nce", "import codir.models"),
        ("codir.contrast.nce", "def f():\n    from codir.cli.main import app"),
        (
            "codir.contrast.nce",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import codir.training.trainer",
        ),
        ("codir.contrast.nce", "from ..losses import base"),
        ("codir.contrast.nce", "from importlib import import_module\nimport_module('codir.data.glue')"),
        ("codir.contrast.nce", "from codir import distill"),
        ("codir.files", "from codir.contrast import nce"),
        ("codir.errors", "from codir.files import write_text"),
    ],
)
def test_the_checker_sees_an_import_that_goes_up_or_round(module: str, source: str) -> None:
    assert violations(source, module, FLOORS)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("codir.losses.crd", "from codir.contrast.infonce import info_nce"),
        ("codir.losses.crd", "from .base import Objective"),
        ("codir.losses.crd", "from codir.losses.base import Objective\nimport torch"),
        ("codir.files", "from codir.errors import RunError"),
        ("codir.cli.main", "from codir import __version__"),
        ("codir.__main__", "from codir.cli.main import run"),
    ],
)
def test_the_checker_lets_imports_go_down(module: str, source: str) -> None:
    assert not violations(source, module, FLOORS)


def test_the_checker_knows_where_a_relative_import_starts() -> None:
    assert imports_of("from . import nce", "codir.contrast", is_package=True) == [(1, "codir.contrast.nce")]
    assert imports_of("from .. import models", "codir.contrast.bank", False) == [(1, "codir.models")]


def test_a_package_listed_twice_is_noticed() -> None:
    with pytest.raises(AssertionError, match="twice"):
        read_floors("| 1 | `codir.a` | x |\n| 2 | `codir.a` | y |\n")


# What prints past `codir.printing`, where a label in square brackets or a console without `±` would end a command.
_PRINTERS = {"print", "pprint", "basicConfig", "StreamHandler"}
_ECHOES = {"echo", "secho", "tqdm"}


def printers(source: str) -> list[str]:
    """Returns one message for each line of a file that makes a console of its own or prints by another way."""
    found = []
    kinds: set[str] = set()  # classes of rich's that `codir.printing` hands on as types
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if names == ["codir.printing"]:
                kinds |= {alias.name for alias in node.names if alias.name[0].isupper()}
        if {name.split(".")[0] for name in names} & {"rich", "tqdm"}:
            found.append(f"line {node.lineno}: imports {', '.join(names)}")  # type: ignore[attr-defined]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        last = called.rpartition(".")[2]
        if called in _PRINTERS | kinds or last in _ECHOES | {"basicConfig", "StreamHandler"}:
            found.append(f"line {node.lineno}: calls {called}")
        if re.fullmatch(r"sys\.(__)?std(out|err)(__)?(\.buffer)?\.write(lines)?", called):
            found.append(f"line {node.lineno}: calls {called}")
    return found


def test_only_one_file_prints() -> None:
    found = {
        module: printers(path.read_text(encoding="utf-8")) for module, path in modules() if module != "codir.printing"
    }
    assert not any(found.values()), f"print by `codir.printing`: {found}"


@pytest.mark.parametrize(
    "source",
    [
        "from rich.console import Console",
        "def f():\n    import rich.table",
        "from tqdm import tqdm",
        "print(1)",
        "import sys\nsys.stdout.write('x')",
        "import typer\ntyper.echo('x')",
        "import logging\nlogging.basicConfig()",
        "from codir.printing import Console\nConsole()",
    ],
)
def test_the_checker_sees_another_way_to_print(source: str) -> None:
    assert printers(source)


def test_the_checker_lets_the_one_way_pass() -> None:
    assert not printers("from codir.printing import terminal\nterminal().print('x')\nfigure.text(1, 2, 'x')")
