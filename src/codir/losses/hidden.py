"""Losses over the hidden states of matched layers: of every token, of the first one, or pooled.

They are rows of one family: what is read, how two layers' states are compared, and the seed of the learned maps to the
teacher's width. (TinyBERT, FitNets, DistilBERT, MobileBERT, SID, BERT-PKD.)

The distances take states of every token [B, L, d], or one vector a text [B, d]. All are computed in fp32, also inside
autocast; no gradient reaches the teacher's. Where there is a mask [B, L], True at real tokens on whichever side the
padding is, a distance is the mean over the real tokens of an example, then over the examples, however long each of them
is; a row that is all padding counts as zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from codir.errors import ConfigError
from codir.losses.base import Needs, ObjectiveContext, ObjectiveSettings, Step, Term
from codir.losses.layerwise import LayerwiseLoss, ProgressiveSettings
from codir.models.layers import MATCHING_HELP, Matching
from codir.models.representations import Pooling, Representations, TokenView

# ---- distances -----------------------------------------------------------------------------------------------------


def _token_mean(each: Tensor, mask: Tensor) -> Tensor:
    """The mean of [B, L] over the real tokens of each example, then over the examples."""
    real = mask != 0
    return (each.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1).clamp_min(1)).mean()


def _wide(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Both sides in fp32, with zeros at padding: whatever stands there must not reach the gradient as 0 * NaN."""
    wide = torch.promote_types(student.dtype, torch.float32)
    own, other = student.to(wide), teacher.detach().to(wide)
    if mask is None:
        return own, other
    padding = (mask == 0).unsqueeze(2)
    return own.masked_fill(padding, 0.0), other.masked_fill(padding, 0.0)


