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
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from codir import __version__
from codir.data.corpus import FORMAT, MANIFEST, WORK, Corpus, blocks_of, open_corpus, write_parts
from codir.data.corpus_sources import DOCUMENTS, Document, Source, find_sources, read_documents, scan
from codir.data.encodings import require_encoding
from codir.data.packing import Encoder, Packing, load_tokenizer_and_config, save_tokenizer, tokenizer_digest
from codir.errors import CodirError, ConfigError, DataError, RunError, nearest
from codir.files import (
    LOCK,
    exclusive,
    is_trace,
    read_json,
    require_disk,
    require_name,
    require_writable,
    write_json,
)
from codir.manifest import entries
from codir.models.config_file import position_limit

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

PORTION_BYTES = 1 << 26
"""Bytes of text packed at a time: what memory holds, and what an interruption costs at most."""

_LEAST_TEXT = 6  # tokens of text that a block must have room for
_WORTH_A_PROCESS = 1 << 22  # bytes of text
_EXAMPLES = 5  # of skipped documents that are named
_SOURCES_LISTED = 1000
_PLAN = "plan.json"


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
    _check_settings(documents, validation, workers, allow_skipped)
    encoding = require_encoding(encoding) if encoding is not None else None
    output = Path(output).expanduser()
    _check_output(output, resume)
    loaded, config = load_tokenizer_and_config(tokenizer)
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
        work = output / WORK
        if (output / MANIFEST).is_file():
            corpus = open_corpus(output)
            _check_same(output, corpus.manifest["options"], options)
            shutil.rmtree(work, ignore_errors=True)
            return corpus
        begun = (work / _PLAN).is_file()
        try:
            sources = [scan(each, text, documents, encoding) for each in find_sources(inputs, text)]
            plan = {
                "options": {**options, "portion": PORTION_BYTES},
                "sources": {each.path: each.digest for each in sources},
            }
            if begun:
                there = read_json(work / _PLAN)
                _check_same(output, *({**each["options"], **each["sources"]} for each in (there, plan)))
            unusable = [f"{each.name}: {each.skipped}" for each in sources if each.skipped]
            _check_skipped("files", len(unusable), len(sources), allow_skipped, unusable)
        except CodirError:
            if not begun:
                _leave_no_trace(work, made)
            raise
        try:
            work.mkdir(exist_ok=True)
            write_json(work / _PLAN, plan)
            reasons: Counter[str] = Counter()
            examples: list[str] = []

            def skip(document: Document, reason: str) -> None:
                reasons[reason] += 1
                if len(examples) < _EXAMPLES:
                    examples.append(f"{document.place}: {reason}")

            packed = _pack(sources, packing, text, work, workers or available_cpus(), skip, progress)
            skipped = reasons.total()
            used = sum(int((blocks_of(each) > 0).sum()) for each in packed)
            _check_skipped("documents", skipped, skipped + used, allow_skipped, examples)
            final = work / "final"
            shutil.rmtree(final, ignore_errors=True)
            save_tokenizer(loaded, config, tokenizer, final / "tokenizer")
            counts = write_parts(packed, packing, validation, final)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise RunError(
                    f"The disk of {output} is full. Free some space; the same command with --resume goes on."
                ) from error
            raise
        files = entries(final)
        content = [options["tokenizer"], block, files["train/00000.arrow"], files["validation/00000.arrow"]]
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
            "key": xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest(),
            "counts": {**counts, "files": len(sources)},
            "files": files,
            "sources": [each.facts() for each in sources if each.skipped is None][:_SOURCES_LISTED],
            "skipped": {
                "files": [{"name": each.name, "reason": each.skipped} for each in sources if each.skipped],
                "documents": reasons,
                "examples": examples,
            },
        }
        for part in final.iterdir():
            shutil.rmtree(output / part.name, ignore_errors=True)
            os.replace(part, output / part.name)
        write_json(output / MANIFEST, manifest)  # last of all: without it there is no corpus
        shutil.rmtree(work, ignore_errors=True)
    return open_corpus(output, digests=False)


