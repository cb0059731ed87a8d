"""How long an input a model has positions for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Positions start at padding_idx + 1 in these families, so that many rows of the position table are never used.
_OFFSET_POSITIONS = frozenset(
    {
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "roberta-prelayernorm",
        "camembert",
        "data2vec-text",
        "ibert",
        "xmod",
    }
    | {"longformer", "mpnet", "layoutlmv3", "luke", "esm", "lilt", "markuplm"}
)
# Relative positions without a table of absolute ones.
_RELATIVE_POSITIONS = frozenset({"t5", "mt5", "umt5", "xlnet", "transfo-xl", "funnel"})


def position_limit(config: PreTrainedConfig) -> int | None:
    """Returns the longest input, in tokens, that a model has positions for; None if positions are only relative.

    BERT and its like: `max_position_embeddings`. RoBERTa's positions start at `padding_idx + 1`, so its table of 514
    holds 512. DeBERTa without absolute positions in its input, T5, XLNet: no limit.
    """
    family = getattr(config, "model_type", "")
    if family in _RELATIVE_POSITIONS:
        return None
    if family in ("deberta", "deberta-v2") and not getattr(config, "position_biased_input", True):
        return None
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions <= 0:
        return None
    if family in _OFFSET_POSITIONS:
        padding = getattr(config, "pad_token_id", None)
        return positions - (1 if padding is None else padding) - 1
    return positions
