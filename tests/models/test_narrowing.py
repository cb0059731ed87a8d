"""What a narrower model keeps, against slices written out by hand and models that were widened by what nobody reads."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers as hf
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from codir.errors import ConfigError
from codir.models.narrowing import Kept, narrow_config, narrow_student
from codir.models.student import build_student

COMMON: dict[str, Any] = {"vocab_size": 40, "max_position_embeddings": 24}
SIZES: dict[str, Any] = COMMON | {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
DISTIL: dict[str, Any] = COMMON | {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}
CONFIGS: dict[str, Any] = {
    "bert": lambda: hf.BertConfig(**SIZES),
    "roberta": lambda: hf.RobertaConfig(**SIZES),
    "xlm-roberta": lambda: hf.XLMRobertaConfig(**SIZES),
    "camembert": lambda: hf.CamembertConfig(**SIZES),
    "distilbert": lambda: hf.DistilBertConfig(**DISTIL),
    "electra": lambda: hf.ElectraConfig(**SIZES, embedding_size=32),
    "electra-own-width": lambda: hf.ElectraConfig(**SIZES, embedding_size=12),
    "mpnet": lambda: hf.MPNetConfig(**SIZES),
}
FEED = {"distilbert": "hidden_dim"}


def noisy(model: PreTrainedModel, seed: int = 1) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1.0)
    return model.double().eval()


def classifier(family: str, config: PretrainedConfig | None = None) -> PreTrainedModel:
    config = config or CONFIGS[family]()
    config.num_labels = 3
    return noisy(AutoModelForSequenceClassification.from_config(config))


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.randint(3, 38, (3, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits


@pytest.mark.parametrize("family", CONFIGS)
def test_cut_to_its_own_size_a_model_is_what_it_was(family: str) -> None:
    model = classifier(family).float()
    before = copy.deepcopy(model.state_dict())
    same, kept = narrow_student(model)
    assert torch.equal(logits(same), logits(model))
    assert all(torch.equal(same.state_dict()[name], before[name]) for name in before)
    assert kept.dimensions == tuple(range(32))
    assert kept.heads == ((0, 1, 2, 3),) * 3
    # and nothing is shared
    with torch.no_grad():
        for parameter in same.parameters():
            parameter.zero_()
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def axes_of(name: str, family: str) -> str:
    """Names what each axis of a weight stands for, in this test's own words: Hidden, Attention, Neurons, Pooled, -."""
    last = name.rsplit(".", 1)[0].rsplit(".", 1)[-1]
    parent = name.rsplit(".", 2)[0] if name.count(".") > 1 else ""
    if "relative_attention_bias" in name:
        return "-h"
    if "embeddings_project" in name:
        return "H-"
    if ".embeddings." in f".{name}":
        own = "-" if family == "electra-own-width" else "H"
        return own if "norm" in last.lower() else f"-{own}"
    if "norm" in last.lower():
        return "H"
    if last in ("query", "key", "value", "q", "k", "v", "q_lin", "k_lin", "v_lin"):
        return "AH"
    if last in ("o", "out_lin") or name.endswith(("attention.output.dense.weight", "attention.output.dense.bias")):
        return "HA"
    if "intermediate" in name or last == "lin1":
        return "NH"
    if last == "lin2" or (parent.endswith("output") and ".layer." in name):
        return "HN"
    if last in ("pre_classifier",) or "pooler" in name or "classifier.dense" in name:
        return "PH"
    assert "classifier" in name, name
    return "-P"


