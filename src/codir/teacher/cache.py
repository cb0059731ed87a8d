"""The teacher's outputs for a data set, computed once and read from disk by every epoch, seed and search trial.

An entry of the cache folder is named `KEY-POOLINGS` and holds

    manifest.json   shapes, sizes and digests of the files, what the key was made of, versions
    logits.npy      [N, C] float32, in the teacher's own order of classes
    mean.npy        [N, T, d] float16, for each pooling: all blocks, so that any choice of blocks is a part of it

Entries are never changed. Asking for poolings that some whole entry of the same key covers reads that one; asking for
others computes another entry (one more pass of the teacher). Vectors of single tokens lie in entries of their own: see
`token_cache`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from codir.errors import ModelError
from codir.models.classes import align_logits, label_names
from codir.models.inference import Progress, forward_dataset
from codir.models.representations import EncoderShape, Pooling, Representations
from codir.models.tokens import TokenColumns
from codir.storage import human_bytes, require_writable
from codir.teacher.examples import HALF_MAX, first_bad, read_examples, rows_of
from codir.teacher.frozen import FrozenTeacher
from codir.teacher.key import cache_key
from codir.teacher.store import (
    EntryWriter,
    Report,
    building_lock,
    default_cache_folder,
    fault_of,
    new_entry,
)
from codir.teacher.token_cache import TokenOutputs

logger = logging.getLogger(__name__)


def cache_bytes(examples: int, outputs: int, shape: EncoderShape, poolings: Iterable[Pooling]) -> int:
    """Returns the bytes that a teacher's outputs take on disk: 4 N C + 2 N T d for each pooling."""
    return 4 * examples * outputs + 2 * examples * shape.blocks * shape.width * len(set(poolings)) + 4096


