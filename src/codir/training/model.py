"""The student and the losses' own parameters in one module, which is what the Trainer trains and clips."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from codir.losses.base import Objective, Step, Term, TokenChunk, TokenPositions, weighted_sum
from codir.models.representations import Pooling, Representations, TokenView, represent
from codir.models.student import layers_prefix, parameters_of
from codir.models.vocabulary import chunked_loss, token_cross_entropy
from codir.training.masking import IGNORED

logger = logging.getLogger(__name__)


class DistillationModel(nn.Module):
    """Student plus losses, whose parameters (projections) are trained with it.

    In training mode `forward` returns the weighted sum (Eq. 1) with its terms. In evaluation it returns the student's
    logits and the task's loss only (so that losses of different recipes compare), and no bank is touched.
    """

    _keys_to_ignore_on_save = None  # the Trainer looks for it on every model

    def __init__(
        self,
        student: PreTrainedModel,
        objectives: Mapping[str, Objective],
        poolings: frozenset[Pooling],  # what the losses read of the student: pooled layers, and single tokens' vectors
        tokens: frozenset[TokenView] = frozenset(),
    ):
        super().__init__()
        self.student, self.objectives = student, nn.ModuleDict(objectives)
        self.poolings, self.tokens = poolings, tokens
        self._without_gradient: set[frozenset[str]] = set()
        # Every process writes the same rows into its bank: nothing to broadcast in every step.
        self._ddp_params_and_buffers_to_ignore = [f"objectives.{name}" for name, _ in self.objectives.named_buffers()]
        for objective in objectives.values():  # a student whose layers cannot be told apart is refused now
            self.frozen_parameters(objective.settings.start)

    def _losses(self) -> dict[str, Objective]:
        return {name: module for name, module in self.objectives.items() if isinstance(module, Objective)}

    def forward(
        self,
        inputs: dict[str, Any],
        labels: Tensor | None = None,
        example_id: Tensor | None = None,
        teacher: Representations | None = None,
        batch_ids: Tensor | None = None,
        positions: Mapping[TokenPositions, float] | None = None,
        progress: float = 0.0,
        labelled: float | None = None,
    ) -> dict[str, Any]:
        """Runs the student once and, in training, every loss.

        Args:
            inputs: the student's keyword arguments.
            labels: [B] class ids or scores; [B, L] the tokens at masked positions and -100 elsewhere.
            example_id: [B] rows of the bank.
            teacher: the frozen teacher's outputs for the batch.
            batch_ids: see `Step`, as `labelled` and `progress`; terms that do not count at `progress` are not computed.
            positions: numbers that the sums over this batch's positions are divided by; by default its own. In
                data-parallel training the mean number of a batch makes the mean over the batches the mean over all.

        Returns:
            In training `{"loss", "logits", "terms"}`; in evaluation `{"loss", "logits"}`, without labels `{"logits"}`.
            For masked tokens the logits of an evaluation are [B, 3]: of each block the summed cross-entropy, the
            number of tokens predicted rightly, and the number predicted.
        """
        if not self.training:
            if labels is not None and labels.dim() == 2:
                return self._score(inputs, labels, labels != IGNORED)
            logits = self.student(**inputs, return_dict=True).logits
            if labels is None:
                return {"logits": logits}
            if labels.is_floating_point():
                loss = functional.mse_loss(logits.float().squeeze(-1), labels.float())
            else:
                loss = functional.cross_entropy(logits.float(), labels)
            return {"loss": loss, "logits": logits}
        assert example_id is not None, "training batches carry example ids"
        chosen = self.chosen_positions(inputs, labels, progress)
        student = represent(self.student, inputs, self.poolings, chosen, self.tokens)
        step = Step(example_id, labels, student, teacher, batch_ids, progress, labelled)
        counting = {name: each for name, each in self._losses().items() if each.settings.counts_at(progress)}
        weights = {name: each.settings.weight for name, each in counting.items()}
        terms: dict[str, Term] = {name: each(step) for name, each in counting.items() if not each.per_token}
        loss = weighted_sum(terms, weights) if terms else student.logits.new_zeros((), dtype=torch.float32)
        if chosen is not None:
            assert labels is not None
            of_tokens = {name: each for name, each in counting.items() if each.per_token}
            token_terms, sum_of_tokens = self._predict(step, labels[chosen], of_tokens, positions)
            loss = loss + sum_of_tokens
            terms = {**token_terms, **terms}
        if not loss.requires_grad:
            # All that counts now is frozen (`student.freeze`). A sum without a gradient cannot be differentiated; with
            # this one nothing gets a gradient, and the optimiser leaves all as it is.
            if torch.is_grad_enabled() and frozenset(terms) not in self._without_gradient:
                self._without_gradient.add(frozenset(terms))
                logger.warning(
                    f"Nothing is trained while {' and '.join(sorted(terms)) or 'no term'} alone counts: all that it "
                    "compares is frozen. Freeze less (student.freeze), or leave the term out."
                )
            loss = loss + loss.new_zeros((), requires_grad=True)
        return {"loss": loss, "logits": student.logits, "terms": terms}

    def chosen_positions(self, inputs: Mapping[str, Any], labels: Tensor | None, progress: float) -> Tensor | None:
        """Returns where predictions of tokens are read at this moment, [B, L] bool; None without labels of tokens.

        These are the masked positions, or all that are no padding if a term that counts is a mean over those.
        """
        if labels is None or labels.dim() != 2:
            return None
        everywhere = any(
            each.per_token and each.reads.positions == "all" and each.settings.counts_at(progress)
            for each in self._losses().values()
        )
        return inputs["attention_mask"] != 0 if everywhere else labels != IGNORED

    def _predict(
        self,
        step: Step,
        labels: Tensor,
        objectives: Mapping[str, Objective],
        positions: Mapping[TokenPositions, float] | None,
    ) -> tuple[dict[str, Term], Tensor]:
        """Computes all terms over positions together; returns them without gradient, and their weighted sum.

        `labels` [P] are those of the chosen positions.
        """
        assert step.student.masked is not None
        if not objectives:
            return {}, step.student.logits.new_zeros((), dtype=torch.float32)
        masked = labels != IGNORED
        positions = positions or {"masked": float(masked.sum()), "all": float(labels.numel())}
        counts = {name: max(positions[each.reads.positions], 1.0) for name, each in objectives.items()}
        # What all share comes last, in fp32: a gradient divided by many thousands underflows where products are fp16.
        divisor = min(counts.values())
        mixed = any(each.reads.positions == "all" for each in objectives.values())
        sums: dict[str, Tensor | float] = defaultdict(float)
        metrics: dict[str, dict[str, Tensor | float]] = {name: defaultdict(float) for name in objectives}

        def weighted(student: Tensor, teacher: Tensor | None, rows: slice) -> Tensor:
            every = TokenChunk(labels[rows], student, teacher)
            predicted = every.only(masked[rows]) if mixed else every
            parts = []
            for name, each in objectives.items():
                term = each.token_loss(every if each.reads.positions == "all" else predicted)
                sums[name] = sums[name] + term.loss.detach()
                for metric, value in term.metrics.items():
                    metrics[name][metric] = metrics[name][metric] + value
                parts.append(each.settings.weight * (divisor / counts[name]) * term.loss)
            return torch.stack(parts).sum()

        needed = any(each.reads.teacher_logits for each in objectives.values())
        teacher = step.teacher.masked if needed and step.teacher is not None else None
        total = chunked_loss(step.student.masked, weighted, teacher) / divisor

        def mean(value: Tensor | float, name: str) -> Tensor:
            return torch.as_tensor(value / counts[name], device=total.device)

        return {
            name: Term(mean(sums[name], name), {key: mean(value, name) for key, value in metrics[name].items()})
            for name in objectives
        }, total

    def _score(self, inputs: dict[str, Any], labels: Tensor, chosen: Tensor) -> dict[str, Any]:
        """Scores each block; see `forward`."""
        predicted = represent(self.student, inputs, (), chosen).masked
        assert predicted is not None
        expected = labels[chosen]
        losses = torch.zeros(expected.shape, dtype=torch.float32, device=expected.device)
        right = torch.zeros_like(losses)

        def collect(student: Tensor, teacher: Tensor | None, rows: slice) -> Tensor:
            losses[rows] = token_cross_entropy(student, expected[rows])
            right[rows] = (student.argmax(dim=1) == expected[rows]).float()
            return losses[rows].sum()

        with torch.no_grad():
            total = chunked_loss(predicted, collect)
        each = torch.stack([losses, right, torch.ones_like(losses)], dim=1)
        sums = losses.new_zeros(labels.shape[0], 3).index_add_(0, chosen.nonzero()[:, 0], each)
        return {"loss": total / max(expected.numel(), 1), "logits": sums}

    def frozen_parameters(self, progress: float) -> list[nn.Parameter]:
        """Returns the student's parameters that the losses keep as they are at this moment of the training."""
        layers = frozenset().union(*(each.frozen_layers(progress) for each in self._losses().values()))
        if not layers:
            return []
        layers_prefix(self.student)  # raises even while the embeddings alone are meant
        return parameters_of(self.student, layers)

    def after_step(self, stepped: bool) -> None:
        """Lets the losses write their banks after an optimiser step, or forget it where it was abandoned."""
        for objective in self._losses().values():
            objective.after_step(stepped=stepped)

    def gradient_checkpointing_enable(self, **settings: Any) -> None:
        """Lets the student forget its activations and compute them again: the Trainer asks the model it trains."""
        self.student.gradient_checkpointing_enable(**settings)

    def summary_tensors(self) -> dict[str, Tensor]:
        """Collects what the losses keep to be looked at, named `loss/key`, on the CPU."""
        return {
            f"{name}/{key}": tensor.detach().cpu().contiguous()
            for name, objective in self._losses().items()
            for key, tensor in objective.summary().items()
        }

    @torch.no_grad()
    def nonfinite_parameter(self) -> str | None:
        """Returns the name of a parameter that holds an infinite or undefined number, or None."""
        for name, parameter in self.named_parameters():
            # A sum is infinite or NaN as soon as one element is, and needs no mask of the parameter's size.
            if not torch.isfinite(parameter.sum()) and not torch.isfinite(parameter).all():
                return name
        return None
