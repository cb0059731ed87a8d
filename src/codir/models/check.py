"""The one check of a loaded model together with its tokenizer, before anything is computed with the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from codir.errors import ModelError
from codir.models.loading import load_tokenizer
from codir.models.padding import settle_side
from codir.models.probe import behaviour, is_known
from codir.printing import errors


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

    What the answers of a model depend on besides the text is said on standard error, once for each model.

    Raises:
        ModelError: the two do not fit, or the model cannot be run on texts of different lengths.
    """
    _require_rows(model, tokenizer, name)
    _notice_behaviour(model, tokenizer, name)


def _notice_behaviour(model: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Says what `behaviour` finds."""
    known = is_known(model)  # a copy of a model that was checked, or the same one again
    try:
        found = behaviour(model, tokenizer.pad_token_id)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    settle_side(tokenizer, found.side)
    if known:
        return
    kind = type(model).__name__
    lines = []
    if not found.padded:
        lines.append(
            f"{name} ({kind}) answers a text otherwise when it is padded: probabilities or scores differ by up to "
            f"{found.padding_error:.2g}. It is run without padding, on texts of one length at a time; only a training "
            "pads, unless its batch size is 1."
        )
    if found.settled is not None:
        lines.append(
            f"{name} ({kind}) leaves some of its answers to chance or to the texts before; from here on "
            f"{found.settled}."
        )
    for line in lines:
        errors().print(f"Note: {line}", style="yellow", soft_wrap=True)


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
