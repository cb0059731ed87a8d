"""The one check of a loaded model together with its tokenizer, before anything is computed with the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from codir.errors import ModelError
from codir.models.loading import load_tokenizer


def load_tokenizer_for(model: Any, path_or_hub_id: str | Path) -> PreTrainedTokenizerBase:
    """Loads the tokenizer beside a model that is already loaded, and checks the two (`check_model`).

    Args:
        model: a model of transformers, or an exported one that another engine runs.
        path_or_hub_id: where it came from, and its tokenizer comes from.

    Raises:
        ModelError: there is no tokenizer or it cannot be read, or model and tokenizer do not fit.
    """
    tokenizer = load_tokenizer(path_or_hub_id)
    check_model(model, tokenizer, str(path_or_hub_id))
    return tokenizer


def check_model(model: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Checks that a model can be run on what a tokenizer gives; every command calls it for each model it loads.

    Args:
        model: a model of transformers, or an exported one that another engine runs (`model.config` is its config).
        tokenizer: the one whose tokens it will be given.
        name: what messages call the model: its folder or Hub id, or "the student".

    Raises:
        ModelError: the two do not fit.
    """
    _require_rows(model, tokenizer, name)


def _require_rows(model: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raises `ModelError` for a tokenizer that gives ids which the model has no embedding for."""
    rows = _rows(model)
    if rows is None:
        return
    added = tokenizer.added_tokens_decoder
    highest = max([len(tokenizer) - 1, *added])
    if highest >= rows:
        raise ModelError(
            f"The tokenizer of {name} gives ids up to {highest:,}, and the model has embeddings for {rows:,} tokens "
            f"(ids up to {rows - 1:,})."
        )


def _rows(model: Any) -> int | None:
    """Returns how many tokens the model has an embedding for; None where that is not a table."""
    size = getattr(model.config, "vocab_size", None)
    return size if isinstance(size, int) else None
