"""Opening a memory bank, and a training step's work with it, at N = 50 thousand against N = 50 million.

    python benchmarks/bench_bank.py                     # needs 13 GB of free disk, takes up about 3 GB of it
    python benchmarks/bench_bank.py --quick             # N = 1 million instead of 50 million: does it run?
    python benchmarks/bench_bank.py --folder /fast/disk # where the banks on disk are made (and removed)

Half precision, m = 128, one thread, a mini-batch of 512 blocks: read their rows, then update them (Eq. 5); on disk
with the undo log, as after a checkpoint. The two sizes take turns step by step. Medians of processor time are compared,
which is what codir and the kernel do; beside it stands the lower quartile of the time on the clock, which has the
file system's waiting in it and, on a busy machine, other processes' turns (hence not the median). Blocks come in
neighbouring groups of 16, as in pre-training, in random order: *first visit* (the first epoch: every row is noise that
is computed, every page is new) and *later visits* (rows that have been written before; the large bank has had as many
visits as the small one has rows).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from codir.contrast.bank import Bank, MemoryBank
from codir.contrast.disk_bank import DiskBank

BATCH, GROUP, DIM, DTYPE = 512, 16, 128, torch.float16
SMALL = 50_000 // GROUP * GROUP


class Timer:
    """Collects milliseconds of processor time and on the clock, by size."""

    def __init__(self, sizes: list[int]):
        self.spent: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}

    @contextlib.contextmanager
    def __call__(self, size: int) -> Iterator[None]:
        """Times the block."""
        begin = time.process_time(), time.perf_counter()
        yield
        self.spent[size].append(
            (1000 * (time.process_time() - begin[0]), 1000 * (time.perf_counter() - begin[1]))
        )

    def report(self, what: str) -> float:
        """Prints a line and returns how much longer the large one takes."""
        low, high = (statistics.median(cpu for cpu, _ in spent) for spent in self.spent.values())
        clock = [statistics.quantiles((wall for _, wall in spent), n=4)[0] for spent in self.spent.values()]
        print(
            f"  {what:<28}{low:9.3f} {high:9.3f} ms   ratio {high / low:5.2f}"
            f"   (clock {clock[0]:8.3f} {clock[1]:8.3f} ms   {clock[1] / clock[0]:5.2f})"
        )
        return high / low


def open_bank(storage: str, size: int, folder: Path) -> Bank:
    if storage == "disk":
        bank = DiskBank(folder / f"bank-{size}", size, DIM, dtype=DTYPE, data_key="benchmark")
        bank.rewind(0)
        bank.checkpoint_saved(1, [1])  # from here on old rows go to the log
        return bank
    return MemoryBank(size, DIM, dtype=DTYPE, start="lazy")


def opening(storage: str, sizes: list[int], rounds: int) -> Timer:
    """Opens new banks."""
    timer = Timer(sizes)
    for _ in range(rounds):
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder, timer(size):
                open_bank(storage, size, Path(folder))
    return timer


def reopening(sizes: list[int], rounds: int) -> Timer:
    """Opens banks on disk that are there, and rewinds them."""
    timer = Timer(sizes)
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            bank = open_bank("disk", size, Path(folder))
            bank.update(torch.arange(BATCH), embeddings())
        for _ in range(rounds):
            for size in sizes:
                with timer(size):
                    bank = DiskBank(
                        Path(folder) / f"bank-{size}", size, DIM, dtype=DTYPE, data_key="benchmark"
                    )
                    bank.rewind(1)
    return timer


def embeddings() -> Tensor:
    return normalize(torch.randn(BATCH, DIM), dim=1)


def order(size: int) -> Iterator[Tensor]:
    """Gives batches of ids: groups of neighbours in random order, as many rows in all as the small bank has."""
    groups = torch.randperm(size // GROUP)[: SMALL // GROUP]
    ids = (groups.unsqueeze(1) * GROUP + torch.arange(GROUP)).view(-1)
    return iter(ids[: len(ids) // BATCH * BATCH].view(-1, BATCH))


def steps(storage: str, sizes: list[int], folder: Path) -> Iterator[tuple[str, Timer]]:
    """Gives the times of a step, by kind of visit; the sizes take turns."""
    banks = {size: open_bank(storage, size, folder) for size in sizes}
    orders = {size: list(order(size)) for size in sizes}
    for size in sizes:  # libraries warm up elsewhere than on the rows that are measured
        banks[size].rows(orders[size].pop())
    for visit in ("first visit", "later visits"):
        timer = Timer(sizes)
        for number in range(len(orders[SMALL])):
            for size in sizes if number % 2 else reversed(sizes):
                ids, live = orders[size][number], embeddings()
                with timer(size):
                    banks[size].rows(ids)
                    banks[size].update(ids, live)
        yield visit, timer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smaller N, to see that it runs")
    parser.add_argument("--folder", default=".", help="where the banks on disk are made and removed")
    arguments = parser.parse_args()
    large = 1_000_000 if arguments.quick else 50_000_000
    sizes, rounds = [SMALL, large], 3 if arguments.quick else 15
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tempfile.tempdir = os.path.abspath(arguments.folder)
    print(f"Bank in half precision, m = {DIM}, mini-batch of {BATCH}: N = {SMALL:,} and N = {large:,}")
    worst = {"opening": 0.0, "step": 0.0}
    for storage in ("cpu", "disk"):
        print(f"\n{'in CPU memory' if storage == 'cpu' else 'on disk'}")
        opened = [opening(storage, sizes, rounds).report("opening a new one")]
        if storage == "disk":
            opened.append(reopening(sizes, rounds).report("opening one that is there"))
        worst["opening"] = max(worst["opening"], *opened)
        with tempfile.TemporaryDirectory() as folder:
            for visit, timer in steps(storage, sizes, Path(folder)):
                worst["step"] = max(worst["step"], timer.report(f"a step, {visit}"))
    print()
    if arguments.quick:
        print("The goals are for N = 50,000,000: run without --quick to judge them.")
        return
    for name, goal in (("opening", 1.5), ("step", 1.5)):
        met = "met" if worst[name] <= goal else "missed"
        print(
            f"goal: {name} at N = {large:,} at most {goal:g} times that at {SMALL:,}: {worst[name]:.2f}, {met}"
        )


if __name__ == "__main__":
    main()
