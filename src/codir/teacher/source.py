"""Where a training has its teacher's outputs from: the cache, the teacher itself in each step, or nowhere."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from codir.files import human_bytes
from codir.models.inference import Progress, predict_logits
from codir.models.representations import EncoderShape, Pooling, TokenView
from codir.teacher.cache import TeacherOutputs, cache_bytes, open_cache, read_examples, teacher_prefix
from codir.teacher.frozen import FrozenTeacher
from codir.teacher.store import Report


@dataclass(frozen=True)
class CacheSettings:
    """What was asked for: a cache at all, its folder (None: the user's), and the GB that tokens may take there."""

    enabled: bool = True
    folder: str | Path | None = None
    tokens_gb: float = 20.0


def live_because(
    views: Collection[TokenView], encoded: Dataset, shape: EncoderShape, cache: CacheSettings
) -> str | None:
    """Decides between the cache and a teacher that runs in each step.

    Args:
        views: the vectors of single tokens that the training reads of the teacher.
        encoded: the training examples.
        shape: the teacher's.
        cache: what was asked for.

    Returns:
        Why the teacher runs live: a sentence for the user, empty where that was asked for. None: it is cached.
    """
    if not cache.enabled:
        return ""
    if not views:
        return None
    tokens = int(read_examples(encoded).lengths.sum())
    needed = cache_bytes(0, 0, shape, views=views, tokens=tokens)
    if needed <= cache.tokens_gb * 1e9:
        return None
    return (
        f"The teacher runs live in each step: its vectors of single tokens ({len(views)} for each of {len(encoded)} "
        f"examples) would take {human_bytes(needed)}, more than cache_tokens_gb={cache.tokens_gb:g} allows."
    )


class TeacherSource:
    """The teacher's side of one training: it decides at once, and computes nothing before `open`.

    Attributes:
        shape: the teacher's depth and width; None without a teacher.
        live: the teacher, where each step runs it; else None.
        outputs: those of the training examples, once they are there; None without a teacher or with a live one.
        why_live: a sentence for the user where the teacher runs live without being asked to; else empty.
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
        self.shape = teacher.shape if teacher is not None else None
        self.frozen = teacher
        self.outputs: TeacherOutputs | None = None
        reason = live_because(self.views, encoded, teacher.shape, cache) if teacher is not None else None
        self.live = teacher if reason is not None else None
        self.why_live = reason or ""

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
        progress: Callable[[int], AbstractContextManager[Progress | None]] = lambda _: nullcontext(None),
    ) -> None:
        """Takes the outputs of the training examples out of the cache, computing first what is not there.

        Args:
            encoded: the training examples.
            tokenizer: the teacher's.
            device: where the teacher computes.
            report: is told what is computed, and what was damaged.
            progress: gives a bar for so many examples.
        """
        if self.frozen is None:
            return
        self.frozen.to(device)
        if self.live is None:
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


def teacher_logits(
    teacher: FrozenTeacher, encoded: Dataset, tokenizer: PreTrainedTokenizerBase
) -> np.ndarray:
    """Returns the logits [n, C] of examples, in the data's order of classes, without a cache."""
    raw = predict_logits(
        teacher.model, encoded, tokenizer, prefix=teacher_prefix(encoded), autocast=teacher.autocast
    )
    return raw[:, list(teacher.logit_order)]
