"""What `import codir` and `codir --help` import, seen in a fresh process, and the public names."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import codir

HEAVY = {
    *("torch", "transformers", "datasets", "accelerate", "sklearn"),
    *("scipy", "numpy", "pandas", "pyarrow", "matplotlib"),
}
# One after the other in one process: nothing heavy may be there after the last.
LIGHT = """
import codir, contextlib, io, json, sys
dir(codir)
from codir import DistillConfig
from codir.cli.main import app
commands = ("finetune", "distill", "evaluate", "predict", "demo", "export", "study", "pretrain")
for arguments in (["--help"], ["--version"], ["recipes"], *([each, "--help"] for each in commands)):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        app(arguments)
"""


def imported_by(code: str) -> set[str]:
    """Runs `code` in a new interpreter and returns the top-level modules it imported."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{n.split('.')[0] for n in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_nothing_heavy_is_imported() -> None:
    assert not imported_by(LIGHT) & HEAVY
    assert "numpy" in imported_by("import numpy")


def test_python_m_codir_is_codir() -> None:
    result = subprocess.run([sys.executable, "-m", "codir", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == f"codir {codir.__version__}"


@pytest.mark.parametrize("workflow", ["finetune", "distill", "evaluate", "predict"])
def test_the_commands_call_the_workflows_as_they_are(workflow: str) -> None:
    # The command line's own tests replace the workflows; here the real signatures take the same arguments.
    calls: dict[str, tuple[tuple[object, ...], dict[str, object]]] = {
        "finetune": ((None,), {}),
        "distill": ((None,), {}),
        "evaluate": (("m", None, 32), {}),
        "predict": (
            ("m", "a", "b"),
            {"batch_size": 1, "text": None, "text_pair": None, "max_length": 4, "overwrite": True},
        ),
    }
    args, kwargs = calls[workflow]
    inspect.signature(getattr(codir, workflow)).bind(*args, **kwargs)


@pytest.mark.parametrize("name", codir.__all__)
def test_public_names_are_what_they_say(name: str) -> None:
    value = getattr(codir, name)
    assert value.__name__ == name
    assert callable(value)  # `codir.distill` is the function, not the module of that name
    assert name in dir(codir)


def test_the_names_for_type_checkers_are_those_imported_lazily() -> None:
    import ast
    from pathlib import Path

    tree = ast.parse(Path(codir.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert homes == codir._HOMES
    assert sorted(homes) == sorted(codir.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        codir.distil  # noqa: B018


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert version("codir") == codir.__version__
