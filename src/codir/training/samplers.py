"""Orders of the examples that depend on the seed and the epoch alone, so that a resume is exact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from codir.errors import ConfigError


class LengthGroupedSampler(Sampler[int]):
    """Yields indices so that consecutive `batch_size` of them have similar lengths, shuffled anew every epoch.

    The examples are shuffled, cut into pools of `pool_batches` batches, sorted by length inside a pool, cut into
    batches, and the batches are shuffled; the incomplete batch, if any, comes last. Unlike transformers' sampler of
    the same purpose it draws from its own generator, seeded by (seed, epoch): it can be asked for any epoch's order
    again, which an exact mid-epoch resume needs.
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


class NeighbourSampler(Sampler[int]):
    """Yields blocks in shuffled chunks of `neighbours` blocks, most of them consecutive blocks of one document.

    CoDIR-Pre takes as negatives the other examples of the mini-batch (paper, section 3.3): they are hard only where
    blocks of one document meet there. In an epoch

    1. a document of more than `neighbours` blocks is cut into runs of exactly that many, beginning at a random block,
       so that the runs differ between epochs; what is left over at its two ends are pieces;
    2. a shorter document is one piece;
    3. pieces are put together, whole where sizes allow it and cut where not, to chunks of exactly `neighbours` blocks;
    4. all chunks are shuffled. What does not fill a chunk comes last.

    So every block comes once in an epoch, and a batch whose size is a multiple of `neighbours` cuts no chunk. The
    order is a function of (seed, epoch) alone: an epoch's order can be asked for again, which an exact resume needs.
    Memory is O(N), about 30 bytes a block while an epoch is laid out.

    Args:
        documents: [N] the document of each block; blocks of a document are consecutive.
        neighbours: blocks a chunk; 1 is plain shuffling.
        seed: seed of the whole run's order.
        batch_size: blocks of an optimiser step, over all processes: an epoch then ends with the last whole batch, and
            what is left over waits for the next one. So the batches are the same however they are shared out. None
            yields every block.
        first_epoch: what the first epoch counts as: a second stage of training on the same blocks goes on counting.

    Raises:
        ConfigError: `neighbours` is below 1.
    """

    def __init__(
        self,
        documents: Sequence[int] | np.ndarray,
        neighbours: int,
        seed: int,
        batch_size: int | None = None,
        first_epoch: int = 0,
    ):
        if neighbours < 1:
            raise ConfigError(f"neighbours is {neighbours}; it must be at least 1 (1 is plain shuffling).")
        documents = np.asarray(documents)
        self.neighbours = neighbours
        self.seed = seed
        self.first_epoch = self.epoch = first_epoch
        self._count = len(documents)
        self._yielded = self._count - (self._count % batch_size if batch_size else 0)
        edges = np.flatnonzero(documents[1:] != documents[:-1]) + 1 if len(documents) else []
        # [D + 1] first block of each document, and the end
        self._starts = np.concatenate([[0], edges, [len(documents)]]).astype(_index_type(self._count))

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order the next iteration yields."""
        self.epoch = self.first_epoch + epoch

    def __len__(self) -> int:
        return self._yielded

    def __iter__(self) -> Iterator[int]:
        left = self._yielded
        for part in self._parts():
            yield from part[:left].tolist()
            left -= min(left, len(part))

    def _parts(self) -> Iterator[np.ndarray]:
        """Yields the order in parts of bounded size, so that no list of all indices is ever made."""
        if not self._count:
            return
        # Counter-based and keyed, so that neighbouring seeds and epochs have nothing in common.
        random = np.random.Generator(
            np.random.Philox(key=np.array([self.seed % 2**64, self.epoch % 2**64], dtype=np.uint64))
        )
        size = min(self.neighbours, self._count)
        if size == 1:
            order = random.permutation(np.arange(self._count, dtype=_index_type(self._count)))
            yield from (order[i : i + _PART].astype(np.int64) for i in range(0, len(order), _PART))
            return
        runs, piece_starts, piece_lengths = self._cut(size, random)
        rest = _expand(*_pack(piece_starts, piece_lengths, size, random))
        whole = len(rest) // size
        order = random.permutation(np.arange(len(runs) + whole, dtype=_index_type(self._count)))
        within = np.arange(size)
        for i in range(0, len(order), max(_PART // size, 1)):
            chosen = order[i : i + max(_PART // size, 1)]
            is_run = chosen < len(runs)
            chunks = np.empty((len(chosen), size), dtype=np.int64)
            chunks[is_run] = runs[chosen[is_run], None] + within
            chunks[~is_run] = rest[(chosen[~is_run] - len(runs))[:, None] * size + within]
            yield chunks.reshape(-1)
        yield rest[whole * size :].astype(np.int64)

    def _cut(self, size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the first blocks of the runs [R], and of the pieces the first blocks and the lengths, [F] each."""
        starts, lengths = self._starts[:-1], np.diff(self._starts)
        # The first run begins at a random block, yet early enough that there is one.
        offset = random.integers(0, np.clip(lengths - size + 1, 1, size), dtype=starts.dtype)
        count = (lengths - offset) // size
        runs = _expand(np.zeros_like(count), count) * size + np.repeat(starts + offset, count)
        tail = offset + count * size
        piece_starts = np.concatenate([starts, starts + tail])
        piece_lengths = np.concatenate([offset, lengths - tail])
        some = piece_lengths > 0
        return runs, piece_starts[some], piece_lengths[some]


