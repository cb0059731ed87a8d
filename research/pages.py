"""Fills the blocks of the pages and draws their figures out of the collected results.

A page asks for what it shows by a comment, and everything up to the next `<!-- evidence end -->` is made from it:

    <!-- evidence: kept baselines+plus recipes=kd,codir-plus -->

The first word is a kind (`FIGURES`, `TABLES`), the second the studies, joined by `+`. Options: `recipes`, `without`,
`tasks` (names separated by commas), `baseline`, `metric=mrpc:accuracy,cola:agreement`, `checkpoint=last` (the score of
the last evaluation, not that of the model given out), `name` (of the figure's file), `label`, and for `dynamics`
`groups=Title:arm,arm;Title:arm,arm` (in quotes where there are blanks).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import figures
import tables
from trials import Comparison, Study, compare, read_study

HERE = Path(__file__).resolve().parent
RESULTS, PAGES = HERE / "results", HERE / "pages"
NAMES = ("evidence.md", "negatives.md")
PREFIX = "evidence-"
_END = "<!-- evidence end -->"
_START = re.compile(r"<!-- evidence: ((?:(?!-->).)*?) -->\n", flags=re.DOTALL)
_BLOCK = re.compile(rf"{_START.pattern}((?:(?!<!-- evidence: ).)*?){_END}", flags=re.DOTALL)
_OPTIONS = ("recipes", "without", "tasks", "baseline", "metric", "checkpoint", "name", "label", "groups")
_ONE = "1 seed"

FIGURES: Mapping[str, tuple[Callable[[Comparison, Mapping[str, str]], Any], str]] = {
    "kept": (
        lambda found, options: figures.draw_kept(found),
        "What each recipe keeps of its teacher: {mean}; dashed: {baseline}.",
    ),
    "gains": (
        lambda found, options: figures.draw_gains(found, options.get("label", "")),
        "Difference from {baseline}: {pairs}.",
    ),
    "ablation": (
        lambda found, options: figures.draw_gains(
            found, options.get("label", f"change from {found.baseline} when a part is taken away")
        ),
        "Each part taken away, one at a time, against {baseline}: {pairs}.",
    ),
    "cost": (
        lambda found, options: figures.draw_costs(found),
        "What is kept against the time of a training, 95 % intervals over {seeds}. Lines join the budgets of one "
        "recipe.",
    ),
    "dynamics": (
        lambda found, options: figures.draw_dynamics(found, _groups(options)),
        "The contrastive term, and the loss of the labels, on {task}: mean over {seeds}, band from the lowest to the "
        "highest seed.",
    ),
    "ends": (
        lambda found, options: figures.draw_ends(found),
        "Score against the contrastive loss at the end: a small point is a trial, a large one the mean of a recipe; "
        "dashed with its band: {baseline}, which has no contrastive term.",
    ),
    "epochs": (
        lambda found, options: figures.draw_epochs(found),
        "Score after each epoch, mean over {seeds}, band from the lowest to the highest seed.",
    ),
}
TABLES: Mapping[str, Callable[[Comparison], str]] = {
    "scores": tables.scores,
    "gain-table": tables.gains,
    "cost-table": tables.costs,
    "negatives": tables.negatives,
    "arms": tables.arms,
    "missing": tables.missing,
    "by-source": tables.by_source,
    "setting": lambda found: tables.setting(found.studies),
}


@dataclass(frozen=True)
class Block:
    """What a page asks for: a kind, the names of studies, options; `place` is its page and line."""

    place: str
    kind: str
    studies: tuple[str, ...]
    options: Mapping[str, str]

    @property
    def image(self) -> str:
        """The figure's file name, without its ending."""
        return PREFIX + self.options.get("name", f"{self.kind}-{'-'.join(self.studies)}")

    def names(self, option: str) -> list[str]:
        """Returns the names that an option lists."""
        return [name for name in self.options.get(option, "").split(",") if name]


def read_block(text: str, place: str) -> Block:
    """Reads a block's comment; raises `ValueError` with the place for what cannot be read."""
    words = shlex.split(text)
    kinds = [*FIGURES, *TABLES]
    if len(words) < 2 or words[0] not in kinds:
        raise ValueError(f"{place}: `evidence: {text}` should be a kind and its studies; kinds: {', '.join(kinds)}.")
    options = {word.split("=")[0]: word.partition("=")[2] for word in words[2:]}
    for key in options:
        if key not in _OPTIONS:
            raise ValueError(f"{place}: unknown option {key!r}: {', '.join(_OPTIONS)}.")
    if options.get("checkpoint", "last") != "last":
        raise ValueError(f"{place}: checkpoint={options['checkpoint']} should be last, or left out.")
    return Block(place, words[0], tuple(words[1].split("+")), options)


