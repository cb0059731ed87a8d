"""A teacher that stays in eval mode and takes no gradient, whatever is done to the student beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from codir.errors import ModelError
from codir.models.check import behaviour
from codir.models.classes import align_logits, class_names, match_classes
from codir.models.inference import device_of, precision, represent_without_padding
from codir.models.loading import encoder_shape
from codir.models.representations import EncoderShape, Pooling, Representations, TokenView, represent


class FrozenTeacher(nn.Module):
    """Wraps a fine-tuned classifier, or a masked language model, whose parameters stop requiring gradients.

    The released code runs its teacher with dropout on, because `train()` reaches it through the criterion. Here `train`
    is overridden: the teacher is in eval mode always.

    Args:
        model: the fine-tuned model.
        logit_order: what `match_classes` returned: brings the logits into the order of the data's classes. None: they
            are the model's own, until the names of the data's classes are known (`for_classes`).
        autocast: for mixed precision. None is the precision of the weights, also inside a surrounding autocast, so that
            live and cached outputs agree.
    """

    def __init__(
        self, model: PreTrainedModel, logit_order: Sequence[int] | None = None, autocast: torch.dtype | None = None
    ):
        super().__init__()
        outputs = int(model.config.num_labels or 1)
        if logit_order is not None and sorted(logit_order) != list(range(outputs)):
            raise ModelError(
                f"logit_order must hold each of the teacher's outputs 0..{outputs - 1} once, not {tuple(logit_order)}."
            )
        self.model = model.requires_grad_(False).eval()
        self.ordered = logit_order is not None
        self.logit_order = tuple(logit_order) if logit_order is not None else tuple(range(outputs))
        self.autocast = autocast

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stays in eval mode, whatever `mode` says."""
        return super().train(False)

    def for_classes(self, names: Sequence[str]) -> FrozenTeacher:
        """Returns the teacher with its logits in the order of these classes, by name; itself if it was given an order.

        Raises:
            CodirError: the model has other classes.
        """
        if self.ordered:
            return self
        return FrozenTeacher(self.model, match_classes(names, class_names(self.model.config)), self.autocast)

    @property
    def shape(self) -> EncoderShape:
        """Returns the teacher's depth and width."""
        return encoder_shape(self.model)

    @torch.no_grad()
    def represent(
        self,
        inputs: dict[str, Any],
        poolings: Iterable[Pooling] = (),
        positions: Tensor | None = None,
        tokens: Iterable[TokenView] = (),
    ) -> Representations:
        """Runs the teacher once; arguments as `codir.models.representations.represent`, on the teacher's device.

        The logits are fp32 and in the data's order of classes.
        """
        self.model.eval()  # someone may hold the inner model and have called train() on that
        with precision(device_of(self.model), self.autocast):
            found = behaviour(self.model)
            # a batch of the student's is padded for the student
            run = represent if found.padded and found.side == "right" else represent_without_padding
            outputs = run(self.model, inputs, poolings, positions, tokens)
        if positions is None:
            outputs.logits = align_logits(outputs.logits.float(), self.logit_order)
        return outputs

    def forward(self, **inputs: Any) -> Representations:
        """Returns the logits only; see `represent`."""
        return self.represent(inputs)
