"""Prepares a corpus: documents packed by `datasets.map`, some of them held out, the folder finished by its manifest."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash

from codir import __version__
from codir.data.corpus import FORMAT, MANIFEST, WORK, Corpus, open_corpus, tokenizer_digest
from codir.data.corpus_sources import (
    DOCUMENTS,
    Document,
    Source,
    conversion,
    find_sources,
    read_documents,
    scan,
)
from codir.data.encodings import require_encoding
from codir.data.packing import Encoder, Packing
from codir.errors import CodirError, ConfigError, DataError, ModelError, RunError, nearest
from codir.locks import LOCK, exclusive, is_trace
from codir.manifest import entries, entry
from codir.models.positions import position_limit
from codir.storage import read_json, require_disk, require_name, require_writable, whole_file, write_json

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

PORTION_BYTES = 1 << 26
"""Bytes of text packed at a time: what memory holds, and what an interruption costs at most."""

MOST_HELD_OUT = 2000
"""Blocks held out at most: an evaluation has to stay cheap."""

_LEAST_TEXT = 6  # tokens of text that a block must have room for
_WORTH_A_PROCESS = 1 << 22  # bytes of text
_EXAMPLES = 5  # of skipped documents that are named
_SOURCES_LISTED = 1000
_PLAN = "plan.json"
_PARTS = ("train", "validation", "tokenizer")


def build_corpus(
    inputs: Sequence[str],
    tokenizer: str,
    output: Path,
    *,
    block: int = 512,
    text: str = "text",
    documents: str = "auto",
    encoding: str | None = None,
    validation: float = 0.01,
    workers: int | None = None,
    seed: int = 0,
    allow_skipped: float = 0.01,
    resume: bool = False,
    progress: Callable[[int, int], None] = lambda done, in_all: None,
) -> Corpus:
    """Prepares a corpus folder. The same inputs and options give the same bytes, whatever the number of workers.

    Args:
        inputs: files (.txt, .jsonl, .parquet), folders, patterns, or Hub data sets (`owner/name:config:split`).
        tokenizer: model folder, tokenizer folder or Hub id.
        output: the corpus folder; missing or empty, unless `resume`.
        block: the most tokens of a block, special tokens included.
        text: column of the text in JSON lines and Parquet.
        documents: what is a document in a text file: each `line`, the lines between `blank` lines, what follows a
            `heading` of WikiText, the whole `file`, or `auto`: decided for each file from its beginning.
        encoding: of the text files (.txt, .jsonl) that are not UTF-8.
        validation: share of the documents to hold out; 0 for none.
        workers: processes; the cores this process may use if None.
        seed: of the choice of the documents held out.
        allow_skipped: the largest share of files, and of documents, that may be left out as unreadable or empty.
        resume: go on with a corpus that was interrupted: what is packed already is not packed again.
        progress: called with (bytes of text done, in all).

    Raises:
        ConfigError: a setting that cannot be.
        DataError: inputs that cannot be read, or too many of them; nothing to make a corpus of.
        ModelError: no such tokenizer.
        RunError: the output is in the way or in use, the disk too small, or what is resumed was another corpus.
    """
    encoding = _check_settings(documents, validation, workers, allow_skipped, encoding)
    output = Path(output).expanduser()
    _check_output(output, resume)
    loaded, config = _load_tokenizer(tokenizer)
    packing = Packing(Encoder(loaded), block, seed)
    _check_block(packing, loaded, config)
    options: dict[str, Any] = {
        "inputs": [str(each) for each in inputs],
        "tokenizer": tokenizer_digest(loaded),
        "block": block,
        "text": text,
        "documents": documents,
        "encoding": encoding,
        "validation": validation,
        "seed": seed,
    }
    made = [each for each in (output, *output.parents) if not each.exists()]
    require_writable(output)
    with exclusive(output):
        _check_output(output, resume)  # again: another process may have been here in between
        if (output / MANIFEST).is_file():
            corpus = open_corpus(output)
            _check_same(output, corpus.manifest["options"], options)
            shutil.rmtree(output / WORK, ignore_errors=True)
            return corpus
        work = output / WORK
        begun = (work / _PLAN).is_file()
        try:
            sources = [scan(each, text, documents, encoding) for each in find_sources(inputs, text)]
            plan = {
                "options": {**options, "portion": PORTION_BYTES},
                "sources": {each.path: each.digest for each in sources},
            }
            if begun:
                _check_begun(output, read_json(work / _PLAN), plan)
            _check_files(sources, allow_skipped)
        except CodirError:
            if not begun:
                _leave_no_trace(work, made)
            raise
        try:
            work.mkdir(exist_ok=True)
            write_json(work / _PLAN, plan)
            skipped = _Skipped()
            packed = _pack(sources, packing, text, work, workers or available_cpus(), skipped, progress)
            skipped.check(sum(int(_blocks_of(each).astype(bool).sum()) for each in packed), allow_skipped)
            final = work / "final"
            shutil.rmtree(final, ignore_errors=True)
            _save_tokenizer(loaded, config, tokenizer, final / "tokenizer")
            facts = _write_parts(packed, packing, validation, options, final)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise RunError(
                    f"The disk of {output} is full. Free some space; the same command with --resume goes on."
                ) from error
            raise
        facts["counts"]["files"] = len(sources)
        folder = Path(tokenizer).expanduser()
        manifest = {
            "format": FORMAT,
            "codir": __version__,
            "tokenizer": {
                "name": str(folder.resolve()) if folder.is_dir() else tokenizer,
                "digest": options["tokenizer"],
                "class": type(loaded).__name__,
            },
            "vocab_size": len(loaded),
            "block": block,
            "options": options,
            **facts,
            "sources": [each.facts() for each in sources if each.skipped is None][:_SOURCES_LISTED],
            "skipped": {
                "files": [{"name": each.name, "reason": each.skipped} for each in sources if each.skipped],
                "documents": skipped.reasons,
                "examples": skipped.examples,
            },
        }
        for name in _PARTS:
            shutil.rmtree(output / name, ignore_errors=True)
            os.replace(final / name, output / name)
        write_json(output / MANIFEST, manifest)  # last of all: without it there is no corpus
        shutil.rmtree(work, ignore_errors=True)
    return open_corpus(output, digests=False)


def available_cpus() -> int:
    """Returns the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- packing


