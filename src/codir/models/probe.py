"""What a model does with padding, with chance and with its layers, found out on two short made-up texts.

A batch is an arrangement of ours: what a model answers to a text may not depend on the texts beside it. Most families
keep to that, and some do not: their convolutions, Fourier transforms or last positions see the padding. `behaviour`
notices; what only runs a model (`forward_dataset`) then gives it texts of one length at a time.

A pass of a model costs as much as loading it (weights are mapped, not read), so families whose code has been shown to
be exact are not run: `tests/faults/test_families.py` shows it for each of them, at random sizes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codir.errors import ModelError

EXACT_FAMILIES = frozenset(
    {"albert", "bert", "camembert", "codir-bilstm", "data2vec-text", "deberta", "deberta-v2", "distilbert"}
    | {"electra", "ernie", "modernbert", "mpnet", "rembert", "roberta", "roberta-prelayernorm"}
    | {"xlm-roberta", "xlm-roberta-xl"}
)
_LONG, _SHORT = 12, 7
_KEPT = "_codir_behaviour"
# More than rounding, as a share of the largest logit; of other precisions a few of their steps.
_ROUNDING = 1e-4
_STEPS = 16


@dataclass(frozen=True)
class Behaviour:
    """What the probe found.

    Attributes:
        padding_error: the largest difference of a probability (of a score, of a regression) between a text alone and
            the same text in a padded batch; 0 where there is none but rounding.
        no_layers: why the outputs of single layers cannot be compared with another model's, as the end of a sentence
            about the model; None where they can.
        settled: what the first pass changed in the model itself, such as `attention_type is original_full`; nothing
            changes it any more.
    """

    padding_error: float = 0.0
    no_layers: str | None = None
    settled: str | None = None

    @property
    def padded(self) -> bool:
        """Whether texts of different lengths may be one batch."""
        return self.padding_error == 0.0


def behaviour(model: Any, pad_token_id: int | None = None) -> Behaviour:
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
        config = getattr(model, "config", None)
        known = config is None or getattr(config, "model_type", None) in EXACT_FAMILIES
        kept = Behaviour() if known and not _foreign(model) else _probe(model, pad_token_id)
        model.__dict__[_KEPT] = kept
    return kept


def require_layers(model: Any, side: str) -> None:
    """Raises `ModelError` for a model whose layers' outputs no loss can read; `side` is the teacher or the student."""
    why = behaviour(model).no_layers
    if why is not None:
        raise ModelError(
            f"{side} is a {type(model).__name__}, which {why}, so losses over its layers cannot be computed. Its "
            "logits can be learned from: --recipe kd."
        )


def _foreign(model: Any) -> bool:
    """Whether a model's code came with its weights: its family's name says nothing of it then."""
    return type(model).__module__.startswith("transformers_modules")


@torch.inference_mode()
def _probe(model: Any, pad_token_id: int | None) -> Behaviour:
    name = f"{type(model).__name__} ({getattr(model.config, 'model_type', 'unknown family')})"
    long, short = _texts(model)
    pad = pad_token_id if pad_token_id is not None else getattr(model.config, "pad_token_id", None)
    padded = torch.cat([short, torch.full((1, _LONG - _SHORT), pad if isinstance(pad, int) else 0)], dim=1)
    mask = torch.ones(2, _LONG, dtype=torch.long)
    mask[1, _SHORT:] = 0
    before = _settings(model)
    with _evaluation(model), torch.random.fork_rng():
        torch.manual_seed(1)
        state = torch.get_rng_state()
        try:
            alone = model(**_inputs(model, short, torch.ones_like(short)))
            chance = not torch.equal(torch.get_rng_state(), state)
            torch.manual_seed(2)
            again = model(**_inputs(model, short, torch.ones_like(short))) if chance else alone
            together = model(
                **_inputs(model, torch.cat([long, padded]), mask), output_hidden_states=True, return_dict=True
            )
        except ModelError:
            raise
        except Exception as error:  # whatever a family's code stumbles over
            raise ModelError(
                f"{name} cannot be run on texts of different lengths: {type(error).__name__}: {_first_line(error)}"
            ) from error
    if chance and _difference(_answers(alone, 0), _answers(again, 0)) > 0:
        raise ModelError(
            f"{name} draws random numbers for its answers, so that no two of them agree (probabilities differ by up to "
            f"{_difference(_answers(alone, 0), _answers(again, 0)):.2g}). If its config.json has a seed for that "
            "(Reformer: hash_seed), set it to a number; else use another model."
        )
    return Behaviour(
        _difference(_answers(alone, 0), _answers(together, 1)),
        _no_layers(model, together),
        _settled(model, before),
    )


def _texts(model: Any) -> tuple[Tensor, Tensor]:
    """Returns a long and a short text [1, L]: tokens from all over the vocabulary, between a first and a last one."""
    config = model.config
    special = {value for name, value in vars(config).items() if name.endswith("token_id")}
    size = getattr(config, "vocab_size", None)
    size = size if isinstance(size, int) else 1000
    usual = [number for number in range(size) if number not in special][-(size // 2 or 1) :]
    first, last = (
        next((value for name in names if isinstance(value := getattr(config, name, None), int)), None)
        for names in (("cls_token_id", "bos_token_id"), ("eos_token_id", "sep_token_id"))
    )

    def text(length: int, start: int) -> Tensor:
        ids = [usual[(start + 7 * place) % len(usual)] for place in range(length)]
        ids[0] = ids[0] if first is None else first
        ids[-1] = ids[-1] if last is None else last
        return torch.tensor([ids])

    return text(_LONG, 0), text(_SHORT, 3)


def _inputs(model: Any, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    place = getattr(model, "device", "cpu")
    return {"input_ids": ids.to(place), "attention_mask": mask.to(place)}


@contextlib.contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _answers(outputs: Any, row: int) -> Tensor:
    """Returns the logits [C] of a classifier, or those [tokens, V] at the short text's tokens, in fp32 or wider."""
    logits = outputs.logits[row]
    return (logits if logits.dim() == 1 else logits[:_SHORT]).cpu()


def _difference(one: Tensor, other: Tensor) -> float:
    """Returns the largest difference of a probability (of one output: of the score); 0 if it is but rounding."""
    step = _STEPS * torch.finfo(one.dtype).eps if one.dtype != torch.float32 else 0.0
    limit = max(_ROUNDING, step) * max(1.0, one.abs().max().item())
    one, other = one.double(), other.double()
    if (one - other).abs().max().item() <= limit:
        return 0.0
    if one.shape[-1] > 1:
        found = (one.softmax(-1) - other.softmax(-1)).abs().max().item()
        return max(found, 1e-12)  # two answers so sure that their probabilities are the same number
    return (one - other).abs().max().item()


def _no_layers(model: Any, outputs: Any) -> str | None:
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
        if state.shape[:2] != (2, _LONG):
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


def _settled(model: Any, before: dict[tuple[str, str], Any]) -> str | None:
    """Writes what a pass changed in the model into its config, so that copies of it are made like that; says what.

    BigBird changes to full attention with its first short text, for good: before that, long texts get other answers.
    """
    after = _settings(model)
    changed = {
        name: (before[path, name], value)
        for (path, name), value in after.items()
        if before.get((path, name), value) != value
    }
    found = []
    for name, (old, new) in changed.items():
        if getattr(model.config, name, None) == old:
            setattr(model.config, name, new)
            found.append(f"{name} is {new}")
    return ", ".join(found) or None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300].rstrip(".") + "." if lines else "no reason given."
