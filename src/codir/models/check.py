"""The one check of a loaded model together with its tokenizer, before anything is computed with the two.

What can be set right without a doubt is: a padding token that only one of the two knows, token types that the model has
no vectors for. Everything else is refused, or said.
"""

from __future__ import annotations

import contextlib
import inspect
from pathlib import Path
from typing import Any

from torch import nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, PreTrainedModel, PreTrainedTokenizerBase

from codir.errors import ModelError
from codir.models.batches import settle_side
from codir.models.loading import load_tokenizer
from codir.models.probe import behaviour, is_known
from codir.printing import errors

# Tables are often a little larger than the vocabulary, a multiple of 64 or 128, or have room for tokens to come.
_ROOM = 1_000
_OTHER = "it seems to be the tokenizer of another model"


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

    The padding token that only one of the two knows is given to the other, and token types that the model has no
    vectors for are switched off in the tokenizer.

    Args:
        model: a model of transformers, or an exported one that another engine runs (`model.config` is its config).
        tokenizer: the one whose tokens it will be given.
        name: what messages call the model: its folder or Hub id, or "the student".

    What the answers of a model depend on besides the text is said on standard error, once for each model.

    Raises:
        ModelError: the two do not fit, or the model cannot be run on texts of different lengths.
    """
    rows = _rows(model)
    _share_padding(model.config, tokenizer, name)
    if rows is not None:
        _require_rows(rows, tokenizer, name)
    _fit_token_types(model, tokenizer, name)
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


def _share_padding(config: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Makes tokenizer and config agree on the padding token; refuses a pair without one, or with two in an encoder."""
    of_model: Any = getattr(config, "pad_token_id", None)
    if tokenizer.pad_token_id is None and isinstance(of_model, int):
        token = tokenizer.convert_ids_to_tokens(of_model)
        if token is not None:
            tokenizer.pad_token = token
    if tokenizer.pad_token_id is None:
        end = tokenizer.eos_token or tokenizer.sep_token
        way = f"its token {end!r} can serve" if end else "name one of its tokens"
        raise ModelError(
            f"Neither the tokenizer of {name} nor its config.json names a padding token, so texts cannot be run "
            f'together. In tokenizer_config.json, {way}: "pad_token": "{end or "..."}".'
        )
    padding = int(tokenizer.pad_token_id)  # type: ignore[arg-type]
    if of_model == padding:
        return
    if of_model is not None and type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise ModelError(
            f"The tokenizer of {name} pads with id {padding} ({tokenizer.pad_token!r}), and its config.json says "
            f"pad_token_id {of_model}: {_OTHER}. Copy the files of the tokenizer that the model was trained with; if "
            f"this is it, set pad_token_id to {padding} in config.json."
        )
    # What has no padding of its own (GPT-2, Qwen) looks for the last token that is not `pad_token_id`.
    config.pad_token_id = padding


def _require_rows(rows: int, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuses a tokenizer that gives ids which the model has no embedding for, and warns of one that is far smaller."""
    highest = _highest_id(tokenizer, rows)
    if highest >= rows:
        raise ModelError(
            f"The tokenizer of {name} gives ids up to {highest:,} ({tokenizer.convert_ids_to_tokens(highest)!r}), and "
            f"the model has embeddings for {rows:,} tokens, up to id {rows - 1:,}. Copy the files of the tokenizer "
            f"that the model was trained with; or, for tokens that were added, model.resize_token_embeddings("
            f"{highest + 1}) and save the model before it is trained."
        )
    unused = rows - 1 - highest
    if unused > _ROOM or unused > rows // 2:
        errors().print(
            f"Note: The tokenizer of {name} has {highest + 1:,} tokens, and the model embeddings for {rows:,}: "
            f"{_OTHER}.",
            style="yellow",
            soft_wrap=True,
        )


def _rows(model: Any) -> int | None:
    """Returns how many tokens the model has embeddings for; None where that is no table (CANINE hashes characters)."""
    if isinstance(model, PreTrainedModel):
        with contextlib.suppress(NotImplementedError, AttributeError):
            table = model.get_input_embeddings()
            if isinstance(table, nn.Embedding):
                return table.num_embeddings
    size = getattr(model.config, "vocab_size", None)
    return size if isinstance(size, int) else None


def _highest_id(tokenizer: PreTrainedTokenizerBase, rows: int) -> int:
    """Returns the highest id that a tokenizer gives, as far as it can be told without its whole vocabulary (100 ms).

    A vocabulary without gaps ends at its size; of one with gaps the first ids that a model of `rows` lacks are asked.
    """
    ids = [len(tokenizer) - 1, *tokenizer.added_tokens_decoder]
    name_of = getattr(getattr(tokenizer, "backend_tokenizer", None), "id_to_token", None)
    if name_of is not None:
        ids += [number for number in range(rows, rows + _ROOM) if name_of(number) is not None]
    return max(ids)


def _fit_token_types(model: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Switches off token types of which the model has but one, or none; refuses more than it has."""
    names = list(tokenizer.model_input_names)
    if "token_type_ids" not in names:
        return
    types = _token_types(model)
    if types is None:
        return
    if types < 2:
        # one type for all is what a model takes without any, and what RoBERTa's own tokenizer gives of pairs
        tokenizer.model_input_names = [each for each in names if each != "token_type_ids"]
        return
    given: Any = tokenizer("a", "b")["token_type_ids"]
    if max(given, default=0) >= types:
        raise ModelError(
            f"The tokenizer of {name} gives the texts of a pair token types up to {max(given)}, and the model knows "
            f"{types}: {_OTHER}. Copy the files of the tokenizer that the model was trained with."
        )


def _token_types(model: Any) -> int | None:
    """Returns how many token types a model has vectors for, 0 if it takes none; None where that is not known."""
    if isinstance(model, PreTrainedModel):
        if "token_type_ids" not in inspect.signature(model.forward).parameters:
            return 0
        for label, module in model.named_modules():
            if label.endswith("token_type_embeddings") and isinstance(module, nn.Embedding):
                return module.num_embeddings
    size = getattr(model.config, "type_vocab_size", None)
    return size if isinstance(size, int) else None