class _Skipped:
    """Documents that are left out: how many for each reason, and where the first few of them are."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.examples: list[str] = []

    def add(self, document: Document, reason: str) -> None:
        self.reasons[reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{document.place}: {reason}")

    def check(self, used: int, allowed: float) -> None:
        """Raises `DataError` if there is no document, or too large a share was skipped."""
        skipped = self.reasons.total()
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.reasons.items()))
        named = "".join(f"\n  {example}" for example in self.examples)
        if not used:
            raise DataError(
                f"The corpus is empty: the inputs hold no document{f' ({reasons})' if reasons else ''}.{named}"
            )
        if skipped > allowed * (skipped + used):
            share = skipped / (skipped + used)
            raise DataError(
                f"{skipped:,} of {skipped + used:,} documents ({share:.1%}) cannot be used: {reasons}.{named}\n"
                f"Mend them, or let them be skipped: --resume --allow-skipped {min(share + 0.005, 1):.2f}."
            )


def _pack(
    sources: Sequence[Source],
    packing: Packing,
    text: str,
    work: Path,
    workers: int,
    skipped: _Skipped,
    progress: Callable[[int, int], None],
) -> list[Dataset]:
    """Packs all documents, portion by portion; the portions that are in `work` already are taken as they are."""
    from datasets import Dataset, Features, List, Value

    given = Features({"text": Value("large_string")})
    made = Features(
        {"blocks": List(List(Value("int32"))), "hash": Value("uint64"), "sentences": Value("int64")}
    )
    usable = [source for source in sources if source.skipped is None]
    in_all = sum(source.bytes for source in usable)
    documents = itertools.chain.from_iterable(read_documents(source, text) for source in usable)
    packed: list[Dataset] = []
    done = written = 0
    progress(0, in_all)
    for number, (portion, size) in enumerate(_portions(documents, skipped)):
        processes = min(workers, len(portion), -(-size // _WORTH_A_PROCESS))
        with _workers_of_this_process():
            result = Dataset.from_dict({"text": [each.text for each in portion]}, given).map(
                packing,
                batched=True,
                remove_columns=["text"],
                features=made,
                num_proc=processes if processes > 1 else None,
                cache_file_name=str(work / f"{number:06d}.arrow"),
                load_from_cache_file=True,
                new_fingerprint=f"portion-{number}",
            )
        packed.append(result)
        for document, blocks in zip(portion, _blocks_of(result), strict=True):
            if not blocks:
                skipped.add(document, "no tokens")
        done, written = done + size, written + result.data.nbytes
        if number == 0:  # what is to come, and all of it once more as the finished corpus
            require_disk(work, int(written / done * (2 * max(in_all, done) - done)), "The corpus")
        progress(min(done, in_all), in_all)
    progress(in_all, in_all)
    return packed


def _portions(documents: Iterator[Document], skipped: _Skipped) -> Iterator[tuple[list[Document], int]]:
    """Yields documents that are about `PORTION_BYTES` of text together, and their size."""
    portion, size = [], 0
    for document in documents:
        if document.fault:
            skipped.add(document, document.fault)
            continue
        portion.append(document)
        size += len(document.text.encode())
        if size >= PORTION_BYTES:
            yield portion, size
            portion, size = [], 0
    if portion:
        yield portion, size


_preparing = False


def _in_worker() -> None:
    """Ends a worker with the process that started it: a pool's workers do not notice when that one was killed."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    if _preparing:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it says what is to be said
        threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_worker)