_PART = 2**18  # indices laid out at a time


def _index_type(count: int) -> type[np.signedinteger]:
    return np.int32 if count < 2**31 else np.int64


def _expand(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns start, start + 1, ... (length of them) of each range, one after the other, [sum of lengths]."""
    ends = np.cumsum(lengths, dtype=starts.dtype)
    result = np.arange(int(ends[-1]) if len(ends) else 0, dtype=starts.dtype)
    result += np.repeat(starts - (ends - lengths), lengths)
    return result


def _pack(
    starts: np.ndarray, lengths: np.ndarray, size: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Orders the pieces so that, cut every `size` blocks, as many as possible stay whole.

    Only the sizes matter for that, and there are few: take a filling of one chunk (the largest piece that still fits,
    again and again), use it as often as the pieces last, and go on with the next filling. When what is left fills no
    chunk exactly, the rest follows in random order and is cut where a chunk is full. Which piece of a size goes where
    is random. `starts` and `lengths` [F] are the pieces' first blocks and lengths, and so are those returned.
    """
    shuffled = random.permutation(len(lengths))
    shuffled = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    sizes, first, left = np.unique(lengths[shuffled], return_index=True, return_counts=True)
    order: list[np.ndarray] = []
    while (filling := _filling(sizes, left, size)) is not None:
        kinds, amounts = filling
        times = int((left[kinds] // amounts).min())
        chosen = [
            shuffled[first[kind] : first[kind] + times * amount].reshape(times, amount)
            for kind, amount in zip(kinds, amounts, strict=True)
        ]
        order.append(np.concatenate(chosen, axis=1).reshape(-1))
        first[kinds] += times * amounts
        left[kinds] -= times * amounts
    rest = [shuffled[first[kind] : first[kind] + left[kind]] for kind in range(len(sizes))]
    order.append(random.permutation(np.concatenate(rest)) if rest else shuffled)
    everything = np.concatenate(order)
    return starts[everything], lengths[everything]


def _filling(sizes: np.ndarray, left: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns which sizes (as indices) and how many of each fill a chunk, largest first, or None if they cannot."""
    kinds: list[int] = []
    amounts: list[int] = []
    gap = size
    for kind in np.flatnonzero(left)[::-1].tolist():
        amount = min(int(left[kind]), gap // int(sizes[kind]))
        if amount:
            kinds.append(kind)
            amounts.append(amount)
            gap -= amount * int(sizes[kind])
        if not gap:
            return np.array(kinds), np.array(amounts)
    return None


def neighbours_warning(batch_size: int, neighbours: int) -> str | None:
    """Says what happens if mini-batches (over all processes and accumulation) cut chunks of `neighbours`, or None."""
    if batch_size % neighbours == 0:
        return None
    if neighbours > batch_size:
        return (
            f"neighbours is {neighbours}, more than the {batch_size} blocks of a mini-batch: most neighbours will not "
            f"meet. Set neighbours to at most {batch_size}."
        )
    return (
        f"A mini-batch of {batch_size} blocks is not a multiple of neighbours = {neighbours}, so some groups of "
        f"neighbouring blocks are split between two mini-batches. Set the batch size to "
        f"{-(-batch_size // neighbours) * neighbours}, or neighbours to a divisor of {batch_size}."
    )