def feature_map_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error between the states of every token (TinyBERT; MobileBERT's feature map transfer).

    For one example 1 / (T N) * sum_t sum_n (H_teacher[t, n] - H_student[t, n])^2 over its T real tokens and the N
    dimensions.
    """
    with torch.autocast(student.device.type, enabled=False):
        own, other = _wide(student, teacher)
        return _token_mean((own - other).square().mean(dim=2), mask)


def feature_map_parts(student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The discrepancy of two feature maps in parts, as the released code of MobileBERT has them.

    The code compares a layer's means and variances with those of *all* the teacher's layers at once (its loop names the
    list where it should name the layer); here it is the matched layer, as for the maps.

    Returns:
        Three scalars: the mean squared error of the maps brought to mean zero and variance one at each token (layer
        norm without scale and shift, epsilon 1e-12); the mean squared error of the tokens' means over the dimensions;
        the mean absolute error of their variances (divisor d).
    """
    with torch.autocast(student.device.type, enabled=False):
        own, other = _wide(student, teacher, mask)
        normal = [functional.layer_norm(states, states.shape[2:], eps=1e-12) for states in (own, other)]
        return (
            _token_mean((normal[0] - normal[1]).square().mean(dim=2), mask),
            _token_mean((own.mean(dim=2) - other.mean(dim=2)).square(), mask),
            _token_mean((own.var(dim=2, correction=0) - other.var(dim=2, correction=0)).abs(), mask),
        )


def cosine_distance(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """One minus the cosine, of every token (DistilBERT, Sanh et al. 2019), or without a mask of vectors [B, d] (SID).

    DistilBERT's released code takes the mean over all tokens of the batch. A vector of zeros has the cosine 0 with
    everything.
    """
    with torch.autocast(student.device.type, enabled=False):
        own, other = _wide(student, teacher, mask)
        distance = 1 - functional.cosine_similarity(own, other, dim=-1)
        return distance.mean() if mask is None else _token_mean(distance, mask)


def patient_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance between `[CLS]` states brought to length one (BERT-PKD, Sun et al. 2019, L_PT).

    Takes the matched layers together, [B, layers, d]: for one example sum_j || s_j / |s_j| - t_j / |t_j| ||_2^2 over
    the layers j; then the mean over the examples. A vector of zeros stays zero.
    """
    with torch.autocast(student.device.type, enabled=False):
        own, other = (functional.normalize(states, dim=2) for states in _wide(student, teacher))
        return (own - other).square().sum(dim=(1, 2)).mean()


# ---- the family ----------------------------------------------------------------------------------------------------

Projecting = Literal["auto", "always", "never"]
_PROJECTING_HELP = (
    "a learned linear map from the student's states to the teacher's width: `auto` where the widths differ, `always`, "
    "or `never`"
)


class StateProjections(nn.Module):
    """Maps h -> h W, W in R^{d_student x d_teacher}, without bias as TinyBERT's equations have it; in fp32.

    One map for all matched pairs, or one for each. They are trained with the student and never exported.
    """

    def __init__(self, projection: Projecting, context: ObjectiveContext, count: int, seed: int):
        """Draws `count` maps from `seed` alone, or none where none is wanted."""
        super().__init__()
        assert context.teacher is not None, "checked before"
        own, other = context.student.width, context.teacher.width
        wanted = projection == "always" or (projection == "auto" and own != other)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            maps = [nn.Linear(own, other, bias=False) for _ in range(count)] if wanted else []
        self.maps = nn.ModuleList(maps)
        number = "one learned map" if len(maps) == 1 else f"{len(maps)} learned maps"
        self.words = f", through {number} from {own} to {other}" if maps else ""
        self.to(context.device)

    def forward(self, states: Tensor, position: int) -> Tensor:
        """Maps the states [..., d_student] of the pair at `position` to [..., d_teacher], also inside autocast."""
        if not len(self.maps):
            return states
        weight = cast(nn.Linear, self.maps[position if len(self.maps) > 1 else 0]).weight
        with torch.autocast(states.device.type, enabled=False):
            return functional.linear(states.to(weight.dtype), weight)


class HiddenLoss(LayerwiseLoss):
    """Base of the family; the student's states may go through a learned map to the teacher's width."""

    distance: ClassVar[Callable[[Tensor, Tensor, Any], Tensor]]  # of student's, teacher's and mask: a scalar
    seed_offset: ClassVar[int]
    pooling: Pooling | None = None  # what of a layer is compared: its pooled output, or (None) every token's state

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        """Matches the layers and draws the maps from the context's seed alone."""
        super().__init__(settings, context)
        self.chosen: Any = settings  # of the subclass's own type
        self.pooling = next(iter(self.reads.pooled), None)
        maps = 1 if getattr(settings, "shared_projection", False) else len(self.pairs)
        self.projections = StateProjections(self.chosen.projection, context, maps, context.seed + self.seed_offset)

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """The states of the matched layers."""
        pooling: Pooling | None = getattr(settings, "pooling", cls.pooling)
        layers = getattr(settings, "matching", "embeddings")
        if pooling is None:
            return Needs(tokens=frozenset({"hidden"}), layers=layers)
        return Needs(pooled=frozenset({pooling}), layers=layers)

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` if the widths differ and nothing maps them."""
        assert context.teacher is not None, "checked before"
        own, other = context.student.width, context.teacher.width
        if cast(Any, settings).projection == "never" and own != other:
            raise ConfigError(
                f"The objective {cls.name!r} compares states of one width, and the student's have {own} numbers, the "
                f"teacher's {other}: set {cls.name}.projection to auto, which learns a map from {own} to {other}, or "
                f"choose a student of width {other}."
            )

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the scalar loss of one pair of layers; `mask` [B, L] is there with the tokens."""
        return type(self).distance(student, teacher, mask)

    def _states(self, side: Representations, layer: int) -> Tensor:
        if self.pooling is None:
            return side.tokens[TokenView("hidden", layer)]
        return side.pooled[self.pooling][:, layer - 1]

    def forward(self, step: Step) -> Term:
        """Reads the states of the matched layers, [B, L, d] or pooled [B, d]."""
        assert step.teacher is not None, "declared in needs"
        mask = step.student.mask if self.pooling is None else None
        losses: dict[int, Tensor] = {}
        for position, own, other in self.counted(step.progress):
            live = self.projections(self._states(step.student, own), position)
            losses[own] = self.compare(live, self._states(step.teacher, other).to(live.device), mask)
        return self.summed(losses)

    def describe(self) -> list[str]:
        """The matched layers, the maps and the order."""
        said = {None: "", "mean": " (means over the tokens)", "cls": " ([CLS] states)"}[self.pooling]
        return [self.say_pairs(said + self.projections.words)]


class StatesSettings(ObjectiveSettings):
    """Settings of losses over hidden states of matched layers."""

    matching: Matching = Field(default="spread", description=MATCHING_HELP)
    projection: Projecting = Field(default="auto", description=_PROJECTING_HELP)


class HiddenMSESettings(StatesSettings):
    """Settings of the loss `hidden_mse`."""

    shared_projection: bool = Field(
        default=True, description="one map for all matched layers, as TinyBERT has it, or one for each"
    )


class HiddenMSE(HiddenLoss):
    """MSE(H_student W_h, H_teacher), summed over the matched layers (TinyBERT, Jiao et al. 2020, L_hidn).

    Of a layer: the mean over the real tokens and dimensions of an example, then over the examples. W_h, one for all
    layers and without bias, is learned; the paper always has it (`projection: always`), `auto` only where the widths
    differ. With one pair it is the hint of Romero et al. 2015, with a linear regressor.
    """

    name, Settings, seed_offset = "hidden_mse", HiddenMSESettings, 5
    distance = feature_map_mse


class EmbeddingMSESettings(ObjectiveSettings):
    """Settings of the loss `embedding_mse`."""

    projection: Projecting = Field(default="auto", description=_PROJECTING_HELP)


class EmbeddingMSE(HiddenLoss):
    """MSE(E_student W_e, E_teacher) (TinyBERT, L_embd); E is what goes into layer 1.

    W_e is learned, and not shared with `hidden_mse`; the paper always has it (`projection: always`).
    """

    name, Settings, seed_offset = "embedding_mse", EmbeddingMSESettings, 6
    distance = feature_map_mse

    def describe(self) -> list[str]:
        """The embedding layers and the map."""
        return [f"{self.name}: the student's embedding layer learns from the teacher's{self.projections.words}"]


class HiddenCosineSettings(StatesSettings):
    """Settings of the loss `hidden_cosine`."""

    matching: Matching = Field(default="top", description=MATCHING_HELP)
    projection: Projecting = Field(default="never", description=_PROJECTING_HELP)


class HiddenCosine(HiddenLoss):
    """1 - cos(h_student, h_teacher) of every real token, summed over the matched layers (DistilBERT, Sanh et al. 2019).

    Of a layer: the mean over the real tokens of an example, then over the examples. The paper compares the last layers
    (`matching: top`) of models of one width, in pre-training; it works the same in fine-tuning.
    """

    name, Settings, seed_offset = "hidden_cosine", HiddenCosineSettings, 8
    distance = cosine_distance


class FeatureMapMSESettings(StatesSettings, ProgressiveSettings):
    """Settings of the loss `feature_map_mse`."""

    normalised: bool = Field(
        default=False,
        description="compare layer-normalised maps (no learned scale), and their statistics by mean_weight and "
        "variance_weight: the released code of MobileBERT; its paper compares the maps themselves",
    )
    mean_weight: float = Field(
        default=0.0, ge=0, description="normalised: weight of the squared error of the tokens' means"
    )
    variance_weight: float = Field(
        default=0.0, ge=0, description="normalised: weight of the absolute error of the tokens' variances"
    )
    averaged: bool = Field(default=False, description="divide by the number of matched layers: the released code does")

    @model_validator(mode="after")
    def _statistics_of_normalised_maps(self) -> Self:
        if not self.normalised and (self.mean_weight or self.variance_weight):
            raise ValueError("mean_weight and variance_weight are for normalised maps: set normalised to true")
        return self


class FeatureMapMSE(HiddenLoss):
    """Mean squared error between the states of matched layers (MobileBERT, Sun et al. 2020, feature map transfer).

    Of a layer: the mean over dimensions and real tokens of an example, then over the examples; `progressive: transfer`
    is its progressive knowledge transfer. The released code takes the maps apart, into normalised maps, means and
    variances (`normalised`), and divides by the number of layers (`averaged`).
    """

    name, Settings, seed_offset = "feature_map_mse", FeatureMapMSESettings, 8

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """Compares the maps themselves, or their parts."""
        assert mask is not None, "there with the tokens"
        if self.chosen.normalised:
            maps, means, variances = feature_map_parts(student, teacher, mask)
            loss = maps + self.chosen.mean_weight * means + self.chosen.variance_weight * variances
        else:
            loss = feature_map_mse(student, teacher, mask)
        return loss / len(self.pairs) if self.chosen.averaged else loss


class PooledCosineSettings(StatesSettings, ProgressiveSettings):
    """Settings of the loss `pooled_cosine`."""

    pooling: Pooling = Field(default="mean", description="what stands for a layer: the `mean` of its tokens or `cls`")


class PooledCosine(HiddenLoss):
    """One minus the cosine of two pooled representations, mean over examples, summed over the matched layers.

    The representations are those that CoDIR contrasts (Section 3.2: h, the mean of a layer's tokens), here without
    negatives. Both sides may have tokenizers of their own.
    """

    name, Settings, seed_offset = "pooled_cosine", PooledCosineSettings, 10
    distance = cosine_distance


class ClsCosineSettings(StatesSettings, ProgressiveSettings):
    """Settings of the loss `cls_cosine`."""

    projection: Projecting = Field(default="never", description=_PROJECTING_HELP)


class ClsCosine(HiddenLoss):
    """One minus the cosine of the first tokens' states, mean over examples, summed over the matched layers.

    SID, Aguilar et al. 2020; with `progressive: unlock` its stacked internal distillation.
    """

    name, Settings, seed_offset, pooling = "cls_cosine", ClsCosineSettings, 9, "cls"
    distance = cosine_distance


class PKDSettings(StatesSettings):
    """Settings of the loss `pkd`."""

    matching: Matching = Field(default="skip", description=MATCHING_HELP)
    projection: Projecting = Field(default="never", description=_PROJECTING_HELP)
    averaged: bool = Field(
        default=False,
        description="take the mean over layers and dimensions: the released code does, the paper's equation does not, "
        "and the weights that the paper searched belong to the mean",
    )


class PKD(HiddenLoss):
    """|| s / |s| - t / |t| ||_2^2 of the [CLS] states, summed over matched layers, mean over the examples (L_PT).

    BERT-PKD, Sun et al. 2019; PKD-Skip (`matching: skip`) is the default, PKD-Last is `last`. Neither matches the last
    layer, which is left to the loss on the predictions. The paper sums over the examples; its released code also takes
    the mean over layers and dimensions (`averaged`).
    Metric `cosine`: mean cosine of the matched states, 1 - loss / (2 * layers).
    """

    name, Settings, seed_offset, pooling = "pkd", PKDSettings, 7, "cls"

    def forward(self, step: Step) -> Term:
        """Reads pooled `cls` [B, layers, d] of both sides."""
        assert step.teacher is not None, "declared in needs"
        student, teacher = step.student.pooled["cls"], step.teacher.pooled["cls"]
        # A stack of the teacher's float16 rows is not possible under autocast on every device; indexing is.
        still = teacher[:, [other - 1 for _, other in self.pairs]].to(student.device)
        with torch.autocast(student.device.type, enabled=False):
            live = torch.stack(
                [self.projections(student[:, own - 1], place) for place, (own, _) in enumerate(self.pairs)],
                dim=1,
            )
        loss = patient_distance(live, still)
        cosine = 1 - loss.detach() / (2 * len(self.pairs))
        if self.chosen.averaged:
            loss = loss / (live.shape[1] * live.shape[2])
        return Term(loss, {"cosine": cosine})
