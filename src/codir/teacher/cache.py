"""Where a training has its teacher's outputs from: computed once and read from disk by every epoch, seed and recipe.

An entry of the cache folder is named `KEY-DIGEST`: the key of the content (`store.cache_key`) and a digest of the names
of what it holds, one file each:

    logits.npy      [N, C] float32, in the teacher's own order of classes
    mean.npy        [N, T, d] float16, for each pooling: all layers, so that any choice of layers is a part of it
    hidden.3.npy    [tokens of all examples, w] float16, for each view of single tokens: example after example by id,
                    padding left out

A training takes each of these from whatever whole entry has it. Those that none has are computed together, in one pass
of the teacher, into one more entry, which is never changed. Where single tokens would take too much room the teacher
runs live, in each step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
import xxhash
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from codir.errors import DataError, ModelError
from codir.files import human_bytes, read_json, require_writable
from codir.manifest import fault_by
from codir.models.check import Side
from codir.models.classes import align_logits, label_names
from codir.models.inference import Padding, Progress, TokenColumns, forward_dataset, padding_for, predict_logits
from codir.models.representations import EncoderShape, Pooling, Representations, TokenView
from codir.teacher.frozen import FrozenTeacher
from codir.teacher.store import (
    MANIFEST,
    CreateArray,
    Report,
    building_lock,
    cache_key,
    default_cache_folder,
    new_entry,
)

logger = logging.getLogger(__name__)

Output = str | TokenView
"""What a file holds: `logits`, a pooling, or a view of single tokens."""


def _split(outputs: Iterable[Output]) -> tuple[list[Pooling], list[TokenView]]:
    """Returns the poolings and the views among outputs."""
    outputs = list(outputs)
    poolings: list[Any] = [each for each in outputs if isinstance(each, str) and each != "logits"]
    return poolings, [each for each in outputs if isinstance(each, TokenView)]


def cache_bytes(
    examples: int,
    outputs: int,
    shape: EncoderShape,
    poolings: Iterable[Pooling] = (),
    views: Iterable[TokenView] = (),
    tokens: int = 0,
) -> int:
    """Returns the bytes on disk: 4 N C, 2 N T d for each pooling, 2 d for each of `tokens` tokens and each view."""
    pooled = 2 * examples * shape.layers * shape.width * len(set(poolings))
    return 4 * examples * outputs + pooled + (2 * tokens * shape.width + 512) * len(set(views)) + 4096


def teacher_prefix(encoded: Dataset) -> str:
    """Returns the prefix of the teacher's token columns: `teacher_` where they are not the student's, too."""
    return "teacher_" if "teacher_input_ids" in encoded.column_names else ""


@dataclass
class TeacherOutputs:
    """A teacher's outputs for examples 0..N-1, memory-mapped."""

    files: dict[Output, Path]  # where each output lies, maybe in several entries
    offsets: np.ndarray  # [N+1] int64; example n's tokens are the rows offsets[n]:offsets[n + 1] of a view
    shape: EncoderShape
    logit_order: tuple[int, ...]  # which of the teacher's outputs belongs to which class of the data
    built: frozenset[Output] = frozenset()  # the outputs that this call computed; the others were there
    _arrays: dict[Output, np.ndarray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._arrays = {output: np.load(path, mmap_mode="r", allow_pickle=False) for output, path in self.files.items()}

    def __getstate__(self) -> dict[str, Any]:
        # a data loader's spawned worker maps the files again; pickling a map would copy all of it
        return {name: value for name, value in self.__dict__.items() if name != "_arrays"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def views(self) -> frozenset[TokenView]:
        """Returns the views of single tokens that can be read."""
        return frozenset(_split(self.files)[1])

    @property
    def logits(self) -> Tensor:
        """Returns all logits, [N, C] fp32, in the data's order of classes."""
        return align_logits(torch.from_numpy(np.array(self._arrays["logits"])), self.logit_order)

    def space(self, pooling: Pooling) -> np.ndarray:
        """Returns the pooled layers of all examples, concatenated (Eq. 3): a float16 memory map [N, T*d]."""
        return self._arrays[pooling].reshape(len(self), -1)

    def rows(
        self, ids: Tensor | np.ndarray | Sequence[int], length: int | None = None, side: Side = "right"
    ) -> Representations:
        """Reads the outputs of examples by their ids [B]; repetitions are allowed.

        Vectors of single tokens are padded with zeros, on `side`, to the `length` L or the longest example's.

        Returns:
            fp32 tensors on the CPU: logits [B, C] in the data's order of classes, pooled [B, T, d], tokens [B, L, w].
        """
        wanted = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids, dtype=np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"Example ids {wanted.min()}..{wanted.max()} are outside the cache's 0..{len(self) - 1}.")
        found = Representations(torch.empty(0))
        for output, array in self._arrays.items():
            if isinstance(output, TokenView):
                found.tokens[output] = self._padded(array, wanted, length, side)
            elif output == "logits":
                found.logits = align_logits(torch.from_numpy(array[wanted]), self.logit_order)
            else:
                found.pooled[cast(Pooling, output)] = torch.from_numpy(array[wanted]).float()
        return found

    def _padded(self, flat: np.ndarray, wanted: np.ndarray, length: int | None, side: Side) -> Tensor:
        starts, ends = self.offsets[wanted], self.offsets[wanted + 1]
        if length is None:
            length = int((ends - starts).max(initial=0))
        padded = np.zeros((len(wanted), length, flat.shape[1]), dtype=np.float16)
        for row, start, end in zip(padded, starts, ends, strict=True):
            first = length - (end - start) if side == "left" else 0
            row[first : first + end - start] = flat[start:end]
        return torch.from_numpy(padded).float()


def open_cache(
    teacher: FrozenTeacher,
    encoded: Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase,
    poolings: Iterable[Pooling] = (),
    tokens: Iterable[TokenView] = (),
    folder: str | Path | None = None,
    batch_size: int = 32,
    report: Report = logger.info,
    progress: Progress | None = None,
) -> TeacherOutputs:
    """Opens the teacher's outputs for a data set, computing first those that no whole entry holds.

    Entries are found by content: the teacher's weights and config, the token columns, the tokenizer, the precision
    (`teacher.autocast`) and the transformers version. A file is read through once when it is opened; a damaged entry is
    reported, removed and computed again. A second process that wants the same content waits for the first one.

    Args:
        teacher: on the device where it shall compute.
        encoded: token columns and `example_id` 0..N-1 (the row numbers if there is none). Where its `labels` know their
            names, the logits are in that order of classes (`FrozenTeacher.for_classes`).
        tokenizer: the teacher's.
        poolings: of the layers, beside the logits.
        tokens: views of single tokens.
        folder: where entries lie, and nothing is written elsewhere; by default `default_cache_folder()`.
        batch_size: examples in a batch while computing.
        report: is told the disk need before anything is computed, and about damaged entries.
        progress: called with (examples done, examples in all).

    Raises:
        DataError: the example ids are not 0..N-1.
        ModelError: the teacher's outputs are not finite, or beyond what half precision holds.
        RunError: the disk is too small, or the folder cannot be written.
    """
    if (names := label_names(encoded)) is not None:
        teacher = teacher.for_classes(names)
    folder = Path(folder).expanduser() if folder is not None else default_cache_folder()
    wanted: list[Output] = ["logits", *sorted(set(poolings)), *sorted(set(tokens))]
    columns = read_examples(encoded)
    lengths = np.empty(len(columns), dtype=np.int64)
    lengths[columns.ids] = columns.lengths  # in the files examples lie by id, and not as in the data set
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    key, parts = cache_key(teacher.model, columns, tokenizer, teacher.autocast)

    def needed() -> int:
        classes = len(teacher.logit_order) if "logits" in missing else 0
        return cache_bytes(len(columns), classes, teacher.shape, *_split(missing), int(offsets[-1]))

    files, damaged = _find(folder, key, wanted)
    missing = [output for output in wanted if output not in files]
    if missing:
        for path, fault in damaged.items():
            report(f"The teacher's cache {path} is damaged: {fault}. It is removed and computed again.")
        report(
            f"The teacher's outputs ({', '.join(map(str, missing))}) for {len(columns)} examples take "
            f"{human_bytes(needed())} in {folder}; computing them once."
        )
        require_writable(folder)
        with building_lock(folder, key, report):
            files, damaged = _find(folder, key, wanted)
            missing = [each for each in wanted if each not in files]  # fewer, if another process was faster
            if missing:
                name = f"{key}-{xxhash.xxh3_64(','.join(map(str, missing)).encode()).hexdigest()}"
                versions = {"torch": torch.__version__, "transformers": transformers.__version__}
                facts = {"key": parts, "examples": len(columns), "versions": versions}
                with new_entry(folder, name, needed(), facts, tuple(damaged)) as create:
                    _compute(teacher, columns, offsets, tokenizer, missing, create, batch_size, progress)
                files |= {output: folder / name / f"{output}.npy" for output in missing}
    files = {output: files[output] for output in wanted}
    return TeacherOutputs(files, offsets, teacher.shape, teacher.logit_order, frozenset(missing))


def read_examples(encoded: Dataset) -> TokenColumns:
    """Reads the token columns that the teacher sees.

    Raises:
        DataError: there are no examples, or their ids are not 0..N-1, each once.
    """
    columns = TokenColumns.read(encoded, teacher_prefix(encoded))
    if not len(columns):
        raise DataError("The data set is empty: there is nothing for the teacher to compute.")
    if not np.array_equal(np.sort(columns.ids), np.arange(len(columns))):
        raise DataError(
            f"The column example_id must hold each of 0..{len(columns) - 1} once, since it numbers the rows of the "
            "cache. Encode the data again instead of selecting from encoded data."
        )
    return columns


def _find(folder: Path, key: str, wanted: Sequence[Output]) -> tuple[dict[Output, Path], dict[Path, str]]:
    """Returns where whole entries hold the wanted outputs, and what is wrong with damaged entries that should."""
    files: dict[Output, Path] = {}
    damaged: dict[Path, str] = {}
    for entry in sorted(folder.glob(f"{key}-*")):
        chosen: dict[Output, str] = {}
        fault = fault_by(entry / MANIFEST, only=())
        if fault is None:
            held = read_json(entry / MANIFEST)["files"]
            chosen = {each: f"{each}.npy" for each in wanted if each not in files and f"{each}.npy" in held}
            # files that this training does not read are left to those that do
            fault = fault_by(entry / MANIFEST, chosen.values()) if chosen else None
        if fault is not None:
            damaged[entry] = fault
        else:
            files |= {output: entry / name for output, name in chosen.items()}
    return files, damaged


def _compute(
    teacher: FrozenTeacher,
    columns: TokenColumns,
    offsets: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    wanted: Sequence[Output],
    create: CreateArray,
    batch_size: int,
    progress: Progress | None,
) -> None:
    """Runs the teacher over all examples and writes each batch's rows into the memory maps."""
    padding = padding_for(teacher.model, Padding.of(tokenizer))
    lengths = np.diff(offsets)
    arrays: dict[Output, np.memmap] = {}
    poolings, views = _split(wanted)
    settings: dict[str, Any] = {"batch_size": batch_size, "autocast": teacher.autocast, "progress": progress}
    for ids, outputs in forward_dataset(teacher.model, columns, padding, poolings=poolings, tokens=views, **settings):
        for output in wanted:
            places, owners, rows = ids, ids, len(columns)
            if isinstance(output, TokenView):  # [tokens of the batch, w], example after example
                vectors = outputs.tokens[output]
                counts, place = torch.from_numpy(lengths[ids]).unsqueeze(1), torch.arange(vectors.shape[1])
                real = place >= len(place) - counts if padding.side == "left" else place < counts
                values, owners = vectors[real.to(vectors.device)].half(), np.repeat(ids, lengths[ids])
                places = np.concatenate([np.arange(int(offsets[n]), int(offsets[n + 1])) for n in ids])
                rows = int(offsets[-1])
            elif output == "logits":
                values = outputs.logits
            else:
                values = outputs.pooled[cast(Pooling, output)].half()
            values = values.cpu().numpy()
            _require_finite(output, values, owners)
            if output not in arrays:
                arrays[output] = create(str(output), (rows, *values.shape[1:]), values.dtype)
            arrays[output][places] = values


def _require_finite(output: Output, values: np.ndarray, owners: np.ndarray) -> None:
    """Refuses infinite and undefined numbers; `owners` are the examples of the rows of `values`."""
    finite = np.isfinite(values)
    if finite.all():
        return
    bad = owners[int(finite.reshape(len(values), -1).all(axis=1).argmin())]
    if output == "logits":
        raise ModelError(
            f"The teacher's logits for example {bad} are not finite: its weights are damaged, or it cannot compute in "
            "this precision."
        )
    what = f"vectors of single tokens ({output})"
    if isinstance(output, str):
        layers = [str(number + 1) for number in range(values.shape[1]) if not finite[:, number].all()]
        what = f"pooled outputs ({output}) of layer {', '.join(layers)}"
    raise ModelError(
        f"The teacher's {what} are beyond half precision (+-{np.finfo(np.float16).max:.0f}) or not finite, first for "
        f"example {bad}. Run the teacher live (--no-cache, cache_teacher=False)."
    )


# ---- cached or live --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CacheSettings:
    """What was asked for: a cache at all, its folder (None: the user's), and the GB that tokens may take there."""

    enabled: bool = True
    folder: str | Path | None = None
    tokens_gb: float = 20.0


class TeacherSource:
    """The teacher's side of one training: it decides at once between the cache and a teacher that runs in each step.

    Nothing is computed before `open`.
    """

    def __init__(
        self,
        teacher: FrozenTeacher | None,
        poolings: Collection[Pooling],
        views: Collection[TokenView],
        encoded: Dataset,
        cache: CacheSettings,
    ):
        self.poolings, self.views, self._cache = frozenset(poolings), frozenset(views), cache
        self.frozen = teacher
        self.outputs: TeacherOutputs | None = None  # of the training examples, once they are there
        self.why_live = ""  # a sentence for the user where the teacher runs live without being asked to
        if teacher is not None and cache.enabled and self.views:
            tokens = int(read_examples(encoded).lengths.sum())
            needed = cache_bytes(0, 0, teacher.shape, views=self.views, tokens=tokens)
            if needed > cache.tokens_gb * 1e9:
                self.why_live = (
                    f"The teacher runs live in each step: its vectors of single tokens ({len(self.views)} for each of "
                    f"{len(encoded)} examples) would take {human_bytes(needed)}, more than "
                    f"cache_tokens_gb={cache.tokens_gb:g} allows."
                )
        self.live = teacher if self.why_live or not cache.enabled else None  # where each step runs it

    @property
    def cached(self) -> bool:
        """Whether there are, or will be, outputs of all training examples."""
        return self.frozen is not None and self.live is None

    def open(
        self,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        report: Report,
        progress: Callable[[int], AbstractContextManager[Progress | None]],
    ) -> None:
        """Opens the cache, if it is one, as `open_cache` does; `progress` gives a bar for so many examples."""
        if self.frozen is not None:
            self.frozen.to(device)
        if self.frozen is None or self.live is not None:
            return
        with progress(len(encoded)) as move:
            settings: dict[str, Any] = {"tokenizer": tokenizer, "folder": self._cache.folder, "report": report}
            self.outputs = open_cache(
                self.frozen, encoded, poolings=self.poolings, tokens=self.views, progress=move, **settings
            )

    def logits(self, encoded: Dataset, rows: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor | None:
        """Returns the teacher's logits [N, C]: a live one's of `rows` [n] alone, and 0 elsewhere; None without one."""
        if self.outputs is not None:
            return self.outputs.logits
        if self.frozen is None:
            return None
        raw = teacher_logits(self.frozen, encoded.select(rows.numpy()), tokenizer)
        found = torch.zeros(len(encoded), raw.shape[1])
        found[rows] = torch.from_numpy(raw)
        return found


def teacher_logits(teacher: FrozenTeacher, encoded: Dataset, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Returns the logits [n, C] of examples, in the data's order of classes, without a cache."""
    prefix = teacher_prefix(encoded)
    raw = predict_logits(teacher.model, encoded, tokenizer, prefix=prefix, autocast=teacher.autocast)
    return raw[:, list(teacher.logit_order)]
