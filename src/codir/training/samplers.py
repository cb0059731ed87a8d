"""Batches of similar length whose order depends on the seed and the epoch alone, so that a resume is exact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class LengthGroupedSampler(Sampler[int]):
    """Yields indices so that consecutive `batch_size` of them have similar lengths, shuffled anew every epoch.

    The examples are shuffled, cut into pools of `pool_batches` batches, sorted by length inside a pool, cut into
    batches, and the batches are shuffled; the incomplete batch, if any, comes last. Unlike transformers' sampler of
    the same purpose it draws from its own generator, seeded by (seed, epoch): it can be asked for any epoch's order
    again, which an exact mid-epoch resume needs.

    Args:
        lengths: number of tokens of each example.
        batch_size: examples a batch.
        seed: seed of the whole run's order.
        pool_batches: batches per pool; larger means more alike within a batch and less random between epochs.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, pool_batches: int = 50):
        self.lengths = torch.as_tensor(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.pool_batches = pool_batches
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator)
        pools = order.split(self.batch_size * self.pool_batches)
        batches = [
            batch
            for pool in pools
            for batch in pool[self.lengths[pool].argsort(descending=True, stable=True)].split(self.batch_size)
        ]
        incomplete = [batch for batch in batches if len(batch) < self.batch_size]
        complete = [batch for batch in batches if len(batch) == self.batch_size]
        shuffled = [complete[i] for i in torch.randperm(len(complete), generator=generator).tolist()]
        for batch in shuffled + incomplete:
            yield from batch.tolist()
