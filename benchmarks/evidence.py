"""The evidence of docs/evidence.md and docs/negatives.md: studies, their results in the repository, figures and tables.

    python benchmarks/evidence.py list
    python benchmarks/evidence.py teachers --data-dir GLUE --output runs/teachers
    python benchmarks/evidence.py run NAME --data-dir GLUE --teachers runs/teachers --output studies/NAME [--workers 2]
    python benchmarks/evidence.py collect NAME studies/NAME
    python benchmarks/evidence.py draw

`run` fills the paths into benchmarks/evidence/NAME.yaml and starts the study, or goes on with it; arguments it does
not know are handed to `codir study`. `collect` makes benchmarks/evidence/results/NAME.json out of what is finished.
What ran elsewhere (`run NAME --part seeds=2,3 ...`) is brought together by naming several folders, or beside them the
file of what was collected before, or of another study that has some of the same trials. `draw` makes the figures
(docs/img/evidence-*.svg) and the blocks between markers in the two pages out of all results (and
evidence/cola-sources.json, of cola_sources.py); it needs no study folder, no data and no model.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from codir.errors import CodirError, ConfigError

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "evidence" / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line says; returns the exit code."""
    options, more = _parser().parse_known_args(arguments)
    try:
        if more and options.command != "run":
            raise ConfigError(f"{options.command} does not know {' '.join(more)}.")
        return options.action(options, more)
    except CodirError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, action: object, text: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        found.set_defaults(action=action)
        return found

    command("list", _list, "say which studies there are, and how much of each is collected")
    teachers = command("teachers", _teachers, "fine-tune the teachers that the studies share")
    teachers.add_argument("--data-dir", type=Path, required=True, help="folder of GLUE")
    teachers.add_argument("--output", type=Path, required=True, help="gets TASK/teacher for each task")
    teachers.add_argument("--tasks", nargs="+", default=[], help="default: all there is a budget for")
    run = command("run", _run, "start a study, or go on with it; the rest is handed to `codir study`")
    run.add_argument("name")
    run.add_argument("--data-dir", help="folder of GLUE, $data_dir in the study file")
    run.add_argument("--teachers", help="folder with TASK/teacher, $teachers in the study file")
    run.add_argument("--output", type=Path, required=True, help="folder of the study")
    run.add_argument(
        "--path",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="$NAME in the study file (repeatable)",
    )
    run.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="KEY=NAME,...",
        help="only these of the study's recipes, tasks, students or seeds (repeatable): to share it out",
    )
    collect = command("collect", _collect, "make results/NAME.json out of a study's finished trials")
    collect.add_argument("name")
    collect.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="where the study ran; also files of results: of parts that ran elsewhere, of studies with the same trials",
    )
    collect.add_argument("--output", type=Path, help="file to write (default: results/NAME.json)")
    draw = command("draw", _draw, "make figures and tables")
    draw.add_argument("--check", action="store_true", help="write nothing; fail if anything would change")
    draw.add_argument("--png", type=Path, help="folder that gets the figures as PNG, too")
    return parser


def _list(options: argparse.Namespace, more: Sequence[str]) -> int:
    from codir.storage import read_json
    from evidence_studies import study_names

    for name in study_names():
        file = RESULTS / f"{name}.json"
        found = read_json(file) if file.is_file() else None
        print(
            f"{name:24s} "
            + (f"{found['finished']} of {found['planned']} trials collected" if found else "not collected")
        )
    return 0


def _teachers(options: argparse.Namespace, more: Sequence[str]) -> int:
    from evidence_studies import make_teachers

    make_teachers(options.tasks, options.output, options.data_dir)
    return 0


def _run(options: argparse.Namespace, more: Sequence[str]) -> int:
    from evidence_studies import encoder, parts, run_study

    paths = {"encoder": encoder(), "data_dir": options.data_dir, "teachers": options.teachers}
    for pair in options.path:
        name, separator, path = pair.partition("=")
        if not separator or not name.isidentifier() or not path:
            raise ConfigError(
                f"--path {pair}: expected NAME=PATH, for example --path unlabeled=aug/cola.jsonl"
            )
        paths[name] = path
    absolute = {name: _absolute(path) for name, path in paths.items() if path}
    return run_study(options.name, options.output, absolute, more, parts(options.part))


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute()) if Path(path).expanduser().exists() else path


def _collect(options: argparse.Namespace, more: Sequence[str]) -> int:
    from evidence_collect import collect
    from evidence_studies import outline

    whole = outline(options.name)
    file = options.output or RESULTS / f"{options.name}.json"
    found = collect(options.name, options.sources, file, whole)
    print(f"{file}: {found['finished']} of {found['planned']} trials, {file.stat().st_size / 1000:.0f} kB")
    for key in found["failed"]:
        print(f"  failed: {key}")
    return 0


def _draw(options: argparse.Namespace, more: Sequence[str]) -> int:
    from evidence_pages import draw

    changed = draw(RESULTS, HERE.parent, write=not options.check, png=options.png)
    for path in changed:
        print(f"{'differs' if options.check else 'written'}: {path}")
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
