"""Fills the blocks of the evidence pages and draws their figures.

A page asks for what it shows by a comment, and everything up to the next `<!-- evidence end -->` is made from it:

    <!-- evidence: kept baselines+plus recipes=kd,codir-plus -->

The first word is a kind (`FIGURES`, `TABLES`), the second the studies, joined by `+`. Options: `recipes`, `without`,
`tasks`, `students` (names separated by commas), `baseline`, `metric=mrpc:accuracy,cola:agreement`, `checkpoint=last`
(the score of the last evaluation, not that of the model given out), `name` (of the figure's file), `label`, and for
`dynamics` `groups=Title:arm,arm;Title:arm,arm` (in quotes where there are blanks).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import evidence_figures as figures
import evidence_tables as tables
from codir.errors import ConfigError, nearest
from codir.runs.drawing import rendered
from codir.storage import write_bytes, write_text
from evidence_by_source import by_source
from evidence_choice import Chosen, choose
from evidence_data import Study, read_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGES = ("docs/evidence.md", "docs/negatives.md")
IMAGES = "docs/img"
PREFIX = "evidence-"
_END = "<!-- evidence end -->"
_START = re.compile(r"<!-- evidence: ((?:(?!-->).)*?) -->\n", flags=re.DOTALL)
_BLOCK = re.compile(rf"{_START.pattern}((?:(?!<!-- evidence: ).)*?){_END}", flags=re.DOTALL)
_OPTIONS = (
    "recipes",
    "without",
    "tasks",
    "students",
    "baseline",
    "metric",
    "checkpoint",
    "name",
    "label",
    "groups",
)

FIGURES: Mapping[str, tuple[Callable[[Chosen, Mapping[str, str]], Any], str]] = {
    "kept": (
        lambda chosen, options: figures.draw_kept(chosen),
        "What each recipe keeps of its teacher: {mean}; dashed: {baseline}.",
    ),
    "gains": (
        lambda chosen, options: figures.draw_gains(chosen, options.get("label", "")),
        "Difference from {baseline}: {pairs}.",
    ),
    "ablation": (
        lambda chosen, options: figures.draw_gains(
            chosen, options.get("label", f"change from {chosen.findings.baseline} when a part is taken away")
        ),
        "Each part taken away, one at a time, against {baseline}: {pairs}.",
    ),
    "cost": (
        lambda chosen, options: figures.draw_costs(chosen),
        "What is kept against the time of a training, 95 % intervals over {seeds}. Lines join the budgets of one "
        "recipe.",
    ),
    "dynamics": (
        lambda chosen, options: figures.draw_dynamics(chosen, _groups(options)),
        "The contrastive term, and the loss of the labels, on {task}: mean over {seeds}, band from the lowest to the "
        "highest seed.",
    ),
    "ends": (
        lambda chosen, options: figures.draw_ends(chosen),
        "Score against the contrastive loss at the end: a small point is a trial, a large one the mean of a recipe; "
        "dashed with its band: {baseline}, which has no contrastive term.",
    ),
    "epochs": (
        lambda chosen, options: figures.draw_epochs(chosen),
        "Score after each epoch, mean over {seeds}, band from the lowest to the highest seed.",
    ),
}
_ONE = "1 seed"
TABLES: Mapping[str, Callable[[Chosen], str]] = {
    "scores": tables.scores,
    "gain-table": tables.gains,
    "cost-table": tables.costs,
    "negatives": tables.negatives,
    "arms": tables.arms,
    "missing": tables.missing,
    "by-source": by_source,
    "setting": lambda chosen: tables.setting(chosen.studies),
}


@dataclass(frozen=True)
class Block:
    """What a page asks for.

    Attributes:
        place: page and line.
        kind: of figure or table.
        studies: names.
        options: by name.
    """

    place: str
    kind: str
    studies: tuple[str, ...]
    options: Mapping[str, str]

    @property
    def image(self) -> str:
        """File name of a figure, without its ending."""
        return PREFIX + self.options.get("name", f"{self.kind}-{'-'.join(self.studies)}")


def read_block(text: str, place: str) -> Block:
    """Reads a block's comment; raises `ConfigError` with the place for what cannot be read."""
    words = shlex.split(text)
    kinds = [*FIGURES, *TABLES]
    if len(words) < 2 or words[0] not in kinds:
        wanted = words[0] if words else ""
        raise ConfigError(
            f"{place}: `evidence: {text}` should be a kind and its studies, `kept baselines+plus`; kinds: "
            f"{', '.join(kinds)}{nearest(wanted, kinds)}."
        )
    options = {}
    for word in words[2:]:
        key, separator, value = word.partition("=")
        if key not in _OPTIONS or not separator:
            raise ConfigError(
                f"{place}: unknown option {word!r}{nearest(key, _OPTIONS)}: {', '.join(_OPTIONS)}."
            )
        options[key] = value
    return Block(place, words[0], tuple(words[1].split("+")), options)


