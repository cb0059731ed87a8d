"""Runs the shards in several processes that do not outlive the one that started them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from codir.corpora.encoder import Encoder
from codir.corpora.planning import Part
from codir.corpora.shards import Counts, ShardFiles, build_shard
from codir.corpora.sources import Source
from codir.errors import RunError

Shard = tuple[int, list[Part]]


@dataclass
class Job:
    """What all shards of a corpus have in common; see `build_shard`."""

    folder: Path
    sources: Sequence[Source]
    encoder: Encoder
    block: int
    text: str
    seed: int

    def run(self, number: int, parts: Sequence[Part]) -> Counts:
        """Builds one shard."""
        return build_shard(
            ShardFiles(self.folder, number),
            parts,
            self.sources,
            self.encoder,
            block=self.block,
            text=self.text,
            seed=self.seed,
        )


def available_cpus() -> int:
    """Returns the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_shards(job: Job, shards: Sequence[Shard], workers: int) -> Iterator[tuple[int, Counts]]:
    """Builds shards, yielding (number, counts) as each is done; with one worker, in this process.

    Raises:
        RunError: a worker was killed.
    """
    with _single_threaded_tokenizers():
        if workers <= 1 or len(shards) <= 1:
            for number, parts in shards:
                yield number, job.run(number, parts)
            return
        # Like `datasets`, fork where that is the custom: nothing has to be pickled, nor the main module guarded.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        pool = ProcessPoolExecutor(
            min(workers, len(shards)), mp_context=context, initializer=_start, initargs=(job, os.getpid())
        )
        try:
            queue = iter(shards)
            running = {pool.submit(_run, *shard) for _, shard in zip(range(2 * workers), queue, strict=False)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(_run, *shard) for _, shard in zip(done, queue, strict=False)}
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise RunError(
                "A worker process was killed, perhaps because memory ran out. The same command with --resume goes on "
                "from the finished parts; --workers 1 needs the least memory."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_job: Job | None = None


def _start(job: Job, parent: int) -> None:
    """Prepares a worker: the job, and a watch on the process it works for."""
    global _job
    _job = job
    if hasattr(os, "getppid"):
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    # A pool's workers do not notice that their parent was killed: they would go on, or wait for ever.
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _run(number: int, parts: list[Part]) -> tuple[int, Counts]:
    assert _job is not None
    return number, _job.run(number, parts)


@contextlib.contextmanager
def _single_threaded_tokenizers() -> Iterator[None]:
    """One thread for each worker: the cores are used by the processes."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("TOKENIZERS_PARALLELISM", None)
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
