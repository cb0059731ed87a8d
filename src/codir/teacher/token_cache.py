"""The teacher's vectors of single tokens for a data set, computed once and read from disk.

They lie beside the pooled outputs (`cache`), in entries of their own, named `tokens-KEY-DIGEST` by the key of the same
content and a digest of the views they hold. An entry has

    manifest.json   as every entry; `views` lists what it holds
    hidden.3.npy    [tokens of all examples, w] float16, for each view: example after example by id, padding left out

A training over some views takes each from whatever whole entry has it. Those that none has are computed together, in
one pass of the teacher, into one more entry: so recipes that read different blocks share what they have in common.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
import xxhash
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from codir.errors import ModelError, RunError
from codir.models.inference import Progress, forward_dataset
from codir.models.padding import Padding
from codir.models.representations import EncoderShape, TokenView
from codir.models.tokens import TokenColumns
from codir.models.unpadded import padding_for
from codir.storage import human_bytes, read_json, require_writable
from codir.teacher.examples import HALF_MAX, read_examples, rows_of
from codir.teacher.frozen import FrozenTeacher
from codir.teacher.key import cache_key
from codir.teacher.store import (
    MANIFEST,
    EntryWriter,
    Report,
    building_lock,
    default_cache_folder,
    fault_of,
    new_entry,
)

logger = logging.getLogger(__name__)

Side = Literal["left", "right"]


def token_cache_bytes(lengths: np.ndarray, shape: EncoderShape, views: Iterable[TokenView]) -> int:
    """Returns the bytes that vectors of single tokens take on disk: 2 d for each token of `lengths` [N] and view."""
    count = len(set(views))
    return 2 * int(lengths.sum()) * shape.width * count + 512 * count + 4096


def too_large(
    encoded: Dataset,
    shape: EncoderShape,
    views: Iterable[TokenView],
    limit: float,
    prefix: str | None = None,
) -> str | None:
    """Says that, and why, the vectors are better computed in each step than cached; None if they fit.

    Args:
        encoded: data set with token columns.
        shape: the teacher's.
        views: the vectors of all objectives of a run.
        limit: gigabytes (10^9 bytes) that they may take.
        prefix: see `open_token_cache`.
    """
    views = frozenset(views)
    if not views:
        return None
    needed = token_cache_bytes(read_examples(encoded, prefix).lengths, shape, views)
    if needed <= limit * 1e9:
        return None
    return (
        f"The teacher runs live in each step: its vectors of single tokens ({len(views)} for each of "
        f"{len(encoded)} examples) would take {human_bytes(needed)}, more than cache_tokens_gb={limit:g} allows."
    )


@dataclass
class TokenOutputs:
    """A teacher's vectors of the single tokens of examples 0..N-1, memory-mapped.

    Attributes:
        files: where each view lies, maybe in several entries.
        offsets: [N+1] int64; example n's tokens are the rows `offsets[n]:offsets[n + 1]` of every file.
        built: the views that this call computed; the others were there.
    """

    files: dict[TokenView, Path]
    offsets: np.ndarray
    built: frozenset[TokenView] = frozenset()
    _flat: dict[TokenView, np.ndarray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self._flat = {
            view: np.load(path, mmap_mode="r", allow_pickle=False) for view, path in self.files.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        # a data loader's spawned worker maps the files again; pickling a map would copy all of it
        return {name: value for name, value in self.__dict__.items() if name != "_flat"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def views(self) -> frozenset[TokenView]:
        """Returns the views that can be read."""
        return frozenset(self.files)

    def only(self, views: Iterable[TokenView]) -> TokenOutputs:
        """Returns the same outputs, of which `rows` reads `views` alone.

        Raises:
            KeyError: a view was not asked for when the cache was opened.
        """
        found = copy.copy(self)
        found.files = {view: self.files[view] for view in sorted(set(views))}
        found._flat = {view: self._flat[view] for view in found.files}
        return found

    def rows(
        self, ids: Tensor | np.ndarray | Sequence[int], length: int, padding_side: Side = "right"
    ) -> dict[TokenView, Tensor]:
        """Reads the vectors of some examples, padded like a batch of their tokens.

        Args:
            ids: [B] `example_id`s; repetitions are allowed.
            length: L, the length of the padded batch.
            padding_side: where the padding is; it is filled with zeros.

        Returns:
            By view, [B, L, w] fp32 on the CPU.

        Raises:
            IndexError: an id is not one of 0..N-1.
            ValueError: an example has more than L tokens.
        """
        wanted = rows_of(ids, len(self))
        starts, ends = self.offsets[wanted], self.offsets[wanted + 1]
        if len(wanted) and (longest := int((ends - starts).max())) > length:
            raise ValueError(
                f"An example of the teacher's cache has {longest} tokens and the batch is padded to {length}."
            )
        found: dict[TokenView, Tensor] = {}
        for view, flat in self._flat.items():
            padded = np.zeros((len(wanted), length, flat.shape[1]), dtype=np.float16)
            for row, start, end in zip(padded, starts, ends, strict=True):
                first = length - (end - start) if padding_side == "left" else 0
                row[first : first + end - start] = flat[start:end]
            found[view] = torch.from_numpy(padded).float()
        return found


def open_token_cache(
    teacher: FrozenTeacher,
    encoded: Dataset,
    views: Iterable[TokenView],
    *,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path | None = None,
    batch_size: int = 32,
    prefix: str | None = None,
    report: Report = logger.info,
    progress: Progress | None = None,
) -> TokenOutputs:
    """Opens the teacher's vectors of single tokens for a data set, computing first the views that no whole entry holds.

    Entries are found by content and checked like those of `open_cache`. Only one process at a time computes for the
    same teacher and data: another one waits and then computes what it still misses.

    Args:
        teacher: the frozen teacher, on the device where it shall compute.
        encoded: data set with token columns and `example_id` 0..N-1 (each once; the row numbers if there is none).
        views: which vectors.
        tokenizer: the teacher's.
        folder: where entries lie; by default `default_cache_folder()`. Nothing is written outside of it.
        batch_size: examples in a batch while computing.
        prefix: of the teacher's token columns; None takes `teacher_` if there is `teacher_input_ids`, else none.
        report: is told the disk need before anything is computed, and about damaged or left-over entries.
        progress: called with (examples done, examples in all).

    Raises:
        DataError: the example ids are not 0..N-1.
        ModelError: the teacher does not show its attention, or its vectors are not finite or beyond what half precision
            holds.
        RunError: the disk is too small, or the folder cannot be written.
    """
    folder = Path(folder).expanduser() if folder is not None else default_cache_folder()
    wanted = sorted(set(views))
    columns = read_examples(encoded, prefix)
    offsets = _offsets(columns)
    if not wanted:
        return TokenOutputs({}, offsets)
    key, parts = cache_key(teacher.model, columns, tokenizer, teacher.autocast)
    lock = f"tokens-{key}"
    files, damaged = _find(folder, lock, wanted)
    missing = [view for view in wanted if view not in files]
    if not missing:
        return TokenOutputs(files, offsets)
    for path, fault in damaged.items():
        report(f"The teacher's cache {path} is damaged: {fault}. It is removed and computed again.")
    report(
        f"The teacher's vectors of single tokens ({', '.join(map(str, missing))}) for {len(columns)} examples take "
        f"{human_bytes(token_cache_bytes(columns.lengths, teacher.shape, missing))} in {folder}; computing them once."
    )
    require_writable(folder)
    with building_lock(folder, lock, report):
        files, damaged = _find(folder, lock, wanted)
        missing = [view for view in wanted if view not in files]  # fewer, if another process was faster
        if missing:
            name = f"{lock}-{_digest(missing)}"
            needed = token_cache_bytes(columns.lengths, teacher.shape, missing)
            with new_entry(folder, name, needed, damaged, report, lock) as writer:
                _compute(teacher, columns, offsets, tokenizer, missing, writer, batch_size, progress)
                writer.finish(
                    {
                        "key": parts,
                        "views": [str(view) for view in missing],
                        "examples": len(columns),
                        "tokens": int(offsets[-1]),
                        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
                    }
                )
            files |= {view: folder / name / _file(view) for view in missing}
    return TokenOutputs({view: files[view] for view in wanted}, offsets, frozenset(missing))


def _offsets(columns: TokenColumns) -> np.ndarray:
    """Returns the [N+1] places in the files, whose examples lie by id and not as in the data set."""
    lengths = np.empty(len(columns), dtype=np.int64)
    lengths[columns.ids] = columns.lengths
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])


def _file(view: TokenView) -> str:
    return f"{view}.npy"


def _digest(views: Sequence[TokenView]) -> str:
    return xxhash.xxh3_64(",".join(map(str, views)).encode()).hexdigest()


def _find(
    folder: Path, lock: str, wanted: Sequence[TokenView]
) -> tuple[dict[TokenView, Path], dict[Path, str]]:
    """Returns where whole entries hold the wanted views, and what is wrong with damaged entries that should."""
    files: dict[TokenView, Path] = {}
    damaged: dict[Path, str] = {}
    for entry in sorted(folder.glob(f"{lock}-*")):
        if not entry.is_dir():
            continue
        try:
            held = set(read_json(entry / MANIFEST)["views"])
        except (OSError, RunError, KeyError, TypeError):
            damaged[entry] = fault_of(entry) or f"{MANIFEST} names no views"
            continue
        chosen = [view for view in wanted if view not in files and str(view) in held]
        # files of views that this training does not read are left to those that do
        if chosen and (fault := fault_of(entry, [_file(view) for view in chosen])) is not None:
            damaged[entry] = fault
            continue
        files |= {view: entry / _file(view) for view in chosen}
    return files, damaged


def _compute(
    teacher: FrozenTeacher,
    columns: TokenColumns,
    offsets: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    views: Sequence[TokenView],
    writer: EntryWriter,
    batch_size: int,
    progress: Progress | None,
) -> None:
    """Runs the teacher over all examples and writes the vectors of their tokens into the memory maps."""
    padding = padding_for(teacher.model, Padding.of(tokenizer))
    lengths = np.diff(offsets)
    flat: dict[TokenView, np.memmap] = {}
    for ids, outputs in forward_dataset(
        teacher.model,
        columns,
        padding,
        tokens=views,
        batch_size=batch_size,
        autocast=teacher.autocast,
        progress=progress,
    ):
        ends = np.cumsum(lengths[ids])
        for view in views:
            tensor = outputs.tokens[view]
            real = _real(lengths[ids], tensor.shape[1], padding.side).to(tensor.device)
            vectors = tensor[real].half().cpu().numpy()  # [tokens of the batch, w], example after example
            if not (finite := np.isfinite(vectors).all(axis=1)).all():
                bad = ids[np.searchsorted(ends, int(finite.argmin()), side="right")]
                raise ModelError(
                    f"The teacher's vectors of single tokens ({view}) are beyond half precision (+-{HALF_MAX:.0f}) or "
                    f"not finite, first for example {bad}. Run the teacher live (--no-cache, cache_teacher=False)."
                )
            if view not in flat:
                flat[view] = writer.create(str(view), (int(offsets[-1]), vectors.shape[1]), np.float16)
            for number, part in zip(ids, np.split(vectors, ends[:-1]), strict=True):
                flat[view][offsets[number] : offsets[number + 1]] = part


def _real(lengths: np.ndarray, width: int, side: Side) -> Tensor:
    """Returns [B, L] bool, True where a batch of examples of these lengths has tokens and no padding."""
    counts = torch.from_numpy(lengths).unsqueeze(1)
    places = torch.arange(width).unsqueeze(0)
    return places >= width - counts if side == "left" else places < counts