def widened(family: str) -> tuple[PreTrainedModel, PreTrainedModel, torch.Tensor]:
    """Returns a model of width 32, a model of width 64 that computes the same, and the places of the 32 among the 64.

    Each dimension of the hidden states is there twice, so that the layer norms see the same means; only the first is
    read. Of the heads and neurons, the second half writes nothing. All are shuffled.
    """
    small = classifier(family)
    config = copy.deepcopy(small.config)
    config.hidden_size, config.num_attention_heads = 64, 8
    setattr(config, FEED.get(family, "intermediate_size"), 96)
    if getattr(config, "embedding_size", None) == 32:
        config.embedding_size = 64
    big = classifier(family, config)
    generator = torch.Generator().manual_seed(4)
    shuffles = {letter: torch.randperm(n, generator=generator) for letter, n in (("H", 64), ("N", 96), ("P", 64))}
    heads = torch.randperm(8, generator=generator)
    shuffles["h"], shuffles["A"] = heads, (heads[:, None] * 8 + torch.arange(8)).flatten()
    made = {}
    for name, value in small.state_dict().items():
        axes = axes_of(name, family)[: value.dim()]
        embedding = ".embeddings." in f".{name}" or "embeddings_project" in name or "norm" in name.lower()
        values = any(part in name for part in ("val", ".v.", "v_lin"))
        for axis, letter in enumerate(axes):
            if letter == "-":
                continue
            # the hidden states are written (axis 0, and embeddings) twice and read once; the second heads have no
            # values, and the second neurons no readers
            kept = axis == 0 or (letter == "H" and embedding)
            if letter == "A" and values:
                kept = False
            second = value if kept else torch.zeros_like(value)
            value = torch.cat([value, second], dim=axis).index_select(axis, shuffles[letter].argsort())
        made[name] = value
    big.load_state_dict(made)
    return small, big, shuffles["H"][:32]


@pytest.mark.parametrize("family", CONFIGS)
def test_what_nobody_reads_is_cut_away_and_the_rest_computes_the_same(family: str) -> None:
    small, big, places = widened(family)
    torch.testing.assert_close(logits(big), logits(small))  # the test's own widening
    narrow, kept = narrow_student(big, 32, 48)
    assert kept.dimensions == tuple(sorted(places.tolist()))
    assert narrow.config.hidden_size == 32
    assert narrow.config.num_attention_heads == 4
    torch.testing.assert_close(logits(narrow).double(), logits(small), rtol=1e-3, atol=1e-4)


def best(scores: list[float], count: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:count])


def test_the_choice_is_what_the_equations_say() -> None:
    """By loops over BERT's parameters by their names; no code is shared."""
    model = classifier("bert")
    state = {name: value.tolist() for name, value in model.state_dict().items()}
    narrow, kept = narrow_student(model, 16, 20)
    squares = [0.0] * 32
    for name, value in model.state_dict().items():
        if not name.startswith(("bert.embeddings", "bert.encoder")):
            continue
        for axis, size in enumerate(value.shape):
            inner = ("query" in name or "key" in name or "value" in name) and axis == 0
            inner = inner or ("attention.output.dense.weight" in name and axis == 1)
            if size == 32 and not inner:
                for place in range(32):
                    squares[place] += value.select(axis, place).square().sum().item()
    dims = best(squares, 16)
    assert kept.dimensions == tuple(dims)
    for layer in range(3):
        prefix = f"bert.encoder.layer.{layer}."
        value, output = (
            state[f"{prefix}attention.self.value.weight"],
            state[f"{prefix}attention.output.dense.weight"],
        )
        scores = []
        for head in range(4):
            total = 0.0
            for to in dims:
                for of in dims:
                    total += sum(output[to][p] * value[p][of] for p in range(8 * head, 8 * head + 8)) ** 2
            scores.append(total**0.5)
        assert kept.heads[layer] == tuple(best(scores, 2))
        inner, outer = state[f"{prefix}intermediate.dense.weight"], state[f"{prefix}output.dense.weight"]
        scores = [
            sum(inner[n][d] ** 2 for d in dims) ** 0.5 * sum(outer[d][n] ** 2 for d in dims) ** 0.5 for n in range(48)
        ]
        assert kept.neurons[layer] == tuple(best(scores, 20))
    pooler, last = state["bert.pooler.dense.weight"], state["classifier.weight"]
    scores = [sum(pooler[n][d] ** 2 for d in dims) ** 0.5 * sum(row[n] ** 2 for row in last) ** 0.5 for n in range(32)]
    assert kept.head_neurons == tuple(best(scores, 16))
    assert kept.describe().startswith("16 of 32 dimensions, 2 of 4 heads and 20 of 48 feed-forward neurons")
    # and the weights are the slices
    rows = [head * 8 + place for head in kept.heads[1] for place in range(8)]
    layer, theirs, mine = "bert.encoder.layer.1.", model.float().state_dict(), narrow.state_dict()
    for name, chosen in {
        "bert.embeddings.word_embeddings.weight": (slice(None), dims),
        f"{layer}attention.self.key.weight": (rows, dims),
        f"{layer}attention.output.dense.weight": (dims, rows),
        f"{layer}output.dense.weight": (dims, list(kept.neurons[1])),
        "classifier.weight": (slice(None), list(kept.head_neurons)),
    }.items():
        assert torch.equal(mine[name], theirs[name][chosen[0]][:, chosen[1]]), name


