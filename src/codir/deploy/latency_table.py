"""The result of a latency measurement: rows, conditions, tables for the terminal and Markdown, JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from codir.errors import RunError
from codir.files import human_bytes
from codir.measure.comparison import short_count
from codir.measure.timing import RealLengths, Timing
from codir.table import Column, Table, inline

KIND = "codir latency"
BUSY = "The machine was busy"  # how the note on that begins
SCHEMA = 1


@dataclass(frozen=True)
class LatencyRow:
    """One model in one engine.

    Attributes:
        name: the model's short name.
        path: the model as the user named it.
        engine: one of `codir.deploy.latency_models.ENGINES`.
        precision: what it computes in: `fp32`, `bf16`, `fp16` or `int8`.
        layers: number of layers; None for a family that does not say.
        parameters, embedding_parameters: the model's (an export's: of what it was made from); the second is part of
            the first.
        bytes: size of graph and weights on disk; None for a model of the Hub.
        timing: forward pass, padded to the full length (Table 3 of the paper).
        real: at real lengths, by batch size as text (`"1"`, `"32"`).
        peak_memory: bytes that loading it and running a padded batch takes, above the interpreter with its imports
            (`codir.deploy.memory`); None if it could not be measured.
        score, metric, examples: the main metric's value, its name and the number of validation examples, where the
            run folder or the export knows them.
    """

    name: str
    path: str
    engine: str
    precision: str
    layers: int | None
    parameters: int | None
    embedding_parameters: int | None
    bytes: int | None
    timing: Timing
    real: Mapping[str, RealLengths] = field(default_factory=dict)
    peak_memory: int | None = None
    score: float | None = None
    metric: str | None = None
    examples: int | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatencyRow:
        """Restores a row from plain values."""
        real = {size: RealLengths(**each) for size, each in values["real"].items()}
        return cls(**{**values, "timing": Timing.from_dict(values["timing"]), "real": real})


@dataclass(frozen=True)
class LatencyResult:
    """Models and engines measured in one run, taking turns.

    Attributes:
        rows: in the order named; speed-ups are against the first.
        machine: platform, processor, cores, versions of the packages.
        conditions: `batch`, `max_length`, `rounds`, `sequences`, `threads`, `device`, `texts` (where they are from),
            `tokens` (mean of a text), `load_before`, `load_after` (of the machine, over a minute), `time`.
        task: the task whose texts were used.
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
        values = asdict(self)
        lists = {name: list(values[name]) for name in ("rows", "notes")}
        return {
            "kind": KIND,
            "schema": SCHEMA,
            **values,
            **lists,
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

    def tables(self) -> list[Table]:
        """Returns Table 3, padded to the full length, and where measured a table at real lengths, with memory."""
        c = self.conditions
        padded = Table(
            f"Padded: batches of {c['batch']} sequences of {c['max_length']} tokens, median of {c['rounds']} rounds "
            f"over {c['sequences']} sequences",
            (
                *(Column(name, left=True) for name in ("model", "engine", "prec.")),
                *(Column("layers"), Column("params", short_count), Column("embed.", short_count)),
                Column("file", human_bytes),
                Column("ms/seq"),
                Column("speed-up", lambda value: f"{value:.{2 if value < 100 else 0}f}x"),
            ),
            [
                (
                    *(row.name, row.engine, row.precision, row.layers),
                    *(row.parameters, row.embedding_parameters, row.bytes),
                    f"{_ms(row.timing.ms_per_sequence)} ±{_ms(row.timing.spread)}",
                    row.timing.speedup,
                )
                for row in self.rows
            ],
        )
        if not self.batch_sizes:
            return [padded]
        metrics = {row.metric for row in self.rows if row.metric is not None}
        scored = any(row.score is not None for row in self.rows)
        heading = (metrics.pop() or "").replace("_", " ") if len(metrics) == 1 else "score"
        real = Table(
            f"As users run it: real lengths ({c['tokens']:.0f} tokens on average), ms for a batch; memory: peak",
            (
                *(Column(name, left=True) for name in ("model", "engine")),
                *(
                    column
                    for size in self.batch_sizes
                    for column in (Column(f"b{size} p50", _ms), Column("p95", _ms), Column("seq/s", _rate))
                ),
                Column("memory", human_bytes),
                *([Column(heading, "{:.4f}".format)] if scored else []),
            ),
            [
                (
                    *(row.name, row.engine),
                    *(
                        value
                        for each in row.real.values()
                        for value in (each.p50, each.p95, each.sequences_per_second)
                    ),
                    row.peak_memory,
                    *([row.score] if scored else []),
                )
                for row in self.rows
            ],
        )
        return [padded, real]

    def to_rich(self) -> list[Any]:
        """Returns the tables for the terminal; they fit 100 columns."""
        return [table.to_rich() for table in self.tables()]

    def to_markdown(self) -> str:
        """Returns the tables in GitHub's Markdown, with titles and notes."""
        return "\n".join(
            [*(each.to_markdown() for each in self.tables()), *(f"{inline(each)}\n" for each in self.words())]
        )

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


def _ms(value: float) -> str:
    return f"{value:.{0 if value >= 1000 else 1 if value >= 100 else 2}f}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