@contextlib.contextmanager
def _workers_of_this_process() -> Iterator[None]:
    """Says in a sentence what becomes of the workers of `datasets.map`, and keeps its bars out of sight."""
    import datasets

    global _preparing
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    _preparing = True
    try:
        yield
    except RuntimeError as error:
        if "abruptly died" not in str(error):
            raise
        raise RunError(
            "A worker process was killed, perhaps because memory ran out. The same command with --resume goes on "
            "from the finished parts; --workers 1 needs the least memory."
        ) from error
    except Exception as error:
        if isinstance(
            error.__context__, KeyboardInterrupt
        ):  # after it `map` finds that its workers are not done
            raise KeyboardInterrupt from None
        raise
    finally:
        _preparing = False
        if shown:
            datasets.enable_progress_bars()


# --- the finished corpus


def _column(packed: Dataset, name: str) -> Any:
    return packed.data.column(name).combine_chunks()


def _blocks_of(packed: Dataset) -> np.ndarray:
    """Returns the number of blocks of each document."""
    return _column(packed, "blocks").value_lengths().to_numpy(zero_copy_only=False)


def _write_parts(
    packed: Sequence[Dataset], packing: Packing, validation: float, options: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Writes train and validation; returns counts, files and key for the manifest.

    Documents are numbered through the whole corpus, but for those without a token.
    """
    from datasets import Features, List, Value

    blocks = np.concatenate([_blocks_of(each) for each in packed])
    hashes = np.concatenate([_column(each, "hash").to_numpy() for each in packed])
    held = choose_validation(hashes[blocks > 0], blocks[blocks > 0], validation)
    features = Features({"input_ids": List(Value("int32")), "document": Value("int64")})
    parts = {"train": _Part(~held, features.arrow_schema), "validation": _Part(held, features.arrow_schema)}
    with contextlib.ExitStack() as stack:
        for name, part in parts.items():
            part.open(stack, folder / name / "00000.arrow")
        start = 0
        for each in packed:
            counts = _blocks_of(each)
            counts = counts[counts > 0]
            owners = np.repeat(np.arange(start, start + len(counts)), counts)
            start += len(counts)
            for part in parts.values():
                part.write(_column(each, "blocks").flatten(), owners)
    special = len(packing.encoder.prefix) + len(packing.encoder.suffix)
    counts_of = {
        name: {
            "documents": int(part.chosen.sum()),
            "tokens": part.tokens - special * part.blocks,
            "blocks": part.blocks,
        }
        for name, part in parts.items()
    }
    total = {
        name: sum(each[name] for each in counts_of.values()) for name in ("documents", "tokens", "blocks")
    }
    content = {
        "format": FORMAT,
        "tokenizer": options["tokenizer"],
        "block": packing.block,
        **{name: part.digest() for name, part in parts.items()},
    }
    saved = {f"tokenizer/{name}": facts for name, facts in entries(folder / "tokenizer").items()}
    return {
        "counts": {
            "documents": total["documents"],
            "sentences": int(sum(np.sum(_column(each, "sentences").to_numpy()) for each in packed)),
            "tokens": total["tokens"],
            "blocks": total["blocks"],
            "fill": sum(part.tokens for part in parts.values()) / (total["blocks"] * packing.block),
            **counts_of,
        },
        "files": {
            f"{name}/00000.arrow": {**entry(folder / name / "00000.arrow"), "rows": part.blocks}
            for name, part in parts.items()
        }
        | saved,
        "key": xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest(),
    }


class _Part:
    """One part of a corpus, `train` or `validation`, as an Arrow stream that `datasets` maps into memory.

    Attributes:
        chosen: [documents] bool, the part's documents.
        blocks: number of blocks written.
        tokens: number of tokens in them, with the special ones.
    """

    def __init__(self, chosen: np.ndarray, schema: pa.Schema):
        self.chosen, self.schema = chosen, schema
        self.blocks = self.tokens = 0
        # one for each array, so that the division into batches does not count
        self._digests = [xxhash.xxh3_128() for _ in range(3)]

    def open(self, stack: contextlib.ExitStack, path: Path) -> None:
        """Opens the file, until the stack ends."""
        file = stack.enter_context(whole_file(path))
        self._writer = stack.enter_context(pa.ipc.new_stream(file, self.schema))

    def write(self, blocks: Any, documents: np.ndarray) -> None:
        """Appends those blocks (a list array) that belong to chosen documents."""
        mask = self.chosen[documents]
        blocks, documents = blocks.filter(pa.array(mask)), documents[mask]
        if not len(blocks):
            return
        values, lengths = blocks.flatten().to_numpy(), blocks.value_lengths().to_numpy()
        for digest, array in zip(self._digests, (values, lengths, documents), strict=True):
            digest.update(np.ascontiguousarray(array).data)
        self._writer.write_batch(
            pa.RecordBatch.from_arrays([blocks, pa.array(documents)], schema=self.schema)
        )
        self.blocks += len(blocks)
        self.tokens += len(values)

    def digest(self) -> str:
        """Returns the digest of the blocks."""
        return "-".join(digest.hexdigest() for digest in self._digests)


def choose_validation(hashes: np.ndarray, blocks: np.ndarray, share: float) -> np.ndarray:
    """Chooses whole documents, by the hashes of their texts: the same ones for every tokenizer and block length.

    Args:
        hashes: [documents] uint64, of the seed and the text; equal documents stay together.
        blocks: [documents] number of blocks.
        share: of the documents, about; 0 for none. At most `MOST_HELD_OUT` blocks; with two documents or more at least
            one document, and never all.

    Returns:
        [documents] bool.
    """
    held = np.zeros(len(hashes), dtype=bool)
    if len(hashes) < 2 or share <= 0:
        return held
    order = np.argsort(hashes, kind="stable")
    below = int(np.searchsorted(hashes[order], np.uint64(min(share * 2**64, 2**64 - 1024)), side="left"))
    total = 0
    for document in order[: min(below, len(order) - 1)]:
        if total + blocks[document] <= MOST_HELD_OUT:
            held[document] = True
            total += int(blocks[document])
            if total == MOST_HELD_OUT:
                break
    if not held.any():
        fitting = order[blocks[order] <= min(MOST_HELD_OUT, int(blocks.sum()) // 2)]
        held[fitting[0] if len(fitting) else np.argmin(blocks)] = True
    return held


def _load_tokenizer(source: str) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig | None]:
    """Loads a tokenizer, and the config of the model it comes with, if any; raises `ModelError`."""
    from codir.models.loading import load_config, load_tokenizer, read_tokenizer

    folder = Path(source).expanduser()
    if folder.is_dir():
        config = load_config(folder) if (folder / "config.json").is_file() else None
        return read_tokenizer(folder), config
    tokenizer = load_tokenizer(source)
    try:
        return tokenizer, load_config(source)
    except ModelError:
        return tokenizer, None  # a repository with a tokenizer only


def _save_tokenizer(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig | None, source: str, folder: Path
) -> None:
    """Saves the tokenizer, and the model's `config.json` beside it."""
    tokenizer.save_pretrained(folder)
    original = Path(source).expanduser() / "config.json"
    if original.is_file():
        shutil.copyfile(original, folder / "config.json")
    elif config is not None:
        config.save_pretrained(folder)


# --- what stops a corpus


def _check_settings(
    documents: str, validation: float, workers: int | None, allow_skipped: float, encoding: str | None
) -> str | None:
    """Returns Python's name of an encoding other than UTF-8; raises `ConfigError` for what cannot be."""
    if documents not in DOCUMENTS:
        raise ConfigError(
            f"Documents cannot be separated by {documents!r}{nearest(documents, DOCUMENTS)}: choose one of "
            f"{', '.join(DOCUMENTS)} (--documents)."
        )
    for value, what in (
        (validation, "of documents held out (--validation)"),
        (allow_skipped, "--allow-skipped"),
    ):
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"The share {what} must lie between 0 and 1, not {value}.")
    if workers is not None and workers < 1:
        raise ConfigError(f"There must be at least one worker, not {workers}.")
    found = require_encoding(encoding).removesuffix("-sig") if encoding is not None else "utf-8"
    if "\n".encode(found) != b"\n":
        raise ConfigError(
            f"Text in {encoding} cannot be read line by line, as a corpus is: convert it to UTF-8 "
            f"(`{conversion(found)}`) and leave out --encoding."
        )
    return found if found != "utf-8" else None


