"""More texts for the teacher to label: copies of the training texts with words replaced (Jiao et al. 2020)."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import xxhash
from torch import nn

from codir.config.config import DataConfig
from codir.data.files import SOURCE_DIGEST, load_texts, source_digest
from codir.data.reading import read_rows
from codir.data.task import limit
from codir.errors import ConfigError, DataError, RunError
from codir.files import exclusive, read_json, whole_file, whole_text_file, write_json, writes
from codir.models.check import load_tokenizer_for
from codir.models.masked_lm import load_masked_lm
from codir.models.words import Texts, WordCandidates, copies_of, places_of
from codir.printing import Console, progress_bar, table, terminal
from codir.record.data import DEFAULT_LABEL, DEFAULT_TEXT, DEFAULT_TEXT_PAIR, load_data
from codir.teacher.store import model_digest, tokenizer_digest
from codir.training.arguments import Precision, resolve_precision
from codir.training.processes import one_process_only

PART = 128
"""Examples of a part: what an interruption costs at most, and what is tokenised at a time."""
_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_SHOWN = 3


@dataclass
class Augmentation:
    """What was made."""

    output: Path
    examples: int  # training examples it was made from
    words: int  # in them, that could be replaced
    copies: int = 0  # in the file
    unchanged: int = 0  # copies left out because no word of them was replaced
    repeated: int = 0  # copies left out because they equal another copy or a training example
    seconds: float = 0.0
    shown: list[tuple[Texts, Texts]] = field(default_factory=list)  # a few examples, each with a copy of it
    notes: list[str] = field(default_factory=list)  # sentences on the data


@writes()
def augment(
    model: str | Path,
    data: DataConfig,
    output: str | Path,
    *,
    copies: int = 20,
    probability: float = 0.4,
    candidates: int = 15,
    together: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
    precision: Precision = "auto",
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device | None = None,
    console: Console | None = None,
    quiet: bool = False,
) -> Augmentation:
    """Writes copies of the training texts with words replaced, as JSON lines for `--unlabeled`, whole or not at all.

    Algorithm 1 of Jiao et al. 2020: every word of a copy is replaced with probability p by one of its K candidates, the
    most probable whole words a masked language model finds at its place. (The paper takes neighbours in GloVe for words
    of several pieces; here such a word is masked as one token, so that no vectors of another vocabulary are needed.)
    A line is `{"text": ..., "text_pair": ..., "source": row, "source_digest": ...}`, the texts under the names that
    they have in the data; `source` counts the training examples from 0, and by the digest of the original's texts a
    training that holds them out leaves out the copy. The candidates are kept in `OUTPUT.parts` until the file is
    written: an interrupted run goes on there and writes the same file, bit for bit, on the same machine.

    Args:
        model: folder or Hub id of a masked language model, with its head.
        data: the training examples: exactly those that a training with these settings would use (`holdout`,
            `limit_train`). A file without labels is taken whole.
        output: the file to write, .jsonl.
        copies: N of the paper, of each example; those without a change and repeats are left out.
        probability: p of the paper.
        candidates: K of the paper.
        together: share of an example's words masked in one pass (see `WordCandidates`).
        seed: seed of the draws.
        batch_size: inputs run at a time.
        precision: the model's number format; `auto` is bf16 where the hardware has it.
        resume: goes on with an interrupted run.
        overwrite: replaces an existing output.
        device: where to compute; a GPU if there is one.
        console: where to print the summary; standard output by default.
        quiet: prints nothing.

    Raises:
        ConfigError: a setting is out of range.
        RunError: the output exists or cannot be written, or an interrupted run is in the way.
        DataError: the data cannot be read, or not a single copy is new.
        ModelError: the model has no head or no mask token, or gives NaN.
    """
    one_process_only("codir augment")
    output = Path(output)
    if copies < 1:
        raise ConfigError(f"{copies} copies of each text are none: give at least 1.")
    if not 0.0 < probability <= 1.0:
        raise ConfigError(f"The probability of replacing a word must lie above 0 and at most at 1, not {probability}.")
    if output.suffix.lower() != ".jsonl":
        raise RunError(f"The output {output} must end in .jsonl: it is written as JSON lines.")
    texts, pairs, notes = training_texts(data)
    result = Augmentation(output, len(texts), sum(len(places_of(each)) for each in texts), notes=notes)
    if not result.words:
        raise DataError(f"None of the {len(texts):,} training texts has a word that could be replaced.")
    chosen = resolve_precision(precision)
    masked = load_masked_lm(model)
    tokenizer = load_tokenizer_for(masked, model)
    cast(nn.Module, masked).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    proposer = WordCandidates(
        masked,
        tokenizer,
        most=candidates,
        together=together,
        max_length=data.max_length,
        batch_size=batch_size,
        autocast=_AUTOCAST[chosen],
    )
    columns = (data.text or DEFAULT_TEXT, *([data.text_pair or DEFAULT_TEXT_PAIR] if pairs else []))
    settings = {
        "the training texts": xxhash.xxh3_128_hexdigest(json.dumps(texts).encode()),
        "the masked language model": model_digest(masked),
        "the tokenizer": tokenizer_digest(tokenizer),
        "--candidates": candidates,
        "--together": together,
        "--max-length": proposer.max_length,
        "--batch-size": batch_size,
        "--precision": chosen,
        "the size of a part": PART,
    }
    started = time.monotonic()
    folder = output.with_name(f"{output.name[:60]}.parts")
    with exclusive(folder):
        _begin(folder / "candidates.json", settings, resume)
        seen = set(texts)
        with (
            progress_bar("finding candidates (words)", result.words) as progress,
            whole_text_file(output) as file,
        ):
            for row, (each, found) in enumerate(_candidates(folder, proposer, texts, progress)):
                digest = source_digest(each)
                drawn = copies_of(each, found, proposer.words, copies=copies, probability=probability, seed=seed)
                for copy in drawn:
                    if copy in seen:
                        result.unchanged += copy == each
                        result.repeated += copy != each
                        continue
                    seen.add(copy)
                    result.copies += 1
                    place = len(result.shown)
                    if place < _SHOWN and row >= len(texts) * (2 * place + 1) // (2 * _SHOWN):
                        result.shown.append((each, copy))
                    line: dict[str, Any] = {**dict(zip(columns, copy, strict=True)), SOURCE_DIGEST: digest}
                    line.setdefault("source", row)  # unless a column of texts has that name
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
            if not result.copies:
                raise DataError(
                    f"None of the copies of {len(texts):,} texts is new. Go on with --resume and more --copies or a "
                    "higher --probability."
                )
        shutil.rmtree(folder)
    result.seconds = time.monotonic() - started
    if not quiet:
        _print(result, terminal(console))
    return result


def training_texts(data: DataConfig) -> tuple[list[Texts], bool, list[str]]:
    """Returns the training examples that settings name, whether they are pairs, and what there is to say of them.

    With labels (a task, or a file with its label column) these are the rows that a training would get: without those
    held out for validation. A file without labels is taken whole.

    Raises:
        ConfigError, DataError: as `load_data` and `load_texts`.
    """
    if data.task is None and data.train is None:
        raise ConfigError("There are no training texts: add --task cola, or --train texts.csv --text review.")
    if data.task is not None or _labelled(data, Path(data.train or "")):
        loaded = load_data(data)
        assert loaded.train is not None
        split, notes = loaded.train, loaded.notes
    else:
        assert data.train is not None
        whole = load_texts(
            data.train,
            text=data.text or DEFAULT_TEXT,
            text_pair=data.text_pair,
            delimiter=data.delimiter,
            encoding=data.encoding,
        )
        split = limit(whole, data.limit_train)
        taken = "all" if len(split) == len(whole) else f"{len(split):,} (a fixed random subset)"
        notes = [f"{data.train} is read without labels: of its {len(whole):,} rows {taken} are taken."]
    pairs = "text_pair" in split.column_names
    columns = ("text", "text_pair") if pairs else ("text",)
    return list(zip(*(split[name][:] for name in columns), strict=True)), pairs, notes


def _labelled(data: DataConfig, path: Path) -> bool:
    """Whether a file is to be read with its labels: because settings say so, or because the column is there."""
    if data.label is not None or data.holdout is not None or data.validation is not None:
        return True
    if path.suffix.lower() == ".txt" or not path.is_file():
        return path.suffix.lower() != ".txt"  # what is no file is of the Hub, or missing
    try:
        read_rows(path, [DEFAULT_LABEL], data.delimiter, encoding=data.encoding)
    except DataError:
        return False
    return True


def _begin(path: Path, settings: dict[str, Any], resume: bool) -> None:
    """Notes what the candidates depend on; raises `RunError` if there are others, or any that are not wanted."""
    if not path.exists():
        write_json(path, settings)
        return
    if not resume:
        raise RunError(
            f"{path.parent} holds the candidates of a run that was interrupted: go on with it by --resume, or delete "
            "the folder."
        )
    before = read_json(path)
    if changed := [name for name, value in settings.items() if before.get(name) != value]:
        raise RunError(
            f"{path.parent} was made with other settings: {', '.join(changed)} changed. Give the same ones again, or "
            "delete the folder to start anew."
        )


def _candidates(
    folder: Path, proposer: WordCandidates, examples: Sequence[Texts], progress: Callable[[int, int], Any]
) -> Iterator[tuple[Texts, np.ndarray]]:
    """Yields every example with the candidates [words, K] of its words, from the parts that are there or made anew."""
    done, in_all = 0, sum(len(places_of(texts)) for texts in examples)
    for start in range(0, len(examples), PART):
        part, path = examples[start : start + PART], folder / f"part-{start:07d}.npy"
        if path.exists():
            found = np.load(path, allow_pickle=False)
        else:
            found = proposer.propose(part, lambda words, _, done=done: progress(done + words, in_all))
            with whole_file(path) as file:
                np.save(file, found, allow_pickle=False)
        done += len(found)
        progress(done, in_all)
        ends = np.cumsum([len(places_of(texts)) for texts in part])
        yield from zip(part, np.split(found, ends[:-1]), strict=True)


def _print(result: Augmentation, console: Console) -> None:
    for note in result.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    beside = table()
    beside.add_column("text")
    beside.add_column("copy")
    for texts, copy in result.shown:
        for original, changed in zip(texts, copy, strict=True):
            beside.add_row(original, changed)
    console.print(beside)
    console.print(
        f"{result.copies:,} copies of {result.examples:,} texts in {result.output} after {result.seconds:,.0f} s. Left "
        f"out: {result.unchanged:,} without a change, {result.repeated:,} repeats.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
