"""Where a training has its teacher's outputs from: the cache, the teacher itself in each step, or nowhere."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from codir.files import human_bytes
from codir.models.inference import Progress, predict_logits
from codir.models.representations import Pooling, TokenView
from codir.teacher.cache import TeacherOutputs, cache_bytes, open_cache, read_examples, teacher_prefix
from codir.teacher.frozen import FrozenTeacher
from codir.teacher.store import Report


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
        """Takes the teacher, what the training reads of it, the training examples and the cache's settings."""
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
        """Takes the outputs of the training examples out of the cache, computing first what is not there.

        `tokenizer` is the teacher's, and it computes on `device`; `report` is told what is computed, and what was
        damaged; `progress` gives a bar for so many examples.
        """
        if self.frozen is not None:
            self.frozen.to(device)
        if self.frozen is None or self.live is not None:
            return
        with progress(len(encoded)) as move:
            self.outputs = open_cache(
                self.frozen,
                encoded,
                tokenizer=tokenizer,
                poolings=self.poolings,
                tokens=self.views,
                folder=self._cache.folder,
                report=report,
                progress=move,
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