def _check_block(
    packing: Packing, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig | None
) -> None:
    """Raises `ConfigError` if blocks are too small for text or too long for the model."""
    block, special = packing.block, len(packing.encoder.prefix) + len(packing.encoder.suffix)
    if block < special + _LEAST_TEXT:
        raise ConfigError(
            f"A block of {block} tokens, {special} of them special, leaves no room for text; give at least "
            f"{special + _LEAST_TEXT} (--block)."
        )
    limit, whose = tokenizer.model_max_length, "tokenizer is made"
    if config is not None:
        known = position_limit(config)
        # a model without a table of positions has no limit, whatever its tokenizer says
        limit, whose = (known if known is not None else block), "model has positions"
    if block > limit:
        raise ConfigError(
            f"A block of {block} tokens is too long: the {whose} for {limit} ({tokenizer.name_or_path}). Give "
            f"--block {limit} or less."
        )


def _check_output(output: Path, resume: bool) -> None:
    """Raises `RunError` unless the folder is empty, or holds what `resume` goes on with."""
    require_name(output, folder=True)
    if output.exists() and not output.is_dir():
        raise RunError(f"{output} is a file, not a folder. Choose another --output.")
    names = {entry.name for entry in output.iterdir()} if output.is_dir() else set()
    begun = bool(names & {MANIFEST, WORK})
    content = sorted(name for name in names if not is_trace(name))
    if resume:
        if not begun and (content or not names):
            what = "does not exist" if not output.exists() else "holds no corpus"
            raise RunError(f"Nothing to resume: {output} {what}. Leave out --resume to prepare a new one.")
    elif begun:
        state = "a corpus" if MANIFEST in names else "an unfinished corpus"
        way = "Choose another --output." if MANIFEST in names else "Add --resume or choose another --output."
        raise RunError(f"{output} already holds {state}. {way}")
    elif content:
        shown = ", ".join(content[:3]) + (", ..." if len(content) > 3 else "")
        raise RunError(f"{output} is not empty and no corpus (it holds {shown}). Choose another --output.")


