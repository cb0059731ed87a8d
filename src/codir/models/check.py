"""The check of a loaded model together with its tokenizer, before anything is computed with the two.

What can be set right without a doubt is: a padding token that only one of the two knows, token types that the model has
no vectors for. Everything else is refused, or said. What the model's answers depend on besides the text (padding,
chance) is found out by running it on a few tokens (`behaviour`).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, PreTrainedModel, PreTrainedTokenizerBase

from codir.errors import ModelError
from codir.models.config_file import position_limit
from codir.models.loading import load_tokenizer
from codir.printing import errors

Side = Literal["left", "right"]
# Families whose answers padding is known not to change: they are not probed.
_EXACT_FAMILIES = frozenset(
    {"albert", "bert", "camembert", "codir-bilstm", "data2vec-text", "deberta", "deberta-v2", "distilbert"}
    | {"electra", "ernie", "longformer", "modernbert", "mpnet", "rembert", "roberta", "roberta-prelayernorm"}
    | {"xlm-roberta", "xlm-roberta-xl"}
)
_LENGTH = 11  # tokens of a probe
# What is but rounding, as a share of the largest logit: int8 has steps of 1/127 of a tensor's largest value.
_ROUNDING = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.06, torch.int8: 0.1}
_KEPT, _LEFT = "_codir_behaviour", "_codir_left"
# Tables are often a little larger than the vocabulary, a multiple of 64 or 128, or have room for tokens to come.
_ROOM = 1_000
_OTHER = "it seems to be the tokenizer of another model"
_COPY = f"{_OTHER}. Copy the files of the tokenizer that the model was trained with"


def load_tokenizer_for(model: Any, path_or_hub_id: str | Path) -> PreTrainedTokenizerBase:
    """Loads the tokenizer beside a model that is already loaded, and checks the two (`check_model`).

    Raises:
        ModelError: there is no tokenizer or it cannot be read, or model and tokenizer do not fit.
    """
    tokenizer = load_tokenizer(path_or_hub_id)
    check_model(model, tokenizer, str(path_or_hub_id))
    return tokenizer


def check_model(model: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Checks that a model can be run on what a tokenizer gives; every command calls it for each model it loads.

    What the answers of a model depend on besides the text is said on standard error, once for each model.

    Args:
        model: a model of transformers, or an exported one that another engine runs (`model.config` is its config).
        tokenizer: the one whose tokens it will be given.
        name: what messages call the model: its folder or Hub id, or "the student".

    Raises:
        ModelError: the two do not fit, or the model cannot be run on texts of different lengths.
    """
    rows = _rows(model)
    _share_padding(model.config, tokenizer, name)
    if rows is not None:
        _require_rows(rows, tokenizer, name)
    _fit_token_types(model, tokenizer, name)
    if model.config.model_type == "big_bird" and hasattr(model, "base_model"):  # not an exported one
        # BigBird turns to full attention for good with its first short text: now, and said in what is saved of it
        model.base_model.set_attention_type("original_full")
        model.config.attention_type = "original_full"
    known = _KEPT in model.__dict__  # a copy of a model that was checked, or the same one again
    try:
        found = behaviour(model, tokenizer.pad_token_id)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    settle_side(tokenizer, found.side)
    if not known and not found.padded:
        errors().print(
            f"Note: {name} ({type(model).__name__}) answers a text otherwise when it is padded: probabilities or "
            f"scores differ by up to {found.padding_error:.2g}. It is run without padding, on texts of one length at a "
            "time; only a training pads, unless its batch size is 1.",
            style="yellow",
            soft_wrap=True,
        )


def settle_side(tokenizer: PreTrainedTokenizerBase, side: Side) -> None:
    """Notes on a tokenizer, in what is saved of it, too, on which side its model is to have the padding."""
    tokenizer.padding_side = side
    if "padding_side" in tokenizer.init_kwargs:  # what is saved
        tokenizer.init_kwargs["padding_side"] = side
    tokenizer.__dict__[_LEFT] = side == "left"