def test_of_equal_scores_the_first_are_kept() -> None:
    model = classifier("bert")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    _, kept = narrow_student(model, 8, 5)
    assert kept == Kept(tuple(range(8)), ((0,),) * 3, ((0, 1, 2, 3, 4),) * 3, tuple(range(8)), 32, 4, 48)


@pytest.mark.parametrize("family", CONFIGS)
def test_shallower_and_narrower_and_loaded_again(family: str, tmp_path) -> None:
    model = classifier(family).float()
    narrow, kept = narrow_student(build_student(model, 2), 16)
    assert len(kept.heads) == 2
    assert len(kept.neurons[0]) == 24  # in proportion
    narrow.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(narrow))
    assert torch.isfinite(logits(narrow)).all()
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in narrow.parameters())


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "mpnet"])
def test_a_masked_language_model_keeps_its_tied_embeddings(family: str) -> None:
    model = noisy(AutoModelForMaskedLM.from_config(CONFIGS[family]())).float()
    same, _ = narrow_student(model)
    assert torch.equal(logits(same), logits(model))
    narrow, kept = narrow_student(model, 16)
    words = narrow.get_input_embeddings().weight
    assert narrow.get_output_embeddings().weight is words
    assert torch.equal(words, model.get_input_embeddings().weight[:, list(kept.dimensions)])
    assert kept.head_neurons == ()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((64, None), "at most 32"),
        ((20, None), "multiple of that, for example 16 or 24"),
        ((4, None), "for example 8"),
        ((16, 100), "at most 48"),
    ],
)
def test_sizes_that_cannot_be(sizes: tuple[int, int | None], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        narrow_config(CONFIGS["bert"](), *sizes)


def test_only_the_number_of_neurons() -> None:
    config = narrow_config(CONFIGS["bert"](), None, 10)
    assert (config.hidden_size, config.intermediate_size, config.num_attention_heads) == (32, 10, 4)
    narrow, kept = narrow_student(classifier("bert"), None, 10)
    assert kept.dimensions == tuple(range(32))
    assert narrow.bert.encoder.layer[0].intermediate.dense.weight.shape == (10, 32)  # type: ignore[union-attr]


def test_another_family() -> None:
    config = hf.ModernBertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    with pytest.raises(ConfigError, match=r"modernbert model, only out of bert.*student\.config"):
        narrow_config(config, 16)


def test_parameters_that_are_not_the_familys() -> None:
    model = classifier("bert")
    model.add_module("extra", torch.nn.Linear(32, 2))
    with pytest.raises(ConfigError, match=r"extra\.weight.*student\.config"):
        narrow_student(model, 16)


def test_an_electra_whose_embeddings_are_as_wide_as_the_student() -> None:
    config = hf.ElectraConfig(**SIZES, embedding_size=16)
    with pytest.raises(ConfigError, match="choose another width"):
        narrow_config(config, 16)
    assert narrow_config(config, 24).embedding_size == 16