def _check_begun(output: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises `RunError` if a resumed corpus was begun with other options, or other texts."""
    _check_same(output, there["options"], now["options"])
    before, after = dict(there["sources"]), now["sources"]
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            what = "is gone" if path not in after else "was changed" if path in before else "was added"
            raise RunError(f"{path} {what} since this corpus was begun. Start anew with another --output.")


def _check_same(output: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    differing = [
        f"  {name}: {there.get(name)!r} there, {value!r} now"
        for name, value in sorted(now.items())
        if there.get(name) != value
    ]
    if differing:
        raise RunError(
            f"{output} was begun with other options:\n"
            + "\n".join(differing)
            + "\nGive the same ones, or choose another --output."
        )


def _check_files(found: Sequence[Source], allowed: float) -> None:
    """Raises `DataError` if no file, or too small a share of them, can be used; names them and says why."""
    skipped = [source for source in found if source.skipped is not None]
    if not skipped:
        return
    named = "".join(f"\n  {source.name}: {source.skipped}" for source in skipped[:10])
    named += f"\n  and {len(skipped) - 10} more" if len(skipped) > 10 else ""
    if len(skipped) == len(found):
        raise DataError(f"There is no text: none of the {len(found)} files can be used.{named}")
    if len(skipped) > allowed * len(found):
        share = len(skipped) / len(found)
        raise DataError(
            f"{len(skipped)} of {len(found)} files ({share:.1%}) cannot be used:{named}\nMend or leave them out, or "
            f"let them be skipped: --allow-skipped {min(share + 0.005, 1):.2f}."
        )


def _leave_no_trace(work: Path, made: Sequence[Path]) -> None:
    """Removes what a refused corpus made: of the folders those that were not there before."""
    shutil.rmtree(work, ignore_errors=True)
    if made:
        (made[0] / LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # one that is not empty: somebody else is there by now
        for folder in made:
            folder.rmdir()