def draw(
    pages: Path = PAGES, results: Path = RESULTS, *, names: Sequence[str] = NAMES, write: bool = True
) -> list[Path]:
    """Fills the pages and draws their figures.

    Args:
        pages: folder of the pages; figures go to `img` in it.
        results: folder of the collected results.
        names: the pages to fill.
        write: write what has changed; else only say it (figures are not compared: their bytes depend on matplotlib).

    Returns:
        The files that differ from what was there.
    """
    studies = {path.stem: read_study(path) for path in sorted(results.glob("*.json"))}
    contents: dict[Path, str] = {}
    pictures: dict[str, Callable[[], Any]] = {}
    for name in names:
        before = (pages / name).read_text(encoding="utf-8")
        closed = {found.start() for found in _BLOCK.finditer(before)}
        for found in _START.finditer(before):
            if found.start() not in closed:  # what is between it and the next block would be lost
                raise ValueError(f"{_place(before, found, name)}: `{found[0].strip()}` has no `{_END}`.")

        def fill(found: re.Match[str], name: str = name, before: str = before) -> str:
            block = read_block(" ".join(found[1].split()), _place(before, found, name))
            return f"<!-- evidence: {found[1]} -->\n{_filled(block, studies, pictures)}\n{_END}"

        contents[pages / name] = _BLOCK.sub(fill, before)
    changed = [path for path, text in contents.items() if path.read_text(encoding="utf-8") != text]
    if not write:
        return changed
    for path in changed:
        path.write_text(contents[path], encoding="utf-8")
    (pages / "img").mkdir(exist_ok=True)
    for name, drawn in pictures.items():
        path, data = pages / "img" / f"{name}.svg", figures.rendered(figures.laid_out(drawn()))
        if not path.is_file() or path.read_bytes() != data:
            path.write_bytes(data)
            changed.append(path)
    return changed


def _place(text: str, found: re.Match[str], page: str) -> str:
    return f"{page}, line {text.count(chr(10), 0, found.start()) + 1}"


def _filled(block: Block, studies: Mapping[str, Study], pictures: dict[str, Callable[[], Any]]) -> str:
    """Returns what stands in a block; how its figure is drawn is put among the pictures."""
    for name in block.studies:
        if name not in studies:
            raise ValueError(f"{block.place}: there is no study {name!r}: {', '.join(studies)}.")
    try:
        found = compare(
            [studies[name] for name in block.studies],
            recipes=block.names("recipes"),
            without=block.names("without"),
            tasks=block.names("tasks"),
            baseline=block.options.get("baseline"),
            metrics=dict(pair.split(":") for pair in block.names("metric")),
            last="checkpoint" in block.options,
        )
    except ValueError as error:
        raise ValueError(f"{block.place}: {error}") from None
    if found is None:
        return "*No such trial is finished.*"
    if block.kind in TABLES:
        return TABLES[block.kind](found)
    made, caption = FIGURES[block.kind]
    pictures[block.image] = lambda: made(found, block.options)
    seeds = _counted({len(found.scores(row, task)) for row in found.rows for task in found.tasks})
    pairs = _counted({each.n for each in found.differences.values()})
    said = caption.format(
        seeds=seeds,
        mean="one seed" if seeds == _ONE else f"mean over {seeds}, 95 % interval; grey strokes: single seeds",
        pairs="one seed" if pairs == _ONE else f"paired by seed over {pairs}, 95 % intervals",
        baseline=found.baseline,
        task=", ".join(found.tasks),
    )
    if block.kind == "kept" and any(figures.drawn_constant(found, task) for task in found.tasks):
        said += " Red dots: one answer for everything."
    return f"![{re.split(r'[:,]', said)[0]}](img/{block.image}.svg)\n\n*{said}*"


def _counted(counts: Collection[int]) -> str:
    known = sorted(set(counts) - {0})
    if len(known) > 1:
        return f"{known[0]} to {known[-1]} seeds"
    return f"{known[0]} seeds" if known and known[0] > 1 else _ONE


def _groups(options: Mapping[str, str]) -> dict[str, list[str]]:
    """Reads `Title:arm,arm;Title:arm,arm`."""
    parts = (part.partition(":") for part in options["groups"].split(";"))
    return {title.strip(): [arm.strip() for arm in arms.split(",")] for title, _, arms in parts}