def available_cpus() -> int:
    """Returns the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- packing


def _pack(
    sources: Sequence[Source],
    packing: Packing,
    text: str,
    work: Path,
    workers: int,
    skip: Callable[[Document, str], None],
    progress: Callable[[int, int], None],
) -> list[Dataset]:
    """Packs all documents, portion by portion; the portions that are in `work` already are taken as they are."""
    from datasets import Dataset, Features, List, Value

    given = Features({"text": Value("large_string")})
    made = Features({"blocks": List(List(Value("int32"))), "hash": Value("uint64"), "sentences": Value("int64")})
    usable = [source for source in sources if source.skipped is None]
    in_all = sum(source.bytes for source in usable)
    documents = itertools.chain.from_iterable(read_documents(source, text) for source in usable)
    packed: list[Dataset] = []
    done = written = 0
    progress(0, in_all)
    for number, (portion, size) in enumerate(_portions(documents, skip)):
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
        for document, blocks in zip(portion, blocks_of(result), strict=True):
            if not blocks:
                skip(document, "no tokens")
        done, written = done + size, written + result.data.nbytes
        if number == 0:  # what is to come, and all of it once more as the finished corpus
            require_disk(work, int(written / done * (2 * max(in_all, done) - done)), "The corpus")
        progress(min(done, in_all), in_all)
    progress(in_all, in_all)
    return packed


def _portions(
    documents: Iterable[Document], skip: Callable[[Document, str], None]
) -> Iterator[tuple[list[Document], int]]:
    """Yields documents that are about `PORTION_BYTES` of text together, and their size."""
    portion, size = [], 0
    for document in documents:
        if document.fault:
            skip(document, document.fault)
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
    except Exception as error:
        if "abruptly died" in str(error):
            raise RunError(
                "A worker process was killed, perhaps because memory ran out. The same command with --resume goes on "
                "from the finished parts; --workers 1 needs the least memory."
            ) from error
        if isinstance(error.__context__, KeyboardInterrupt):  # after it `map` finds its workers not done
            raise KeyboardInterrupt from None
        raise
    finally:
        _preparing = False
        if shown:
            datasets.enable_progress_bars()


# --- what stops a corpus


def _check_settings(documents: str, validation: float, workers: int | None, allow_skipped: float) -> None:
    if documents not in DOCUMENTS:
        raise ConfigError(
            f"Documents cannot be separated by {documents!r}{nearest(documents, DOCUMENTS)}: choose one of "
            f"{', '.join(DOCUMENTS)} (--documents)."
        )
    if not (0.0 <= validation <= 1.0 and 0.0 <= allow_skipped <= 1.0):
        raise ConfigError(f"--validation {validation} and --allow-skipped {allow_skipped} must lie between 0 and 1.")
    if workers is not None and workers < 1:
        raise ConfigError(f"There must be at least one worker, not {workers}.")


def _check_block(packing: Packing, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig | None) -> None:
    """Raises `ConfigError` if blocks are too small for text or too long for the model."""
    block, least = packing.block, len(packing.encoder.prefix) + len(packing.encoder.suffix) + _LEAST_TEXT
    if block < least:
        raise ConfigError(f"A block of {block} tokens leaves no room for text; give at least {least} (--block).")
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
    content = sorted(name for name in names if not is_trace(name))
    if names & {MANIFEST, WORK}:
        if not resume:
            state = "a corpus" if MANIFEST in names else "an unfinished corpus"
            raise RunError(f"{output} already holds {state}. Add --resume or choose another --output.")
    elif resume and (content or not names):
        raise RunError(f"Nothing to resume: {output} holds no corpus. Leave out --resume to prepare a new one.")
    elif content:
        raise RunError(f"{output} is not empty and no corpus (it holds {content[0]}). Choose another --output.")


def _check_same(output: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises `RunError` if a corpus was begun with other options or texts."""
    names = [name for name in sorted(there.keys() | now.keys()) if there.get(name) != now.get(name)]
    if names:
        lines = [f"  {name}: {there.get(name)!r} there, {now.get(name)!r} now" for name in names]
        lines.append("Give the same ones, or choose another --output.")
        raise RunError("\n".join([f"{output} was begun with other options or texts:", *lines]))


def _check_skipped(what: str, skipped: int, total: int, allowed: float, named: Sequence[str]) -> None:
    """Raises `DataError` if nothing, or too small a share of something, can be used; names the first and says why."""
    shown = "".join(f"\n  {each}" for each in named[:10])
    if skipped == total:
        raise DataError(f"The corpus is empty: none of {total} {what} can be used.{shown}")
    if skipped > allowed * total:
        share, resume = skipped / total, " --resume" * (what == "documents")
        raise DataError(
            f"{skipped:,} of {total:,} {what} ({share:.1%}) cannot be used:{shown}\nMend or leave them out, or let "
            f"them be skipped: --allow-skipped {min(share + 0.005, 1):.2f}{resume}."
        )


def _leave_no_trace(work: Path, made: Sequence[Path]) -> None:
    """Removes what a refused corpus made: of the folders those that were not there before."""
    shutil.rmtree(work, ignore_errors=True)
    if made:
        (made[0] / LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # one that is not empty: somebody else is there by now
        for folder in made:
            folder.rmdir()
