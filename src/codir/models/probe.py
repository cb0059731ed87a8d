"""The mode of a model for the time of a block: its modules may have modes of their own, which come back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codir.errors import ModelError
from codir.models.batches import Side
from codir.models.config_file import position_limit


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


EXACT_FAMILIES = frozenset(
    {"albert", "bert", "camembert", "codir-bilstm", "data2vec-text", "deberta", "deberta-v2", "distilbert"}
    | {"electra", "ernie", "longformer", "modernbert", "mpnet", "rembert", "roberta", "roberta-prelayernorm"}
    | {"xlm-roberta", "xlm-roberta-xl"}
)
_LENGTH = 11
_WINDOW = 4
_KEPT = "_codir_behaviour"
# What is but rounding, as a share of the largest logit: int8 has steps of 1/127 of a tensor's largest value.
_ROUNDING = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.06, torch.int8: 0.1}


@dataclass(frozen=True)
class Behaviour:
    """What the probe found.

    Attributes:
        padding_error: the largest difference of a probability (of a score, of a regression) between a text alone and
            the same text in a padded batch; 0 where there is none but rounding.
        side: on which side padding does least.
        no_layers: why the outputs of single layers cannot be compared with another model's, as the end of a sentence
            about the model; None where they can.
        settled: what was left to chance or to the first text, and is set for good now, such as
            `attention_type is original_full`.
    """

    padding_error: float = 0.0
    side: Side = "right"
    no_layers: str | None = None
    settled: str | None = None

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
    kept = model.__dict__.get(_KEPT)
    if kept is None:
        known = getattr(model, "config", None) is None or _is_exact(model)
        kept = Behaviour() if known else _probe(model, pad_token_id)
        model.__dict__[_KEPT] = kept
    return kept


def is_known(model: Any) -> bool:
    """Whether `behaviour` has looked at a model, or at the one it is a copy of."""
    return _KEPT in model.__dict__


def require_layers(model: Any, side: str) -> None:
    """Raises `ModelError` for a model whose layers' outputs no loss can read; `side` is the teacher or the student."""
    why = behaviour(model).no_layers
    if why is not None:
        raise ModelError(
            f"{side} is a {type(model).__name__}, which {why}, so losses over its layers cannot be computed. Its "
            "logits can be learned from: --recipe kd."
        )


@torch.no_grad()
def require_trainable(model: Any, side: str) -> None:
    """Raises `ModelError` for a model that can answer texts of any length, but not be trained on them (Reformer)."""
    if getattr(model, "config", None) is None or _is_exact(model):
        return
    long, _ = _texts(model)
    try:
        with evaluation_mode(model), torch.random.fork_rng():
            _run(model.train(), long, torch.ones_like(long))
    except Exception as failure:  # whatever a family's code stumbles over
        raise ModelError(
            f"{side} is a {type(model).__name__}, which cannot be trained on texts of any length: "
            f"{_said(failure)} Choose another model for it."
        ) from failure


def _is_exact(model: Any) -> bool:
    """Whether a model is of a family whose code is known to be exact, and not code that came with its weights.

    Nor is it known of one that is made a decoder of, or whose windows are narrower than any that was ever trained.
    """
    config = model.config
    windows = getattr(config, "attention_window", None) or _WINDOW
    narrow = min(windows) < _WINDOW if isinstance(windows, list | tuple) else windows < _WINDOW
    known = getattr(config, "model_type", None) in EXACT_FAMILIES and not (narrow or _is_decoder(config))
    return known and not type(model).__module__.startswith("transformers_modules")


def _is_decoder(config: Any) -> bool:
    return bool(getattr(config, "is_decoder", False))