def draw(
    results: Path,
    root: Path,
    *,
    write: bool = True,
    png: Path | None = None,
    pages: Sequence[str] = PAGES,
) -> list[Path]:
    """Draws everything.

    Args:
        results: folder of the collected results.
        root: of the repository.
        write: write what has changed; else only say it (figures are not compared: their bytes depend on matplotlib).
        png: folder that gets the figures as PNG, too.
        pages: to fill.

    Returns:
        The files that differ from what was there.

    Raises:
        ConfigError: a block cannot be read or drawn.
    """
    studies = {path.stem: read_study(path) for path in sorted(results.glob("*.json"))}
    contents: dict[Path, str] = {}
    pictures: dict[str, Figure] = {}
    for name in pages:
        page = root / name
        before = page.read_text(encoding="utf-8")

        def fill(found: re.Match[str], name: str = name, before: str = before) -> str:
            place = _place(before, found, name)
            block = read_block(" ".join(found[1].split()), place)
            return f"<!-- evidence: {found[1]} -->\n{_filled(block, studies, pictures)}\n{_END}"

        _check_closed(before, name)
        contents[page] = _BLOCK.sub(fill, before)
    changed = [
        path
        for path, text in contents.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    if not write:
        return changed
    for path in changed:
        write_text(path, contents[path])
    for name, figure in pictures.items():
        path = root / IMAGES / f"{name}.svg"
        data = rendered(figures.settle(figure))
        if not path.is_file() or path.read_bytes() != data["svg"]:
            write_bytes(path, data["svg"])
            changed.append(path)
        if png is not None:
            write_bytes(png / f"{name}.png", data["png"])
    for path in sorted((root / IMAGES).glob(f"{PREFIX}*.svg")):
        if path.stem not in pictures:
            path.unlink()
            changed.append(path)
    return changed


def _check_closed(text: str, page: str) -> None:
    """Raises `ConfigError` for a block without an end: what is between it and the next one would be lost."""
    closed = {found.start() for found in _BLOCK.finditer(text)}
    for found in _START.finditer(text):
        if found.start() not in closed:
            raise ConfigError(f"{_place(text, found, page)}: `{found[0].strip()}` has no `{_END}`.")


def _place(text: str, found: re.Match[str], page: str) -> str:
    return f"{page}, line {text.count(chr(10), 0, found.start()) + 1}"


def _filled(block: Block, studies: Mapping[str, Study], pictures: dict[str, Any]) -> str:
    """Returns what stands in a block."""
    from evidence_studies import study_names

    known = sorted({*studies, *study_names()})
    for name in block.studies:
        if name not in known:
            raise ConfigError(
                f"{block.place}: there is no study {name!r}{nearest(name, known)}: {', '.join(known)}."
            )
    there = [studies[name] for name in block.studies if name in studies]
    if not there:
        return f"*No results yet: `python benchmarks/evidence.py run {block.studies[0]} ...`.*"
    try:
        chosen = choose(
            there,
            recipes=_names(block, "recipes"),
            leave_out=_names(block, "without"),
            tasks=_names(block, "tasks"),
            students=_names(block, "students"),
            baseline=block.options.get("baseline"),
            metrics=dict(_pair(pair, ":", block) for pair in _names(block, "metric")),
            last=_last(block),
        )
    except ConfigError as error:
        raise ConfigError(f"{block.place}: {error}") from None
    if chosen is None:
        return "*No such trial is finished.*"
    if block.kind in TABLES:
        return TABLES[block.kind](chosen)
    made, caption = FIGURES[block.kind]
    figure = made(chosen, block.options)
    if figure is None:
        return "*No such trial is finished.*"
    pictures[block.image] = figure
    said = caption.format(
        seeds=_seeds(chosen),
        mean=_mean(chosen),
        pairs=_pairs(chosen),
        baseline=chosen.findings.baseline,
        task=", ".join(chosen.findings.tasks),
    )
    drawn = [figures.drawn_constant(chosen, task) for task in chosen.findings.tasks]
    if block.kind == "kept" and any(drawn):
        said += " Red dots: one answer for everything."
    alt = re.split(r"[:,]", said)[0]
    return f"![{alt}](img/{block.image}.svg)\n\n*{said}*"


def _mean(chosen: Chosen) -> str:
    seeds = _seeds(chosen)
    if seeds == _ONE:
        return "one seed"
    return f"mean over {seeds}, 95 % interval; grey strokes: single seeds"


def _pairs(chosen: Chosen) -> str:
    seeds = _counted({each.n for each in chosen.findings.differences.values() if each.n})
    return "one seed" if seeds == _ONE else f"paired by seed over {seeds}, 95 % intervals"


def _seeds(chosen: Chosen) -> str:
    return _counted({cell.spread.n for cell in chosen.findings.cells.values() if cell.spread is not None})


def _counted(counts: Collection[int]) -> str:
    if not counts:
        return "no seeds"
    if len(counts) > 1:
        return f"{min(counts)} to {max(counts)} seeds"
    return f"{min(counts)} seeds" if min(counts) > 1 else _ONE


def _names(block: Block, option: str) -> list[str]:
    return [name for name in block.options.get(option, "").split(",") if name]


def _last(block: Block) -> bool:
    wanted = block.options.get("checkpoint", "given-out")
    if wanted not in ("given-out", "last"):
        raise ConfigError(f"{block.place}: checkpoint={wanted} should be last or given-out.")
    return wanted == "last"


def _pair(text: str, separator: str, block: Block) -> tuple[str, str]:
    first, found, second = text.partition(separator)
    if not found:
        raise ConfigError(f"{block.place}: {text!r} should be TASK{separator}METRIC.")
    return first, second


def _groups(options: Mapping[str, str]) -> dict[str, list[str]]:
    """Reads `Title:arm,arm;Title:arm,arm`."""
    found = {}
    for part in options.get("groups", "").split(";"):
        title, _, arms = part.partition(":")
        if arms:
            found[title.strip()] = [arm.strip() for arm in arms.split(",")]
    if not found:
        raise ConfigError("A figure `dynamics` needs groups=Title:arm,arm;Title:arm,arm.")
    return found
