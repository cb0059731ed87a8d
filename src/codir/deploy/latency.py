"""Measures models and engines side by side: the paper's Table 3, and speed and memory as users run them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from codir.config.config import DataConfig
from codir.data import BUILT_IN
from codir.data.encoding import length_limit
from codir.data.files import load_texts
from codir.deploy.latency_models import Line, choose, load_lines, score_of
from codir.deploy.latency_table import BUSY, LatencyResult, LatencyRow
from codir.deploy.memory import peak_memory
from codir.errors import ConfigError, DataError, RunError
from codir.files import write_json, writes
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
from codir.training.processes import one_process_only

if TYPE_CHECKING:
    from datasets import Dataset

LENGTH = 128  # Table 3 of the paper
_BUSY_SPREAD = 0.1
_PACKAGES = ("onnxruntime", "openvino", "nncf", "onnx")


@writes()
def latency(
    models: Sequence[str | Path],
    data: DataConfig | Mapping[str, Any] | None = None,
    engines: Sequence[str] | None = None,
    *,
    use_run_data: bool = True,
    batch: int = 32,
    max_length: int | None = None,
    rounds: int = 3,
    sequences: int = 256,
    threads: int | None = None,
    device: str = "cpu",
    memory: bool = True,
    output: str | Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
    quiet: bool = False,
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
        engines: for the model folders, of `codir.deploy.latency_models.ENGINES`; `torch` by default. For ONNX
            Runtime and OpenVINO a model folder is exported into a temporary folder first. Exported folders run in
            their own engine.
        use_run_data: False: no data but those named.
        batch: sequences in a batch.
        max_length: tokens to which sequences are padded, and cut; by default as in the first model's run, else 128.
        rounds: passes over the texts.
        sequences: texts to use, at most.
        threads: for every engine alike; as many as torch would use by default.
        device: `cpu` or `cuda`.
        memory: measure the peak memory, too.
        output: JSON file to write (`LatencyResult.from_json` reads it).
        overwrite: replaces an existing output.
        console: where to print; the terminal by default.
        quiet: prints nothing.

    Raises:
        ConfigError: no models; an engine that is unknown, not installed, or does not fit the folder or the device.
        ModelError: a model that cannot be loaded or run.
        DataError: for everything wrong with the data.
        RunError: the output exists or cannot be written; nothing could be measured.
    """
    one_process_only("codir latency")
    for name, value in (("batch", batch), ("rounds", rounds), ("sequences", sequences), ("threads", threads)):
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value} must be at least 1.")
    chosen_lines = choose(models, engines, device)
    inputs = first_inputs(models)
    of_run = inputs.max_length if inputs is not None and max_length is None else None
    max_length = next(each for each in (max_length, of_run, LENGTH) if each is not None)
    length_limit(max_length, None)
    task, source, texts, notes = _texts(choose_data(models, data, use_run_data), batch, sequences)
    if inputs is not None and of_run is not None:
        notes.append(f"{inputs.words({'max_length': max_length})}")
    load_before = _load_average()
    with _threads(threads), contextlib.ExitStack() as stack:
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
                real[str(size)] = measure_requests(
                    pairs, texts, size, max_length, rounds, device, progress=progress
                )
        load_after, used = _load_average(), torch.get_num_threads()
        peaks = _peaks(lines, texts[:batch], max_length, device, notes) if memory else {}
        rows = [
            _row(line, padded[line.key], {size: each[line.key] for size, each in real.items()}, peaks)
            for line in lines
        ]
    rows = _same_examples(rows, notes)
    place = machine()
    notes += busy_words(rows, load_before, load_after, used, int(place["cores"] or 1))
    conditions = {
        "batch": batch,
        "max_length": max_length,
        "rounds": rounds,
        "sequences": len(texts),
        "threads": used,
        "device": device,
        "texts": source,
        "tokens": next(iter(real.values()))[lines[0].key].tokens,
        "load_before": load_before,
        "load_after": load_after,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    installed = versions() | {name: version for name, version in versions(_PACKAGES).items() if version}
    result = LatencyResult(
        tuple(rows), {**place, "versions": installed}, conditions, task, tuple(notes), tuple(left_out)
    )
    if output is not None:
        write_json(output, result.to_json())
    if not quiet:
        print_result(result, terminal(console), output)
    return result


def _texts(chosen: Chosen, batch: int, sequences: int) -> tuple[str, str, list[Text], list[str]]:
    """Returns the task's name, where its texts are from, the texts in whole batches, and what to know of them."""
    notes = [chosen.words] if chosen.words and chosen.run is None else []
    try:
        task, source, split = _split(chosen.config or DataConfig(task=BUILT_IN), sequences)
        if chosen.run is not None:
            source += f", as in {chosen.run}"
    except (DataError, ConfigError) as error:
        if chosen.run is None:
            raise
        notes.append(
            f"The data of {chosen.run} cannot be read any more ({str(error).splitlines()[0].rstrip('.')}). Name them "
            "anew by --task or --validation."
        )
        task, source, split = _split(DataConfig(task=BUILT_IN), sequences)
    texts = texts_of(split, sequences)
    if not texts:
        return task, source, texts, notes
    if len(texts) < batch:
        notes.append(f"There are only {len(texts)} texts: they were repeated to fill a batch of {batch}.")
        texts = (texts * (batch // len(texts) + 1))[:batch]
    # a last batch that is smaller would be another shape, for which some engines prepare themselves anew
    return task, source, texts[: len(texts) // batch * batch], notes


def _split(data: DataConfig, sequences: int) -> tuple[str, str, Dataset]:
    """Returns the task's name, where its texts are from, and the examples."""
    if data.task is not None:
        # the built-in task generates as many as asked for; elsewhere a limit draws a fixed random subset
        loaded = load_data(data.model_copy(update={"limit_validation": sequences}), train=False)
        split, task = loaded.validation[loaded.main_split], loaded.task.name
        source = f"{task}, validation"
        if data.task.lower() == BUILT_IN:
            source = f"made-up sentences of the built-in task {BUILT_IN}"
    else:
        path = data.validation or data.train
        assert path is not None  # the configuration makes sure
        split = load_texts(
            path,
            text=data.text or DEFAULT_TEXT,
            text_pair=data.text_pair,
            delimiter=data.delimiter,
            encoding=data.encoding,
        )
        task, source = Path(path).stem, path
    return task, source, split


@contextlib.contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    """Sets torch's threads for the block; the other engines are loaded with as many."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _notes_on_length(lines: Sequence[Line], texts: Sequence[Text], max_length: int) -> list[str]:
    notes = []
    for line in {line.path: line for line in lines}.values():
        limit = (
            length_limit(min(max_length, line.tokenizer.model_max_length), line.model.config) or max_length
        )
        if limit < max_length:
            notes.append(
                f"{line.name} has positions for {limit} tokens: its inputs were cut there, in every engine."
            )
        cut = sum(length > limit for length in token_lengths(line.tokenizer, texts))
        if cut:
            notes.append(
                f"{cut} of {len(texts)} texts {'is' if cut == 1 else 'are'} longer than {limit} tokens for "
                f"{line.name} and {'was' if cut == 1 else 'were'} cut."
            )
    return notes


def _peaks(
    lines: Sequence[Line], texts: Sequence[Text], max_length: int, device: str, notes: list[str]
) -> dict[str, int]:
    peaks = {}
    with progress_bar("memory", len(lines)) as progress:
        for number, line in enumerate(lines):
            inputs = encode_batch(line.model, line.tokenizer, texts, max_length, True)
            engine = None if line.manifest else line.engine
            try:
                peaks[line.key] = peak_memory(line.folder, engine, inputs, device=device)
            except RunError as error:
                notes.append(f"The memory of {line.key} is not known: {error}")
            progress(number + 1, len(lines))
    return peaks


def _row(line: Line, padded: Timing, real: dict[str, RealLengths], peaks: dict[str, int]) -> LatencyRow:
    manifest, size = line.manifest, None
    parameters = embedding = None
    if manifest is not None:
        parameters, embedding, size = manifest.parameters, manifest.embedding_parameters, manifest.bytes
    elif Path(line.folder).expanduser().is_dir():
        size = model_size(line.folder) or None
    if parameters is None and any(True for _ in line.model.parameters()):
        parameters, embedding = count_parameters(line.model)
    layers = getattr(line.model.config, "num_hidden_layers", None)
    metric, score, examples = score_of(line) or (None, None, None)
    return LatencyRow(
        name=line.name,
        path=line.path,
        engine=line.engine,
        precision=line.precision,
        layers=layers if isinstance(layers, int) else None,
        parameters=parameters,
        embedding_parameters=embedding,
        bytes=size,
        timing=padded,
        real=real,
        peak_memory=peaks.get(line.key),
        score=score,
        metric=metric,
        examples=examples,
    )


def _same_examples(rows: Sequence[LatencyRow], notes: list[str]) -> list[LatencyRow]:
    """Keeps the scores that are on as many examples as the first one and by the same metric; notes which are not.

    A number of examples that is not known (of an export from before it was noted) is no match.
    """

    def basis(row: LatencyRow) -> str:
        count = "an unknown number of" if row.examples is None else f"{row.examples:,}"
        return f"{row.metric} on {count} examples"

    first = next((row for row in rows if row.score is not None), None)
    others = [row for row in rows if first and row.score is not None and basis(row) != basis(first)]
    if first is not None and others:
        named = "; ".join(f"{row.name} in {row.engine}: {basis(row)}" for row in others)
        notes.append(
            f"Scores that cannot be compared are left out: {first.name}'s is {basis(first)}, but {named}. Export with "
            "the data of the run (the default of codir export) to have them on the same examples."
        )
    return [dataclasses.replace(row, score=None, metric=None) if row in others else row for row in rows]


def busy_words(
    rows: Sequence[LatencyRow], before: float | None, after: float | None, threads: int, cores: int
) -> list[str]:
    """Returns a line if the machine did something else meanwhile: the times are then too long, the ratios less so.

    Args:
        rows: their spreads are looked at.
        before: load average (processes that run or wait, over the last minute) at the start; None where not known.
        after: at the end, when the measurement itself counts `threads`.
        threads: of the measurement.
        cores: that this process may use.
    """
    signs = []
    if before is not None and before > max(cores - threads, 0) + 0.5:
        signs.append(f"load average {before:.1f} at the start")
    if after is not None and after > cores + 0.5:
        signs.append(f"{after:.1f} at the end" if signs else f"load average {after:.1f} at the end")
    wide = max(rows, key=lambda row: row.timing.spread / row.timing.ms_per_sequence, default=None)
    if wide is not None and wide.timing.spread > _BUSY_SPREAD * wide.timing.ms_per_sequence:
        share = wide.timing.spread / wide.timing.ms_per_sequence
        signs.append(f"the rounds of {wide.name} in {wide.engine} differ by ±{share:.0%}")
    if not signs:
        return []
    return [
        f"{BUSY} ({cores} cores, {threads} used here: {'; '.join(signs)}): the times are too long, and "
        "engines suffer unequally from that (PyTorch's threads wait for one another). Measure again when nothing else "
        "runs."
    ]


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def print_result(result: LatencyResult, console: Console, output: str | Path | None = None) -> None:
    """Prints the tables, then what is to know, then the file."""
    for table in result.to_rich():
        console.print(table)
        console.print()
    for line in result.words():
        console.print(line, highlight=False, markup=False)
    if output is not None:
        console.print(f"Written to {output}", highlight=False, markup=False, soft_wrap=True)
