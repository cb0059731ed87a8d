"""Prepares a corpus: reads, splits, tokenises and packs text in shards, holds documents out, seals the folder."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xxhash

from codir import __version__
from codir.corpora import planning
from codir.corpora.checks import (
    check_documents,
    check_encoding,
    check_files,
    check_output,
    check_same,
    check_settings,
)
from codir.corpora.corpus import FORMAT, MANIFEST, WORK, Corpus, open_corpus, tokenizer_digest
from codir.corpora.documents import read_documents
from codir.corpora.encoder import Encoder, check_block, load, save
from codir.corpora.planning import Part, plan_shards
from codir.corpora.scanning import scan
from codir.corpora.shards import Counts, ShardFiles
from codir.corpora.sources import Source, find_sources
from codir.corpora.splitting import PartWriter, choose_validation, document_tables, write_parts
from codir.corpora.workers import Job, Shard, available_cpus, run_shards
from codir.errors import CodirError, RunError
from codir.locks import LOCK, exclusive
from codir.manifest import entries
from codir.storage import read_json, require_disk, require_writable, write_json

_PLAN = "plan.json"
_PARTS = ("train", "validation", "tokenizer")
_SOURCES_LISTED = 1000


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
    progress: Callable[[int, int], None] | None = None,
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
        resume: go on with a corpus that was interrupted, from its finished shards.
        progress: called with (bytes of text done, in all).

    Raises:
        ConfigError: a setting that cannot be.
        DataError: inputs that cannot be read, or too many of them; nothing to make a corpus of.
        ModelError: no such tokenizer.
        RunError: the output is in the way or in use, the disk too small, or what is resumed was another corpus.
    """
    check_settings(documents, validation, workers, allow_skipped)
    encoding = check_encoding(encoding)
    output = Path(output).expanduser()
    check_output(output, resume)
    loaded, config = load(tokenizer)
    encoder = Encoder(loaded)
    check_block(block, encoder, loaded, config)
    options: dict[str, Any] = {
        "inputs": [str(each) for each in inputs],
        "tokenizer": tokenizer_digest(loaded),
        "block": block,
        "text": text,
        "documents": documents,
        "encoding": encoding,
        "validation": validation,
        "seed": seed,
        "shard_bytes": planning.SHARD_BYTES,
    }
    made = [each for each in (output, *output.parents) if not each.exists()]
    require_writable(output)
    with exclusive(output):
        check_output(output, resume)  # again: another process may have been here in between
        if (output / MANIFEST).is_file():
            corpus = open_corpus(output)
            check_same(output, corpus.manifest["options"], options)
            shutil.rmtree(output / WORK, ignore_errors=True)
            return corpus
        work = output / WORK
        plan = read_json(work / _PLAN) if (work / _PLAN).is_file() else None
        if plan is not None:
            check_same(output, plan["options"], options)
        try:
            found = _look_over(options, work, plan)
            check_files(found, allow_skipped)
        except CodirError:
            if plan is None:
                _leave_no_trace(work, made)
            raise
        (work / "shards").mkdir(parents=True, exist_ok=True)
        write_json(work / _PLAN, {"options": options, "sources": [source.state() for source in found]})
        try:
            job = Job(work / "shards", found, encoder, block, text, seed)
            counts, shards = _build_shards(job, workers or available_cpus(), output, progress or _silent)
            check_documents(counts, allow_skipped)
            final = work / "final"
            shutil.rmtree(final, ignore_errors=True)
            name = (
                str(Path(tokenizer).expanduser().resolve())
                if Path(tokenizer).expanduser().is_dir()
                else tokenizer
            )
            save(loaded, config, tokenizer, final / "tokenizer")
            facts: dict[str, Any] = {
                "tokenizer": {"name": name, "digest": options["tokenizer"], "class": type(loaded).__name__},
                "vocab_size": len(loaded),
                "block": block,
                "options": options,
            }
            saved = {f"tokenizer/{name}": facts for name, facts in entries(final / "tokenizer").items()}
            facts |= _parts(final, shards, counts, facts, len(encoder.prefix) + len(encoder.suffix))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise RunError(
                    f"The disk of {output} is full. Free some space; the same command with --resume goes on."
                ) from error
            raise
        facts["sources"] = [source.facts() for source in found if source.skipped is None][:_SOURCES_LISTED]
        facts["skipped"] = {
            "files": [{"name": s.name, "reason": s.skipped} for s in found if s.skipped is not None],
            "documents": counts.skipped,
            "examples": counts.examples,
        }
        facts["files"] |= saved
        facts["counts"]["files"] = len(found)
        _seal(output, {"format": FORMAT, "codir": __version__, **facts})
    return open_corpus(output, digests=False)


