"""The result of a latency measurement: rows, conditions, tables for the terminal and Markdown, JSON and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from codir import markdown
from codir.errors import RunError
from codir.markdown import inline
from codir.printing import Table, table
from codir.runs.comparison import short_count
from codir.runs.timing import RealLengths, Timing
from codir.storage import human_bytes

KIND = "codir latency"
BUSY = "The machine was busy"  # how the note on that begins
SCHEMA = 1
_DASH = "-"


@dataclass(frozen=True)
class LatencyRow:
    """One model in one engine.

    Attributes:
        name: of the model, short.
        path: as the user named it.
        engine: one of `codir.deploy.latency_models.ENGINES`.
        precision: what it computes in: `fp32`, `bf16`, `fp16` or `int8`.
        blocks: number of blocks; None for a family that does not say.
        parameters, embedding_parameters: of the model (of an export: of what it was made from); the second is part of
            the first.
        bytes: of graph and weights on disk; None for a model of the Hub.
        timing: forward pass, padded to the full length (Table 3 of the paper).
        real: at real lengths, by batch size as text (`"1"`, `"32"`).
        peak_memory: bytes that loading it and running a padded batch takes, above the interpreter with its imports
            (`codir.deploy.memory`); None if it could not be measured.
        score: the main metric, where run folder or export know it.
        metric: its name.
        examples: validation examples it is of; None where that is not known.
    """

    name: str
    path: str
    engine: str
    precision: str
    blocks: int | None
    parameters: int | None
    embedding_parameters: int | None
    bytes: int | None
    timing: Timing
    real: Mapping[str, RealLengths] = field(default_factory=dict)
    peak_memory: int | None = None
    score: float | None = None
    metric: str | None = None
    examples: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatencyRow:
        """Restores what `to_dict` returned."""
        real = {size: RealLengths.from_dict(each) for size, each in values["real"].items()}
        return cls(**{**values, "timing": Timing.from_dict(values["timing"]), "real": real})


@dataclass(frozen=True)
class LatencyResult:
    """Models and engines measured in one run, taking turns.

    Attributes:
        rows: in the order named; speed-ups are against the first.
        machine: platform, processor, cores, versions of the packages.
        conditions: `batch`, `max_length`, `rounds`, `sequences`, `threads`, `device`, `texts` (where they are from),
            `tokens` (mean of a text), `load_before`, `load_after` (of the machine, over a minute), `time`.
        task: whose texts were used.
        notes: what to know: a busy machine, texts that were cut, ...
        left_out: (model, engine, why) for what could not be measured.
    """

    rows: tuple[LatencyRow, ...]
    machine: Mapping[str, Any]
    conditions: Mapping[str, Any]
    task: str
    notes: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, as `--output` writes them."""
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "task": self.task,
            "conditions": dict(self.conditions),
            "machine": dict(self.machine),
            "rows": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
            "left_out": [list(each) for each in self.left_out],
        }

    @classmethod
    def from_json(cls, values: Any) -> LatencyResult:
        """Restores what `to_json` returned.

        Raises:
            RunError: it is something else, or from another version of codir.
        """
        if not isinstance(values, Mapping) or values.get("kind") != KIND:
            raise RunError(
                "This is not the JSON that `codir latency --output` writes. Measure again to get one."
            )
        if values.get("schema") != SCHEMA:
            raise RunError(
                f"This latency JSON has layout {values.get('schema')!r}, and this codir reads {SCHEMA}: it was written "
                "by another version. Measure again with `codir latency`."
            )
        try:
            return cls(
                rows=tuple(LatencyRow.from_dict(row) for row in values["rows"]),
                machine=values["machine"],
                conditions=values["conditions"],
                task=values["task"],
                notes=tuple(values["notes"]),
                left_out=tuple((str(a), str(b), str(c)) for a, b, c in values["left_out"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(
                f"This latency JSON is damaged ({type(error).__name__}: {error}). Measure again with `codir latency`."
            ) from error

    @property
    def batch_sizes(self) -> list[str]:
        """The batch sizes of the requests at real lengths, as text."""
        return list(self.rows[0].real) if self.rows else []

    def padded_cells(self) -> tuple[list[str], list[list[str]]]:
        """Returns headings and lines of Table 3: padded to the full length."""
        headings = [
            "model",
            "engine",
            "prec.",
            "blocks",
            "params",
            "embed.",
            "file",
            "ms/seq",
            "speed-up",
        ]
        lines = [
            [
                row.name,
                row.engine,
                row.precision,
                _DASH if row.blocks is None else str(row.blocks),
                short_count(row.parameters),
                short_count(row.embedding_parameters),
                _bytes(row.bytes),
                f"{_milliseconds(row.timing.ms_per_sequence)} ±{_milliseconds(row.timing.spread)}",
                f"{row.timing.speedup:.{2 if row.timing.speedup < 100 else 0}f}x",
            ]
            for row in self.rows
        ]
        return headings, lines

    def real_cells(self) -> tuple[list[str], list[list[str]]]:
        """Returns headings and lines at real lengths, with memory and score."""
        headings = ["model", "engine"]
        for size in self.batch_sizes:
            headings += [f"b{size} p50", "p95", "seq/s"]
        headings += ["memory"]
        scored = any(row.score is not None for row in self.rows)
        if scored:
            metrics = {row.metric for row in self.rows if row.metric is not None}
            headings.append(metrics.pop().replace("_", " ") if len(metrics) == 1 else "score")
        lines = []
        for row in self.rows:
            line = [row.name, row.engine]
            for size in self.batch_sizes:
                real = row.real[size]
                line += [_milliseconds(real.p50), _milliseconds(real.p95), _rate(real.sequences_per_second)]
            line.append(_bytes(row.peak_memory))
            if scored:
                line.append(_DASH if row.score is None else f"{row.score:.4f}")
            lines.append(line)
        return headings, lines

    def to_rich(self) -> list[Table]:
        """Returns both tables for the terminal; they fit 100 columns."""
        titles = self.titles()
        tables = [_rich(titles[0], *self.padded_cells(), left=3)]
        if self.batch_sizes:
            tables.append(_rich(titles[1], *self.real_cells(), left=2))
        return tables

    def to_markdown(self) -> str:
        """Returns both tables in GitHub's Markdown, with titles and notes."""
        titles = self.titles()
        parts = [f"{titles[0]}\n\n{markdown.table(*self.padded_cells(), left=3)}"]
        if self.batch_sizes:
            parts.append(f"{titles[1]}\n\n{markdown.table(*self.real_cells(), left=2)}")
        parts += [f"{inline(line)}\n" for line in self.words()]
        return "\n".join(parts)

    def titles(self) -> tuple[str, str]:
        """Returns a line for each of the two tables."""
        c = self.conditions
        padded = (
            f"Padded: batches of {c['batch']} sequences of {c['max_length']} tokens, median of {c['rounds']} rounds "
            f"over {c['sequences']} sequences"
        )
        real = f"As users run it: real lengths ({c['tokens']:.0f} tokens on average), ms for a batch; memory: peak"
        return padded, real

    def words(self) -> list[str]:
        """Returns what stands under the tables, a line each."""
        c = self.conditions
        gpus = self.machine.get("gpus") or []
        where = ", ".join(gpus) if c["device"] == "cuda" else str(self.machine.get("cpu") or "this CPU")
        threads = f"{c['threads']} thread{'' if c['threads'] == 1 else 's'}"
        lines = [
            f"Texts: {c['texts']}. Measured on {where}, {threads}; models and engines took turns. ± is half the "
            "distance between the slowest and the fastest round."
        ]
        lines += [f"Left out: {name} in {engine}: {why}" for name, engine, why in self.left_out]
        return [*lines, *self.notes]


def _rich(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> Table:
    shown = table(title, collapse_padding=True)
    for number, (heading, *cells) in enumerate(zip(headings, *lines, strict=True)):
        # a long name may fold, a number never
        width = max((len(cell) for cell in cells), default=0)
        justify: Literal["left", "right"] = "left" if number < left else "right"
        shown.add_column(
            heading, justify=justify, overflow="fold", min_width=min(width, 12) if not number else width
        )
    for line in lines:
        shown.add_row(*line)
    return shown


def _milliseconds(value: float) -> str:
    return f"{value:.{0 if value >= 1000 else 1 if value >= 100 else 2}f}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _bytes(value: int | None) -> str:
    return _DASH if value is None else human_bytes(value)
