"""What the tests of faults share: the command line as it is installed, and small files and models to give it.

Nothing of codir is imported here: these tests speak to the command line and to the names of `codir` alone, so that they
outlive every rebuilding inside.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

GOOD, BAD = ("good", "great", "likes"), ("bad", "awful", "hates")
_WORDS = "the a an one this that film movie book song was is cat dog bird man woman and or of in on"
_FILLER = _WORDS.split()


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, what it wrote to standard output and to standard error."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Everything it said, output before errors, with every run of blanks and line ends as one blank."""
        return " ".join(f"{self.out} {self.err}".split())

    @property
    def message(self) -> str:
        """The one error message; fails where there is none, or a traceback in its place."""
        assert "Traceback" not in self.text, self.text
        assert self.text.count("Error:") == 1, self.text
        return self.text[self.text.index("Error:") :]


def flags(**values: Any) -> list[Any]:
    """Returns `--flag value` for each: `flags(train=file, no_baseline=True)`; a list gives a flag several times."""
    given: list[Any] = []
    for name, value in values.items():
        flag = f"--{name.strip('_').replace('_', '-')}"
        for each in value if isinstance(value, list | tuple) else [value]:
            given += [flag] if each is True else [] if each is None else [flag, each]
    return given


def codir(*arguments: Any, cwd: Path | None = None, **more: Any) -> Outcome:
    """Runs the installed command `codir` inside this process (an import of torch costs seconds in a new one).

    Keywords are flags: `codir("evaluate", model, validation=file)`.
    """
    arguments = (*arguments, *flags(**more))
    (command,) = entry_points(group="console_scripts", name="codir")
    run = command.load()
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["codir", *map(str, arguments)]
    code: Any = 0
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            contextlib.chdir(cwd or os.getcwd()),
        ):
            run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return Outcome(code, out.getvalue(), err.getvalue())


def succeeded(*arguments: Any, cwd: Path | None = None, **more: Any) -> Outcome:
    """Runs `codir` and fails unless it ends well."""
    done = codir(*arguments, cwd=cwd, **more)
    assert done.code == 0, done.text
    return done


def refused(*arguments: Any, leaves_nothing: Path | None = None, cwd: Path | None = None, **more: Any) -> str:
    """Runs `codir`, which has to refuse with exit code 2 and one sentence; returns that sentence.

    `leaves_nothing` is an output that must be as it was (same names, or still missing) after the refusal.
    """
    before = _names(leaves_nothing)
    done = codir(*arguments, cwd=cwd, **more)
    assert done.code == 2, f"exit code {done.code}: {done.text}"
    assert _names(leaves_nothing) == before, "the refused command left something behind"
    return done.message


def codir_process(
    *arguments: Any, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 240
) -> Outcome:
    """Runs `codir` in a process of its own: for encodings, kills and everything else that a process has for itself."""
    done = subprocess.run(
        [sys.executable, "-m", "codir", *map(str, arguments)],
        capture_output=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        timeout=timeout,
        check=False,
    )
    return Outcome(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def _names(folder: Path | None) -> list[str] | None:
    """Returns the names below a folder, or None where nothing is."""
    if folder is None or not folder.exists():
        return None
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".lock")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], encoding: str = "utf-8", delimiter: str = ",") -> Path:
    """Writes rows with a header."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def sentences(
    count: int, seed: int = 0, labels: Sequence[str] = ("negative", "positive"), pairs: bool = False
) -> list[dict[str, str]]:
    """Returns rows `text`, (`text_pair`), `label` that a tiny model learns: one word tells the class.

    The words are those of `tiny_tokenizer`; the classes take turns, and of more than two all odd ones are good.
    """
    generator = random.Random(seed)
    rows = []
    for number in range(count):
        label = labels[number % len(labels)]
        words = generator.choices(_FILLER, k=generator.randint(2, 9))
        words.insert(generator.randint(0, len(words)), generator.choice(GOOD if number % 2 else BAD))
        row = {"text": " ".join(words)}
        if pairs:
            row["text_pair"] = " ".join(generator.choices(_FILLER, k=3))
        rows.append({**row, "label": label})
    return rows


# Small enough that a training takes about a second.
QUICK = (
    *("--epochs", "1", "--batch-size", "8", "--learning-rate", "3e-3"),
    *("--precision", "fp32", "--max-length", "32"),
)


@contextlib.contextmanager
def unchanged(*paths: Path) -> Iterator[None]:
    """Fails if what a file holds, or whether it is there, is another after the block."""
    before = [path.read_bytes() if path.is_file() else None for path in paths]
    yield
    assert [path.read_bytes() if path.is_file() else None for path in paths] == before