@torch.inference_mode()
def _probe(model: Any, pad_token_id: Any) -> Behaviour:
    name = f"{type(model).__name__} ({getattr(model.config, 'model_type', 'unknown family')})"
    long, short = _texts(model)
    seeded, before = _seeded(model), _settings(model)
    with evaluation_mode(model), torch.random.fork_rng():
        torch.manual_seed(1)
        state = torch.get_rng_state()
        try:
            alone = _run(model, short, torch.ones_like(short))
            chance = not torch.equal(torch.get_rng_state(), state)
            torch.manual_seed(2)
            again = _run(model, short, torch.ones_like(short)) if chance else alone
            together = _run(model, *_together(model, long, short, "right", pad_token_id), hidden=True)
            wanted = _answers(alone, 0, short.shape[1])
            rounding = _ROUNDING.get(getattr(model, "dtype", torch.float32), 1e-4)
            error = _difference(wanted, _answers(together, 1, short.shape[1]), rounding)
            side: Side = "right"
            if error and alone.logits.dim() == 2:
                left = _run(model, *_together(model, long, short, "left", pad_token_id))
                if _difference(wanted, _answers(left, 1, short.shape[1]), rounding) == 0:
                    error, side = 0.0, "left"
        except ModelError:
            raise
        except Exception as failure:  # whatever a family's code stumbles over
            raise ModelError(
                f"{name} cannot be run on texts of different lengths: {_said(failure)}"
            ) from failure
    if chance and (by := _difference(wanted, _answers(again, 0, short.shape[1]), rounding)):
        raise ModelError(
            f"{name} draws random numbers for its answers, so that no two of them agree: probabilities differ by up to "
            f"{by:.2g}. Use another model."
        )
    if alone.logits.dim() == 2 and torch.equal(_answers(together, 0, 1), _answers(together, 1, 1)):
        if _is_decoder(model.config):
            raise ModelError(
                f"{name} gives the same answer whatever the text: its config.json makes a decoder of it, whose first "
                "token sees no other. Set is_decoder to false there."
            )
        raise ModelError(
            f"{name} gives the same answer whatever the text: its attention needs a kernel that this machine has not "
            "got, or its weights are damaged. Use another model."
        )
    settled = [*seeded, *_settled(model, before)]
    return Behaviour(error, side, _no_layers(model, together, long.shape[1]), ", ".join(settled) or None)


def _texts(model: Any) -> tuple[Tensor, Tensor]:
    """Returns a long and a short text [1, L]: tokens from all over the vocabulary, between a first and a last one."""
    config = model.config
    special = [value for name, value in vars(config).items() if name.endswith("token_id")]
    size = getattr(config, "vocab_size", None)
    size = size if isinstance(size, int) else 1000
    spread = [size * place // 31 for place in range(1, 31)]
    usual = [number for number in spread if number not in special] or [0]
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


def _together(
    model: Any, long: Tensor, short: Tensor, side: Side, pad_token_id: Any
) -> tuple[Tensor, Tensor]:
    """Returns the tokens and the mask [2, L] of both texts, the short one padded."""
    pad = pad_token_id if pad_token_id is not None else getattr(model.config, "pad_token_id", None)
    fill = torch.full((1, long.shape[1] - short.shape[1]), pad if isinstance(pad, int) else 0)
    rows = [(short, fill), (torch.ones_like(short), torch.zeros_like(fill))]
    padded, mask = (torch.cat(row if side == "right" else row[::-1], dim=1) for row in rows)
    return torch.cat([long, padded]), torch.cat([torch.ones_like(long), mask])


def _run(model: Any, ids: Tensor, mask: Tensor, hidden: bool = False) -> Any:
    place = getattr(model, "device", "cpu")
    return model(
        input_ids=ids.to(place), attention_mask=mask.to(place), output_hidden_states=hidden, return_dict=True
    )


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
    if one.shape[-1] > 1:
        found = (one.softmax(-1) - other.softmax(-1)).abs().max().item()
        return max(found, 1e-12)  # two answers so sure that their probabilities are the same number
    return by


def _no_layers(model: Any, outputs: Any, length: int) -> str | None:
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        return "has an encoder and a decoder"
    hidden = getattr(outputs, "hidden_states", None)
    depth, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    if hidden is None:
        return "does not give the outputs of its layers"
    if len(hidden) - 1 != depth:
        return f"gives the outputs of {len(hidden) - 1} layers where its config says {depth}"
    for state in hidden:
        if state.shape[:2] != (2, length):
            return "changes the length of a text between its layers"
        if state.shape[2] != width:
            return f"has layers of a width other than {width}"
    return None


def _settings(model: nn.Module) -> dict[tuple[str, str], Any]:
    """Returns the plain settings of all modules, which a pass should leave as they are."""
    return {
        (path, name): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str) and not name.startswith("_")
    }


def _seeded(model: Any) -> list[str]:
    """Gives a seed to what would draw from torch's generator; says what.

    Reformer's hashing, in texts of more than one chunk, which are too long for a probe.
    """
    if getattr(model.config, "hash_seed", 0) is not None:
        return []
    model.config.hash_seed = 0
    for module in model.modules():
        if getattr(module, "hash_seed", 0) is None:
            module.hash_seed = 0
    return ["hash_seed is 0"]


def _settled(model: Any, before: dict[tuple[str, str], Any]) -> list[str]:
    """Writes what a pass changed in the model into its config, so that copies of it are made like that; says what.

    BigBird changes to full attention with its first short text, for good: before that, long texts get other answers.
    """
    found: list[str] = []
    for (path, name), value in _settings(model).items():
        old = before.get((path, name), value)
        if value != old and getattr(model.config, name, None) == old:
            setattr(model.config, name, value)
            found.append(f"{name} is {value}")
    return found


def _said(failure: Exception) -> str:
    lines = str(failure).strip().splitlines() or ["no reason given"]
    return f"{lines[0][:300].rstrip('.')} ({type(failure).__name__})."
