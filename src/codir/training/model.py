"""The student and the objectives' own parameters in one module, which is what the Trainer trains and clips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from codir.models.representations import Pooling, Representations, represent
from codir.objectives.base import Objective, Step, Term
from codir.objectives.weighted_sum import weighted_sum


class DistillationModel(nn.Module):
    """Student plus objectives.

    In training mode `forward` returns the weighted sum (Eq. 1) with its terms. In evaluation it returns the student's
    logits and the task's loss only (so that losses of different recipes compare), and no bank is touched.

    Args:
        student: any Hugging Face sequence classifier.
        objectives: by name; their parameters (projections) are trained with the student.
        poolings: poolings of the student's blocks that the objectives read.
    """

    _keys_to_ignore_on_save = None  # the Trainer looks for it on every model

    def __init__(
        self, student: PreTrainedModel, objectives: Mapping[str, Objective], poolings: frozenset[Pooling]
    ):
        super().__init__()
        self.student = student
        self.objectives = nn.ModuleDict(objectives)
        self.poolings = poolings

    def objective_items(self) -> list[tuple[str, Objective]]:
        """Returns the objectives with their names, typed."""
        return [(name, module) for name, module in self.objectives.items() if isinstance(module, Objective)]

    def forward(
        self,
        inputs: dict[str, Any],
        labels: Tensor | None = None,
        example_id: Tensor | None = None,
        teacher: Representations | None = None,
    ) -> dict[str, Any]:
        """Runs the student once and, in training, every objective.

        Args:
            inputs: the student's keyword arguments.
            labels: [B] class ids or scores.
            example_id: [B] rows of the bank.
            teacher: the frozen teacher's outputs for the batch.

        Returns:
            In training `{"loss", "logits", "terms"}`; in evaluation `{"loss", "logits"}`, without labels `{"logits"}`.
        """
        if not self.training:
            return self._evaluate(inputs, labels)
        assert example_id is not None, "training batches carry example ids"
        student = represent(self.student, inputs, self.poolings)
        step = Step(ids=example_id, labels=labels, student=student, teacher=teacher)
        terms: dict[str, Term] = {name: objective(step) for name, objective in self.objective_items()}
        weights = {name: objective.settings.weight for name, objective in self.objective_items()}
        return {"loss": weighted_sum(terms, weights), "logits": student.logits, "terms": terms}

    def _evaluate(self, inputs: dict[str, Any], labels: Tensor | None) -> dict[str, Any]:
        logits = self.student(**inputs, return_dict=True).logits
        if labels is None:
            return {"logits": logits}
        if labels.is_floating_point():
            loss = nn.functional.mse_loss(logits.float().squeeze(-1), labels.float())
        else:
            loss = nn.functional.cross_entropy(logits.float(), labels)
        return {"loss": loss, "logits": logits}

    def gradient_checkpointing_enable(self, **settings: Any) -> None:
        """Lets the student forget its activations and compute them again: the Trainer asks the model it trains."""
        self.student.gradient_checkpointing_enable(**settings)

    def extra_state_tensors(self) -> dict[str, Tensor]:
        """Collects the objectives' untrained state, named `objective/key`, for a checkpoint."""
        return {
            f"{name}/{key}": tensor.detach().contiguous()
            for name, objective in self.objective_items()
            for key, tensor in objective.extra_state().items()
        }

    def load_extra_state_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Gives each objective back its part of `extra_state_tensors`."""
        for name, objective in self.objective_items():
            prefix = f"{name}/"
            own = {
                key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)
            }
            if own:
                objective.load_extra_state(own)

    @torch.no_grad()
    def nonfinite_parameter(self) -> str | None:
        """Returns the name of a parameter that holds an infinite or undefined number, or None."""
        for name, parameter in self.named_parameters():
            # A sum is infinite or NaN as soon as one element is, and needs no mask of the parameter's size.
            if not torch.isfinite(parameter.sum()) and not torch.isfinite(parameter).all():
                return name
        return None