def side_of(tokenizer: PreTrainedTokenizerBase) -> Side:
    """Returns the side that was noted; right for a tokenizer whose model was not checked."""
    return "left" if tokenizer.__dict__.get(_LEFT) else "right"


def _share_padding(config: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Makes tokenizer and config agree on the padding token; refuses a pair without one, or with two in an encoder."""
    of_model: Any = getattr(config, "pad_token_id", None)
    if tokenizer.pad_token_id is None and isinstance(of_model, int):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(of_model) or tokenizer.pad_token
    if tokenizer.pad_token_id is None:
        end = tokenizer.eos_token or tokenizer.sep_token
        way = f"its token {end!r} can serve" if end else "name one of its tokens"
        raise ModelError(
            f"Neither the tokenizer of {name} nor its config.json names a padding token, so texts cannot be run "
            f'together. In tokenizer_config.json, {way}: "pad_token": "{end or "..."}".'
        )
    padding = int(tokenizer.pad_token_id)  # type: ignore[arg-type]
    if of_model not in (None, padding) and type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise ModelError(
            f"The tokenizer of {name} pads with id {padding} ({tokenizer.pad_token!r}), and its config.json says "
            f"pad_token_id {of_model}: {_COPY}; if this is it, set pad_token_id to {padding} in config.json."
        )
    # What has no padding of its own (GPT-2, Qwen) looks for the last token that is not `pad_token_id`.
    config.pad_token_id = padding


def _rows(model: Any) -> int | None:
    """Returns how many tokens the model has embeddings for; None where that is no table (CANINE hashes characters)."""
    if isinstance(model, PreTrainedModel):
        with contextlib.suppress(NotImplementedError, AttributeError):
            table = model.get_input_embeddings()
            if isinstance(table, nn.Embedding):
                return table.num_embeddings
    size = getattr(model.config, "vocab_size", None)
    return size if isinstance(size, int) else None


def _require_rows(rows: int, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuses a tokenizer that gives ids which the model has no embedding for, and warns of one that is far smaller."""
    # A vocabulary without gaps ends at its size; of one with gaps the first ids that the model lacks are asked.
    ids = [len(tokenizer) - 1, *tokenizer.added_tokens_decoder]
    name_of = getattr(getattr(tokenizer, "backend_tokenizer", None), "id_to_token", lambda number: None)
    highest = max(ids + [number for number in range(rows, rows + _ROOM) if name_of(number) is not None])
    if highest >= rows:
        raise ModelError(
            f"The tokenizer of {name} gives ids up to {highest:,} ({tokenizer.convert_ids_to_tokens(highest)!r}), and "
            f"the model has embeddings for {rows:,} tokens, up to id {rows - 1:,}. Copy the files of the tokenizer "
            f"that the model was trained with; or, for tokens that were added, model.resize_token_embeddings("
            f"{highest + 1}) and save the model before it is trained."
        )
    if rows - 1 - highest > min(_ROOM, rows // 2):
        note = f"The tokenizer of {name} has {highest + 1:,} tokens, and the model embeddings for {rows:,}: {_OTHER}."
        errors().print(f"Note: {note}", style="yellow", soft_wrap=True)


def _fit_token_types(model: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Switches off token types of which the model has but one, or none; refuses more than it has."""
    names = list(tokenizer.model_input_names)
    types: Any = getattr(model.config, "type_vocab_size", None)
    if isinstance(model, PreTrainedModel):
        for label, module in model.named_modules():
            if label.endswith("token_type_embeddings") and isinstance(module, nn.Embedding):
                types = module.num_embeddings
                break
        if "token_type_ids" not in inspect.signature(model.forward).parameters:
            types = 0
    if "token_type_ids" not in names or not isinstance(types, int):
        return
    if types < 2:
        # one type for all is what a model takes without any, and what RoBERTa's own tokenizer gives of pairs
        tokenizer.model_input_names = [each for each in names if each != "token_type_ids"]
        return
    given: Any = tokenizer("a", "b")["token_type_ids"]
    if max(given, default=0) >= types:
        raise ModelError(
            f"The tokenizer of {name} gives the texts of a pair token types up to {max(given)}, and the model knows "
            f"{types}: {_COPY}."
        )


# --- what a model does


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts `model` into eval mode for the block; afterwards every submodule has the mode it had before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass(frozen=True)
class Behaviour:
    """What a model's answers depend on besides the text."""

    # the largest difference of a probability (of a score, of a regression) between a text alone and the same text in a
    # padded batch; 0 where there is none but rounding
    padding_error: float = 0.0
    side: Side = "right"  # on which padding does least
    # why the outputs of single layers cannot be compared with another model's: the end of a sentence about the model
    no_layers: str | None = None

    @property
    def padded(self) -> bool:
        """Whether texts of different lengths may be one batch."""
        return self.padding_error == 0.0


def behaviour(model: Any, pad_token_id: Any = None) -> Behaviour:
    """Returns what a model does; the first call may run it on a few tokens, later ones and copies know it.

    Args:
        model: a classifier or a masked language model of transformers, or an exported one that another engine runs.
            Whatever has no config is taken to be exact.
        pad_token_id: what its batches are padded with; by default its config's.

    Raises:
        ModelError: it cannot be run on texts of different lengths, or its answers are a matter of chance.
    """
    if _KEPT not in model.__dict__:
        model.__dict__[_KEPT] = Behaviour() if _is_exact(model) else _probe(model, pad_token_id)
    return model.__dict__[_KEPT]


def require_layers(model: Any, side: str) -> None:
    """Raises `ModelError` for a model whose layers' outputs no loss can read; `side` is the teacher or the student."""
    if (why := behaviour(model).no_layers) is not None:
        raise ModelError(
            f"{side} is a {type(model).__name__}, which {why}, so losses over its layers cannot be computed. Its "
            "logits can be learned from: --recipe kd."
        )


def _is_exact(model: Any) -> bool:
    """Whether a model is of a family whose code is known to be exact, no decoder, without code of its own."""
    config = getattr(model, "config", None)
    if config is None:
        return True
    unusual = getattr(config, "is_decoder", False) or type(model).__module__.startswith("transformers_modules")
    return getattr(config, "model_type", None) in _EXACT_FAMILIES and not unusual


@torch.inference_mode()
def _probe(model: Any, pad_token_id: Any) -> Behaviour:
    name = f"{type(model).__name__} ({getattr(model.config, 'model_type', 'unknown family')})"
    long, short = _texts(model)
    pad = pad_token_id if pad_token_id is not None else getattr(model.config, "pad_token_id", None)
    fill = torch.full((1, long.shape[1] - short.shape[1]), pad if isinstance(pad, int) else 0)
    rounding = _ROUNDING.get(getattr(model, "dtype", torch.float32), 1e-4)

    def together(side: Side) -> Any:
        rows = [(short, fill), (torch.ones_like(short), torch.zeros_like(fill))]
        padded, mask = (torch.cat(row if side == "right" else row[::-1], dim=1) for row in rows)
        return _run(model, torch.cat([long, padded]), torch.cat([torch.ones_like(long), mask]), hidden=side == "right")

    def differs(outputs: Any, row: int) -> float:
        return _difference(_answers(alone, 0, short.shape[1]), _answers(outputs, row, short.shape[1]), rounding)

    with evaluation_mode(model), torch.random.fork_rng():
        torch.manual_seed(1)
        try:
            alone = _run(model, short, torch.ones_like(short))
            both, again = together("right"), together("right")
            error, side = differs(both, 1), "right"
            if error and alone.logits.dim() == 2 and differs(together("left"), 1) == 0:
                error, side = 0.0, "left"
        except Exception as failure:  # whatever a family's code stumbles over
            said = (str(failure).strip().splitlines() or ["no reason given"])[0][:300].rstrip(".")
            raise ModelError(
                f"{name} cannot be run on texts of different lengths: {said} ({type(failure).__name__})."
            ) from failure
    first, second = (_answers(each, 0, long.shape[1]) for each in (both, again))
    if by := _difference(first, second, rounding):
        raise ModelError(
            f"{name} draws random numbers for its answers, so that no two of them agree: probabilities differ by up to "
            f"{by:.2g}. Use another model."
        )
    if alone.logits.dim() == 2 and torch.equal(_answers(both, 0, 1), _answers(both, 1, 1)):
        raise ModelError(
            f"{name} gives the same answer whatever the text: a decoder was made of it (is_decoder in its config.json "
            "has to be false), its attention needs a kernel that this machine has not got, or its weights are damaged."
        )
    return Behaviour(error, side, _no_layers(model.config, both, long.shape[1]))


def _texts(model: Any) -> tuple[Tensor, Tensor]:
    """Returns a long and a short text [1, L]: tokens from all over the vocabulary, between a first and a last one."""
    config = model.config
    special = [value for name, value in vars(config).items() if name.endswith("token_id")]
    size = getattr(config, "vocab_size", None)
    size = size if isinstance(size, int) else 1000
    usual = [size * place // 31 for place in range(1, 31) if size * place // 31 not in special] or [0]
    first, last = (
        next((value for name in names if isinstance(value := getattr(config, name, None), int)), None)
        for names in (("cls_token_id", "bos_token_id"), ("eos_token_id", "sep_token_id"))
    )

    def text(length: int, start: int) -> Tensor:
        ids = [usual[(start + 7 * place) % len(usual)] for place in range(length)]
        ids[0] = ids[0] if first is None else first
        ids[-1] = ids[-1] if last is None else last
        return torch.tensor([ids])

    # what is cut into chunks (Reformer) shows only in texts of more than one, that do not fill the last
    chunks = [value + 1 for name, value in vars(config).items() if name.endswith("chunk_length")]
    length = max([_LENGTH, *chunks])
    length = min(length, position_limit(config) or length)
    return text(length, 0), text(max(1, length * 7 // 11), 3)


def _run(model: Any, ids: Tensor, mask: Tensor, hidden: bool = False) -> Any:
    place = getattr(model, "device", "cpu")
    return model(input_ids=ids.to(place), attention_mask=mask.to(place), output_hidden_states=hidden, return_dict=True)


def _answers(outputs: Any, row: int, tokens: int) -> Tensor:
    """Returns the logits [C] of a classifier, or those [tokens, V] of a masked language model."""
    logits = outputs.logits[row]
    return (logits if logits.dim() == 1 else logits[:tokens]).cpu()


def _difference(one: Tensor, other: Tensor, rounding: float) -> float:
    """Returns the largest difference of a probability (of one output: of the score); 0 if it is but rounding."""
    one, other = one.double(), other.double()
    by = (one - other).abs().max().item()
    if by <= rounding * max(1.0, one.abs().max().item()):
        return 0.0
    if one.shape[-1] > 1:  # two answers can be so sure that their probabilities are the same number
        by = max((one.softmax(-1) - other.softmax(-1)).abs().max().item(), 1e-12)
    return by


def _no_layers(config: Any, outputs: Any, length: int) -> str | None:
    hidden = getattr(outputs, "hidden_states", None)
    depth, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    if getattr(config, "is_encoder_decoder", False):
        return "has an encoder and a decoder"
    if hidden is None:
        return "does not give the outputs of its layers"
    if len(hidden) - 1 != depth:
        return f"gives the outputs of {len(hidden) - 1} layers where its config says {depth}"
    if any(state.shape[:2] != (2, length) for state in hidden):
        return "changes the length of a text between its layers"
    if any(state.shape[2] != width for state in hidden):
        return f"has layers of a width other than {width}"
    return None