@dataclass
class TeacherOutputs:
    """A teacher's outputs for examples 0..N-1, memory-mapped.

    Attributes:
        folder: the cache entry.
        shape: the teacher's depth and width.
        poolings: the poolings that were asked for (the entry may hold more).
        logit_order: which of the teacher's outputs belongs to which class of the data.
        built: whether this call computed them; False if they were there.
        tokens: vectors of single tokens of the same examples, if the training reads any; see `with_tokens`.
    """

    folder: Path
    shape: EncoderShape
    poolings: tuple[Pooling, ...]
    logit_order: tuple[int, ...]
    built: bool = False
    tokens: TokenOutputs | None = None
    _logits: np.ndarray = field(init=False, repr=False)
    _pooled: dict[Pooling, np.ndarray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self._logits = np.load(self.folder / "logits.npy", mmap_mode="r", allow_pickle=False)
        self._pooled = {
            how: np.load(self.folder / f"{how}.npy", mmap_mode="r", allow_pickle=False)
            for how in self.poolings
        }

    def __getstate__(self) -> dict[str, Any]:
        # a data loader's spawned worker maps the files again; pickling a map would copy all of it
        return {name: value for name, value in self.__dict__.items() if name not in ("_logits", "_pooled")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._logits)

    def with_tokens(self, tokens: TokenOutputs | None) -> TeacherOutputs:
        """Returns the same outputs together with vectors of single tokens, or without."""
        found = copy.copy(self)
        found.tokens = tokens
        return found

    def reordered(self, logit_order: Sequence[int]) -> TeacherOutputs:
        """Returns the same outputs with the logits in another order."""
        found = copy.copy(self)
        found.logit_order = tuple(logit_order)
        return found

    @property
    def logits(self) -> Tensor:
        """Returns all logits, [N, C] fp32, in the data's order of classes."""
        return align_logits(torch.from_numpy(np.array(self._logits)), self.logit_order)

    def rows(
        self, ids: Tensor | np.ndarray | Sequence[int], poolings: Iterable[Pooling] | None = None
    ) -> Representations:
        """Reads the outputs of some examples.

        Args:
            ids: [B] `example_id`s; repetitions are allowed.
            poolings: the ones to read; by default all that were asked for when the cache was opened.

        Returns:
            fp32 tensors on the CPU: logits [B, C] in the data's order of classes, pooled [B, T, d] each.

        Raises:
            IndexError: an id is not one of 0..N-1.
        """
        wanted = rows_of(ids, len(self))
        logits = align_logits(torch.from_numpy(self._logits[wanted]), self.logit_order)
        pooled: dict[Pooling, Tensor] = {
            how: torch.from_numpy(self._pooled[how][wanted]).float()
            for how in (self.poolings if poolings is None else tuple(poolings))
        }
        return Representations(logits, pooled)

    def space(self, pooling: Pooling) -> np.ndarray:
        """Returns the pooled blocks of all examples, concatenated (Eq. 3): a float16 memory map [N, T*d].

        Raises:
            KeyError: the pooling was not asked for when the cache was opened.
        """
        if pooling not in self._pooled:
            raise KeyError(f"The cache was opened for the poolings {self.poolings}, not for {pooling!r}.")
        return self._pooled[pooling].reshape(len(self), -1)


def open_cache(
    teacher: FrozenTeacher,
    encoded: Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase,
    poolings: Iterable[Pooling] = (),
    folder: str | Path | None = None,
    batch_size: int = 32,
    prefix: str | None = None,
    report: Report = logger.info,
    progress: Progress | None = None,
) -> TeacherOutputs:
    """Opens the teacher's outputs for a data set, computing them first if no whole entry holds them.

    The entry is found by content: the teacher's weights and config, the token columns, the tokenizer, the precision
    (`teacher.autocast`) and the transformers version. An entry is read through once when it is opened; a damaged one is
    reported, removed and computed again. A second process that wants the same entry waits for the first one.

    Args:
        teacher: the frozen teacher, on the device where it shall compute.
        encoded: data set with token columns and `example_id` 0..N-1 (each once; the row numbers if there is none).
            Where its `labels` know their names, the logits are in that order of classes (`FrozenTeacher.for_classes`).
        tokenizer: the teacher's.
        poolings: poolings of the blocks to store.
        folder: where entries lie; by default `default_cache_folder()`. Nothing is written outside of it.
        batch_size: examples in a batch while computing.
        prefix: of the teacher's token columns; None takes `teacher_` if there is `teacher_input_ids`, else none.
        report: is told the disk need before anything is computed, and about damaged or left-over entries.
        progress: called with (examples done, examples in all).

    Raises:
        DataError: the example ids are not 0..N-1.
        ModelError: the teacher's outputs are not finite or beyond what half precision holds.
        RunError: the disk is too small, or the folder cannot be written.
    """
    if (names := label_names(encoded)) is not None:
        teacher = teacher.for_classes(names)
    folder = Path(folder).expanduser() if folder is not None else default_cache_folder()
    wanted = tuple(sorted(set(poolings)))
    columns = read_examples(encoded, prefix)
    key, parts = cache_key(teacher.model, columns, tokenizer, teacher.autocast)
    name = f"{key}-{'+'.join(wanted) or 'logits'}"
    entry, damaged = _find(folder, key, wanted)
    if entry is not None:
        return TeacherOutputs(entry, teacher.shape, wanted, teacher.logit_order)
    for path, fault in damaged.items():
        report(f"The teacher's cache {path} is damaged: {fault}. It is removed and computed again.")

    outputs = len(teacher.logit_order)
    needed = cache_bytes(len(columns), outputs, teacher.shape, wanted)
    report(
        f"The teacher's outputs for {len(columns)} examples take {human_bytes(needed)} in {folder} "
        f"(logits{''.join(f', {how} of {teacher.shape.blocks} blocks' for how in wanted)}); computing them once."
    )
    require_writable(folder)
    with building_lock(folder, name, report):
        entry, damaged = _find(folder, key, wanted)
        if entry is not None:  # another process was faster
            return TeacherOutputs(entry, teacher.shape, wanted, teacher.logit_order)
        with new_entry(folder, name, needed, damaged, report) as writer:
            _compute(teacher, columns, tokenizer, wanted, writer, batch_size, progress)
            writer.finish(
                {
                    "key": parts,
                    "examples": len(columns),
                    "blocks": teacher.shape.blocks,
                    "width": teacher.shape.width,
                    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
                }
            )
    return TeacherOutputs(folder / name, teacher.shape, wanted, teacher.logit_order, built=True)


def _find(folder: Path, key: str, wanted: tuple[Pooling, ...]) -> tuple[Path | None, dict[Path, str]]:
    """Returns the smallest whole entry of `key` that has the wanted poolings, and what is wrong with damaged ones."""
    found: list[tuple[int, Path]] = []
    for entry in folder.glob(f"{key}-*"):
        held = entry.name.removeprefix(f"{key}-").split("+")
        if entry.is_dir() and set(wanted) <= set(held):
            found.append((len(held), entry))
    damaged: dict[Path, str] = {}
    for _, entry in sorted(found):
        if (fault := fault_of(entry)) is None:
            return entry, damaged
        damaged[entry] = fault
    return None, damaged


def _compute(
    teacher: FrozenTeacher,
    columns: TokenColumns,
    tokenizer: PreTrainedTokenizerBase,
    poolings: tuple[Pooling, ...],
    writer: EntryWriter,
    batch_size: int,
    progress: Progress | None,
) -> None:
    """Runs the teacher over all examples and writes each batch's rows into the memory maps."""
    count, shape = len(columns), teacher.shape
    logits = writer.create("logits", (count, len(teacher.logit_order)), np.float32)
    pooled = {how: writer.create(how, (count, shape.blocks, shape.width), np.float16) for how in poolings}
    for ids, outputs in forward_dataset(
        teacher.model,
        columns,
        tokenizer,
        poolings=poolings,
        batch_size=batch_size,
        autocast=teacher.autocast,
        progress=progress,
    ):
        values = outputs.logits.cpu()
        if not torch.isfinite(values).all():
            raise ModelError(
                f"The teacher's logits for example {first_bad(ids, values)} are not finite: its weights are damaged, "
                "or it cannot compute in this precision."
            )
        logits[ids] = values.numpy()
        for how, tensor in outputs.pooled.items():
            half = tensor.half().cpu()
            if not torch.isfinite(half).all():
                bad = first_bad(ids, half)
                blocks = [
                    number + 1 for number in range(shape.blocks) if not torch.isfinite(half[:, number]).all()
                ]
                raise ModelError(
                    f"The teacher's pooled outputs ({how}) of block {', '.join(map(str, blocks))} are beyond half "
                    f"precision (+-{HALF_MAX:.0f}) or not finite, first for example {bad}. "
                    "Run the teacher live (--no-cache, cache_teacher=False)."
                )
            pooled[cast(Pooling, how)][ids] = half.numpy()