def _leave_no_trace(work: Path, made: Sequence[Path]) -> None:
    """Removes what a refused corpus made: of the folders those that were not there before."""
    shutil.rmtree(work, ignore_errors=True)
    if made:
        (made[0] / LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # one that is not empty: somebody else is there by now
        for folder in made:
            folder.rmdir()


def _silent(done: int, in_all: int) -> None:
    pass


def _look_over(options: dict[str, Any], work: Path, plan: dict[str, Any] | None) -> list[Source]:
    """Finds and scans the sources; when resuming, files that have not been touched are not read again."""
    known = {entry["path"]: Source(**entry) for entry in plan["sources"]} if plan else {}
    found = find_sources(options["inputs"], options["text"], work)
    result = []
    for source in found:
        before = known.get(source.path)
        if before and (before.bytes, before.modified) == (source.bytes, source.modified):
            result.append(before)
            continue
        scan(source, options["text"], options["documents"], options["encoding"])
        if plan and (before is None or before.digest != source.digest):
            raise RunError(
                f"{source.name} {'was changed' if before else 'was added'} since this corpus was begun. Start anew "
                "with another --output."
            )
        result.append(source)
    if plan and (gone := known.keys() - {source.path for source in result}):
        raise RunError(
            f"{sorted(gone)[0]} is gone since this corpus was begun. Start anew with another --output."
        )
    return result


def _build_shards(
    job: Job, workers: int, output: Path, progress: Callable[[int, int], None]
) -> tuple[Counts, list[ShardFiles]]:
    """Builds the shards that are not there yet."""
    plan = list(plan_shards(job.sources, job.text, planning.SHARD_BYTES))
    files = [ShardFiles(job.folder, number) for number in range(len(plan))]
    done = {number: counts for number, shard in enumerate(files) if (counts := shard.counts()) is not None}
    for leftover in job.folder.glob("*.tmp-*"):
        leftover.unlink(missing_ok=True)
    in_all = sum(size for size, _ in plan)
    ready = sum(plan[number][0] for number in done)
    per_byte = 4.2 * _tokens_per_byte(job)
    # once as shards, once as the finished corpus
    require_disk(output, int(((in_all - ready) + in_all) * per_byte) + (1 << 16), "The corpus")
    progress(ready, in_all)
    todo: list[Shard] = [(number, parts) for number, (_, parts) in enumerate(plan) if number not in done]
    for number, counts in run_shards(job, todo, workers):
        done[number] = counts
        ready += plan[number][0]
        progress(ready, in_all)
    total = Counts()
    for number in range(len(plan)):
        total.add(done[number])
    return total, files


def _tokens_per_byte(job: Job) -> float:
    """Estimates the tokens a byte of text gives from the beginnings of some sources."""
    read = tokens = 0
    usable = [number for number, source in enumerate(job.sources) if source.skipped is None]
    for number in usable[:: max(1, len(usable) // 8)]:
        source = job.sources[number]
        end = (
            1
            if source.kind == "parquet"
            else min(1000, source.bytes)
            if source.kind == "arrow"
            else source.bytes
        )
        events = read_documents(source, Part(number, 0, end), job.text)
        sample = [event[:20_000] for event in itertools.islice(events, 64) if isinstance(event, str)]
        tokens += sum(map(len, job.encoder.encode(sample)))
        read += sum(len(piece.encode()) for piece in sample)
    return tokens / read if read else 1.0


def _parts(
    final: Path, shards: Sequence[ShardFiles], counts: Counts, facts: dict[str, Any], special: int
) -> dict[str, Any]:
    """Writes train and validation; returns counts, files and the key for the manifest."""
    hashes, blocks, starts = document_tables(shards)
    held = choose_validation(hashes, blocks, facts["options"]["validation"])
    train, validation = PartWriter(final / "train"), PartWriter(final / "validation")
    write_parts(shards, starts, held, train, validation)
    content = {
        "format": FORMAT,
        "tokenizer": facts["tokenizer"]["digest"],
        "block": facts["block"],
        "train": train.finish(),
        "validation": validation.finish(),
    }
    return {
        "counts": {
            "documents": counts.documents,
            "sentences": counts.sentences,
            "tokens": counts.tokens,
            "blocks": counts.blocks,
            "fill": counts.filled / (counts.blocks * facts["block"]),
            **{
                name: {
                    "documents": part.documents,
                    "tokens": part.tokens - special * part.blocks,
                    "blocks": part.blocks,
                }
                for name, part in (("train", train), ("validation", validation))
            },
        },
        "files": train.files | validation.files,
        "key": xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest(),
    }


def _seal(output: Path, manifest: dict[str, Any]) -> None:
    """Moves the finished parts to their places; the manifest, without which there is no corpus, comes last."""
    for name in _PARTS:
        shutil.rmtree(output / name, ignore_errors=True)
        os.replace(output / WORK / "final" / name, output / name)
    write_json(output / MANIFEST, manifest)
    shutil.rmtree(output / WORK, ignore_errors=True)
