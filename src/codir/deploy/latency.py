"""Measures models and engines side by side: the paper's Table 3, and speed and memory as users run them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from codir.config.config import DataConfig
from codir.data import BUILT_IN
from codir.data.encoding import length_limit
from codir.data.files import load_texts
from codir.deploy.check import of_run
from codir.deploy.settings import LatencySettings, settings_of
from codir.deploy.timed import Line, choose, load_lines, peak_memory, score_of
from codir.errors import RunError
from codir.files import human_bytes, write_json, writes
from codir.measure.comparison import short_count
from codir.measure.timing import (
    RealLengths,
    Text,
    Timing,
    encode_batch,
    measure,
    measure_requests,
    model_size,
    texts_of,
    token_lengths,
)
from codir.models.loading import count_parameters
from codir.printing import Console, progress_bar, terminal
from codir.record.data import DEFAULT_TEXT, load_data
from codir.record.environment import machine, versions
from codir.record.run_data import Chosen, choose_data, first_inputs
from codir.table import Column, Table
from codir.training.processes import one_process_only

KIND = "codir latency"
BUSY = "The machine was busy"  # how the note on that begins
LENGTH = 128  # Table 3 of the paper
_BUSY_SPREAD = 0.1
_PACKAGES = ("onnxruntime", "openvino", "nncf", "onnx")


@dataclass(frozen=True)
class LatencyRow:
    """One model in one engine."""

    name: str
    path: str  # the model as the user named it
    engine: str  # one of `codir.deploy.timed.ENGINES`
    precision: str  # what it computes in: fp32, bf16, fp16 or int8
    layers: int | None  # None for a family that does not say
    parameters: int | None  # of an export: of what it was made from
    embedding_parameters: int | None  # a part of these
    bytes: int | None  # graph and weights on disk; None for a model of the Hub
    timing: Timing  # padded to the full length (Table 3 of the paper)
    real: dict[str, RealLengths] = field(default_factory=dict)  # by batch size as text
    peak_memory: int | None = None  # bytes, see `codir.deploy.timed`
    score: float | None = None  # the main metric's value, where the run folder or the export knows it
    metric: str | None = None
    examples: int | None = None  # of validation, that the score is of


@dataclass(frozen=True)
class LatencyResult:
    """Models and engines measured in one run, taking turns; speed-ups are against the first row."""

    rows: tuple[LatencyRow, ...]
    machine: dict[str, Any]  # platform, processor, cores, versions of the packages
    conditions: dict[str, Any]  # batch, max_length, rounds, ..., where the texts are from, their mean of tokens
    task: str
    notes: tuple[str, ...] = ()  # what to know: a busy machine, texts that were cut, ...
    left_out: tuple[tuple[str, str, str], ...] = ()  # (model, engine, why) that could not be measured

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, as `--output` writes them."""
        return {"kind": KIND, **asdict(self)}

    @classmethod
    def from_json(cls, values: Any) -> LatencyResult:
        """Restores what `to_json` returned; raises `RunError` for something else."""
        if not isinstance(values, Mapping) or values.get("kind") != KIND:
            raise RunError("This is not the JSON that `codir latency --output` writes. Measure again to get one.")
        try:
            return TypeAdapter(cls).validate_python({n: v for n, v in values.items() if n != "kind"})
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise RunError(f"This latency JSON is damaged ({where}). Measure again with `codir latency`.") from error

    def tables(self) -> list[Table]:
        """Returns Table 3, padded to the full length, and a table at real lengths, with memory."""
        c = self.conditions
        padded = Table(
            f"Padded: batches of {c['batch']} sequences of {c['max_length']} tokens, median of {c['rounds']} rounds "
            f"over {c['sequences']} sequences",
            (
                *(Column(name, left=True) for name in ("model", "engine", "prec.")),
                *(Column("layers"), Column("params", short_count), Column("embed.", short_count)),
                *(Column("file", human_bytes), Column("ms/seq")),
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
        metrics = {row.metric for row in self.rows if row.score is not None}
        heading = (metrics.pop() or "").replace("_", " ") if len(metrics) == 1 else "score"
        sizes = list(self.rows[0].real) if self.rows else []
        real = Table(
            f"As users run it: real lengths ({c['tokens']:.0f} tokens on average), ms for a batch; memory: peak",
            (
                *(Column(name, left=True) for name in ("model", "engine")),
                *(
                    column
                    for size in sizes
                    for column in (Column(f"b{size} p50", _ms), Column("p95", _ms), Column("seq/s", _rate))
                ),
                *(Column("memory", human_bytes), Column(heading, "{:.4f}".format)),
            ),
            [
                (
                    *(row.name, row.engine),
                    *(v for each in row.real.values() for v in (each.p50, each.p95, each.sequences_per_second)),
                    *(row.peak_memory, row.score),
                )
                for row in self.rows
            ],
        )
        return [padded, real]

    def words(self) -> list[str]:
        """Returns what stands under the tables, a line each."""
        c = self.conditions
        gpus = self.machine.get("gpus") or []
        where = ", ".join(gpus) if c["device"] == "cuda" else str(self.machine.get("cpu") or "this CPU")
        threads = f"{c['threads']} thread{'' if c['threads'] == 1 else 's'}"
        return [
            f"Texts: {c['texts']}. Measured on {where}, {threads}; models and engines took turns. ± is half the "
            "distance between the slowest and the fastest round.",
            *(f"Left out: {name} in {engine}: {why}" for name, engine, why in self.left_out),
            *self.notes,
        ]


def _ms(value: float) -> str:
    return f"{value:.{0 if value >= 1000 else 1 if value >= 100 else 2}f}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


@writes()
def latency(
    models: Sequence[str | Path],
    data: DataConfig | Mapping[str, Any] | None = None,
    *,
    use_run_data: bool = True,
    output: str | Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
    quiet: bool = False,
    **settings: Any,
) -> LatencyResult:
    """Measures every model in every engine, all of them taking turns in one run, and prints two tables.

    Padded to `max_length` (Table 3 of the paper: batches of 32, length 128, three runs): median and spread of the
    milliseconds per sequence, and the speed-up, whose median is over ratios of the same round. Then as users run it:
    texts at their real lengths in batches of one and of `batch`, median and 95th percentile. Then the peak memory of
    each, in a process of its own. Tokenising is in none of the times.

    Args:
        models: model folders (run folders), Hub ids, or folders that `codir export` made; the first is what the
            others' speed-ups are against.
        data: a task whose validation texts are used, or a `validation` file; by default what the first run folder was
            made with, and where none is named, sentences of the built-in task.
        use_run_data: False: no data but those named.
        output: JSON file to write (`LatencyResult.from_json` reads it).
        **settings: of `codir.deploy.settings.LatencySettings`.

    Raises:
        ConfigError: no models; an engine that is unknown, not installed, or does not fit the folder or the device.
        ModelError: a model that cannot be loaded or run.
        DataError: for everything wrong with the data.
        RunError: the output exists or cannot be written; nothing could be measured.
    """
    one_process_only("codir latency")
    wanted = settings_of(LatencySettings, settings)
    batch, rounds, device = wanted.batch, wanted.rounds, wanted.device
    chosen_lines = choose(models, wanted.engines, device)
    max_length, known = wanted.max_length or LENGTH, first_inputs(models)
    task, source, texts, notes = _texts(choose_data(models, data, use_run_data), batch, wanted.sequences)
    if wanted.max_length is None and known is not None and known.max_length is not None:
        max_length = known.max_length
        notes.append(f"{known.words({'max_length': max_length})}")
    peaks: dict[str, int] = {}
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with contextlib.ExitStack() as stack:
        # torch's threads, for the measurement alone; the other engines are loaded with as many
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(wanted.threads or torch.get_num_threads())
        lines, left_out = load_lines(stack, chosen_lines, texts, batch, max_length, device)
        if not lines:
            why = "\n".join(f"{name} in {engine}: {reason}" for name, engine, reason in left_out)
            raise RunError(f"Nothing could be measured.\n{why}")
        notes += _notes_on_length(lines, texts, max_length)
        pairs = {line.key: (line.model, line.tokenizer) for line in lines}
        with progress_bar(f"padded to {max_length} tokens") as progress:
            padded = measure(pairs, texts, batch, max_length, rounds, device, True, progress=progress)
        real: dict[str, dict[str, RealLengths]] = {}
        for size in dict.fromkeys((1, batch)):
            with progress_bar(f"real lengths, batches of {size}") as progress:
                real[str(size)] = measure_requests(pairs, texts, size, max_length, rounds, device, progress=progress)
        used = torch.get_num_threads()
        with progress_bar("memory", len(lines)) as progress:
            for number, line in enumerate(lines):
                if wanted.memory:
                    inputs = encode_batch(line.model, line.tokenizer, texts[:batch], max_length, True)
                    try:
                        engine = None if line.manifest else line.engine
                        peaks[line.key] = peak_memory(line.folder, engine, inputs, device)
                    except RunError as error:
                        notes.append(f"The memory of {line.key} is not known: {error}")
                progress(number + 1, len(lines))
        rows = [
            _row(line, padded[line.key], {size: each[line.key] for size, each in real.items()}, peaks) for line in lines
        ]
    rows = _same_examples(rows, notes)
    place = machine()
    notes += busy_words(rows, load_before, used, int(place["cores"] or 1))
    conditions = {
        **wanted.model_dump(include={"batch", "rounds", "device"}),
        "max_length": max_length,
        "sequences": len(texts),
        "threads": used,
        "texts": source,
        "tokens": next(iter(real.values()))[lines[0].key].tokens,
        "load_before": load_before,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    installed = versions() | {name: version for name, version in versions(_PACKAGES).items() if version}
    result = LatencyResult(
        tuple(rows), {**place, "versions": installed}, conditions, task, tuple(notes), tuple(left_out)
    )
    if output is not None:
        write_json(output, result.to_json())
    if not quiet:
        console = terminal(console)
        for table in result.tables():
            console.print(table.to_rich())
            console.print()
        for text in [*result.words(), *([f"Written to {output}"] if output is not None else [])]:
            console.print(text, highlight=False, markup=False, soft_wrap=text.startswith("Written"))
    return result


def _texts(chosen: Chosen, batch: int, sequences: int) -> tuple[str, str, list[Text], list[str]]:
    """Returns the task's name, where its texts are from, the texts in whole batches, and what to know of them."""
    notes = [chosen.words] if chosen.words and chosen.run is None else []
    data = chosen.config or DataConfig(task=BUILT_IN)
    with of_run(chosen):
        if data.task is None:  # a file needs no labels
            path = data.validation or data.train
            assert path is not None  # the configuration makes sure
            columns = {"text": data.text or DEFAULT_TEXT, "text_pair": data.text_pair}
            split = load_texts(path, **columns, delimiter=data.delimiter, encoding=data.encoding)
            task, source = Path(path).stem, path
        else:
            # the built-in task generates as many as asked for; elsewhere a limit draws a fixed random subset
            loaded = load_data(data.model_copy(update={"limit_validation": sequences}), train=False)
            task, split = loaded.task.name, loaded.validation[loaded.main_split]
            made_up = f"made-up sentences of the built-in task {BUILT_IN}"
            source = made_up if data.task.lower() == BUILT_IN else f"{task}, validation"
    if chosen.run is not None:
        source += f", as in {chosen.run}"
    texts = texts_of(split, sequences)
    if texts and len(texts) < batch:
        notes.append(f"There are only {len(texts)} texts: they were repeated to fill a batch of {batch}.")
        texts = (texts * (batch // len(texts) + 1))[:batch]
    # a last batch that is smaller would be another shape, for which some engines prepare themselves anew
    return task, source, texts[: len(texts) // batch * batch], notes


def _notes_on_length(lines: Sequence[Line], texts: Sequence[Text], max_length: int) -> list[str]:
    notes = []
    for line in {line.path: line for line in lines}.values():
        longest = min(max_length, line.tokenizer.model_max_length)
        limit = length_limit(longest, line.model.config) or max_length
        if limit < max_length:
            notes.append(f"{line.name} has positions for {limit} tokens: its inputs were cut there.")
        if cut := sum(length > limit for length in token_lengths(line.tokenizer, texts)):
            notes.append(f"For {line.name} {cut} of {len(texts)} texts were cut at {limit} tokens.")
    return notes


def _row(line: Line, padded: Timing, real: dict[str, RealLengths], peaks: dict[str, int]) -> LatencyRow:
    manifest, parameters, embedding, size = line.manifest, None, None, None
    if manifest is not None:
        parameters, embedding, size = manifest.parameters, manifest.embedding_parameters, manifest.bytes
    else:
        parameters, embedding = count_parameters(line.model)
        if Path(line.folder).expanduser().is_dir():
            size = model_size(line.folder) or None
    layers = getattr(line.model.config, "num_hidden_layers", None)
    metric, score, examples = score_of(line) or (None, None, None)
    return LatencyRow(
        *(line.name, line.path, line.engine, line.precision, layers if isinstance(layers, int) else None),
        *(parameters, embedding, size, padded, real, peaks.get(line.key), score, metric, examples),
    )


def _same_examples(rows: Sequence[LatencyRow], notes: list[str]) -> list[LatencyRow]:
    """Keeps the scores that are on as many examples as the first one and by the same metric; notes which are not."""

    def basis(row: LatencyRow) -> str:
        return f"{row.name} in {row.engine}: {row.metric} on {row.examples} examples"

    scored = [row for row in rows if row.score is not None]
    others = [row for row in scored if (row.metric, row.examples) != (scored[0].metric, scored[0].examples)]
    if others:
        notes.append(
            f"Scores that cannot be compared with the first one are left out ({basis(scored[0])}): "
            f"{'; '.join(map(basis, others))}. Export with the data of the run to have them on the same examples."
        )
    return [replace(row, score=None, metric=None) if row in others else row for row in rows]


def busy_words(rows: Sequence[LatencyRow], load: float | None, threads: int, cores: int) -> list[str]:
    """Returns a line if the machine did something else meanwhile: the times are then too long, the ratios less so.

    `load` is the load average at the start, `cores` are those that this process may use, `threads` those it does.
    """
    signs = []
    if load is not None and load > max(cores - threads, 0) + 0.5:
        signs.append(f"load average {load:.1f} at the start")
    wide = max(rows, key=lambda row: row.timing.spread / row.timing.ms_per_sequence)
    if (share := wide.timing.spread / wide.timing.ms_per_sequence) > _BUSY_SPREAD:
        signs.append(f"the rounds of {wide.name} in {wide.engine} differ by ±{share:.0%}")
    return signs and [
        f"{BUSY} ({cores} cores, {threads} used here: {'; '.join(signs)}): the times are too long, and engines suffer "
        "unequally from that. Measure again when nothing else runs."
    ]
