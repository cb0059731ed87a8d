"""What a training has of its teacher: outputs out of the cache, the teacher itself running live, or nothing."""

from __future__ import annotations

from collections.abc import Collection

from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from codir.losses.base import Views
from codir.models.representations import EncoderShape, Pooling
from codir.teacher.cache import TeacherOutputs, open_cache
from codir.teacher.frozen import FrozenTeacher
from codir.teacher.token_cache import open_token_cache, too_large
from codir.training.arguments import DistillationArguments
from codir.training.missing_labels import live_logits
from codir.training.views import check_views, require_tokens


class Teaching:
    """The teacher's side of a training.

    Attributes:
        shape: of the teacher; None without one.
        live: the teacher, where each batch asks it; else None.
        outputs: of the training examples, once `compute` was called; None without a teacher and with a live one.
        notes: what the user should know about it, a line each.
    """

    def __init__(
        self,
        teacher: FrozenTeacher | TeacherOutputs | None,
        views: Views,
        examples: Dataset,
        args: DistillationArguments,
    ):
        """Decides between cache and live teacher; nothing is computed yet.

        Args:
            teacher: what the training was given.
            views: what the objectives read of single tokens.
            examples: the encoded training examples.
            args: of the training.
        """
        self.views = views
        self.shape: EncoderShape | None = teacher.shape if teacher is not None else None
        self.outputs = teacher if isinstance(teacher, TeacherOutputs) else None
        self.notes: list[str] = []
        self._frozen = teacher if isinstance(teacher, FrozenTeacher) else None
        self.live = None if args.cache_teacher else self._frozen
        if self._frozen is not None and self.live is None:
            reason = too_large(examples, self._frozen.shape, views.teacher, args.cache_tokens_gb)
            if reason is not None:
                self.notes, self.live = [f"teacher: {reason}"], self._frozen

    @property
    def cached(self) -> bool:
        """Whether there are, or will be, outputs of the training examples."""
        return self.outputs is not None or (self._frozen is not None and self.live is None)

    def check(self, student: nn.Module, aligned: bool, pooled: bool) -> None:
        """Checks that the vectors which the objectives read can be had; arguments and errors as `check_views`."""
        teacher = self._frozen.model if self._frozen is not None else None
        check_views(self.views, student, teacher, aligned, pooled)
        if self.outputs is not None:
            self.outputs = require_tokens(self.outputs, self.views)

    def compute(
        self,
        examples: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        poolings: Collection[Pooling],
        args: DistillationArguments,
    ) -> None:
        """Takes the outputs out of the cache; the main process computes first what is not there.

        Args:
            examples: the encoded training examples.
            tokenizer: the teacher's.
            poolings: of the blocks' representations that the objectives read.
            args: of the training.
        """
        if self._frozen is None:
            return
        self._frozen.to(args.device)
        if self.live is not None:
            return
        with args.main_process_first(desc="teacher's cache"):
            outputs = open_cache(
                self._frozen, examples, tokenizer=tokenizer, poolings=poolings, folder=args.cache_folder
            )
            if self.views.teacher:
                tokens = open_token_cache(
                    self._frozen, examples, self.views.teacher, tokenizer=tokenizer, folder=args.cache_folder
                )
                outputs = outputs.with_tokens(tokens)
        self.outputs = outputs

    def logits(self, examples: Dataset, tokenizer: PreTrainedTokenizerBase) -> Tensor | None:
        """Returns the teacher's logits [N, C], by a live one for the examples without a label alone; None without one.

        Args:
            examples: the encoded training examples, of which some have no label.
            tokenizer: the teacher's.
        """
        if self.outputs is not None and self.outputs.logits is not None:
            return self.outputs.logits
        return None if self._frozen is None else live_logits(self._frozen, examples, tokenizer)
