"""Students cut out of a teacher: their layers are the teacher's; and which parts of a student are never trained."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from codir.errors import ConfigError, ModelError
from codir.models.loading import encoder_shape
from codir.models.student import build_student, describe_frozen, freeze, layers_prefix, parameters_of

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}
NAMES = {0: "bad", 1: "middling", 2: "good"}
MODERN = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "bert": lambda: hf.BertConfig(**SIZES),
    "roberta": lambda: hf.RobertaConfig(**SIZES),
    "xlm-roberta": lambda: hf.XLMRobertaConfig(**SIZES),
    "camembert": lambda: hf.CamembertConfig(**SIZES),
    "distilbert": lambda: hf.DistilBertConfig(dim=32, n_layers=4, n_heads=2, hidden_dim=64, vocab_size=100),
    "electra": lambda: hf.ElectraConfig(**SIZES, embedding_size=16),
    "mpnet": lambda: hf.MPNetConfig(**SIZES),
    "deberta-v2": lambda: hf.DebertaV2Config(
        **SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"], conv_kernel_size=3
    ),
    "modernbert": lambda: hf.ModernBertConfig(**SIZES, **MODERN, local_attention=4),
    "albert": lambda: hf.AlbertConfig(**SIZES, embedding_size=16),
    "funnel": lambda: hf.FunnelConfig(vocab_size=100, d_model=32, n_head=2, d_head=16, d_inner=64, block_sizes=[2, 2]),
    "xlnet": lambda: hf.XLNetConfig(vocab_size=30, d_model=16, n_layer=2, n_head=2, d_inner=16),
}
CUT = list(CONFIGS)[:9]


def make(family: str, seed: int = 3) -> PreTrainedModel:
    """Returns a classifier whose layers all differ, norms and biases, too."""
    config = CONFIGS[family]()
    config.id2label, config.label2id = NAMES, {name: number for number, name in NAMES.items()}
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.randint(3, 90, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits


def layer_list(model: PreTrainedModel) -> nn.ModuleList:
    """Finds the layers without the code under test."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    kinds = ("Layer", "TransformerBlock")
    return next(each for each in lists if any(kind in type(each[0]).__name__ for kind in kinds))


@pytest.mark.parametrize("family", CUT)
@pytest.mark.parametrize(("init", "expected"), [("spread", [2, 4]), ([1, 4], [1, 4])])
def test_every_layer_equals_the_teachers(family: str, init, expected: list[int], tmp_path: Path) -> None:
    teacher = make(family)
    before = copy.deepcopy(teacher.state_dict())
    student = build_student(teacher.requires_grad_(False), 2, init)
    mine, theirs = layer_list(student), layer_list(teacher)
    assert len(mine) == encoder_shape(student).layers == 2
    for number, layer in enumerate(expected):
        state, copied = theirs[layer - 1].state_dict(), mine[number].state_dict()
        # ModernBERT's first layer has no attention norm of its own
        odd = {"attn_norm.weight"} if family == "modernbert" and (number == 0) != (layer == 1) else set()
        assert state.keys() ^ copied.keys() <= odd
        assert all(torch.equal(copied[name], state[name]) for name in state.keys() & copied.keys())
    prefix = layers_prefix(teacher)
    rest, copied = (
        {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(prefix)}
        for model in (teacher, student)
    )
    assert rest.keys() == copied.keys() != set()
    assert all(torch.equal(copied[name], rest[name]) for name in rest)
    assert student.config.id2label == NAMES
    student.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(student))
    # the teacher is as it was, and shares no memory
    with torch.no_grad():
        for parameter in student.parameters():
            assert parameter.requires_grad
            parameter.zero_()
    assert all(torch.equal(teacher.state_dict()[name], before[name]) for name in before)


@pytest.mark.parametrize("family", CUT)
def test_a_student_of_all_layers_is_the_teacher(family: str) -> None:
    teacher = make(family)
    assert torch.equal(logits(build_student(teacher, 4)), logits(teacher))


def test_the_student_computes_what_the_teacher_computes_with_layers_cut_out() -> None:
    teacher = make("bert")
    cut = copy.deepcopy(teacher)
    cut.bert.encoder.layer = nn.ModuleList([cut.bert.encoder.layer[1], cut.bert.encoder.layer[3]])
    torch.testing.assert_close(logits(build_student(teacher, 2)), logits(cut))


def test_random_initialisation_is_seeded_and_leaves_the_global_generator() -> None:
    teacher = make("roberta")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (build_student(teacher, 2, "random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logits(one), logits(same))
    assert not torch.equal(logits(one), logits(other))
    assert not torch.equal(one.get_input_embeddings().weight, teacher.get_input_embeddings().weight)
    assert encoder_shape(one).layers == 2


def test_layers_that_are_not_one_list() -> None:
    albert = make("albert")
    for model, message in ((albert, "ALBERT"), (make("funnel"), "one list")):
        with pytest.raises(ModelError, match=message):
            build_student(model, 2)
    assert encoder_shape(build_student(albert, 2, "random")).layers == 2


# --- parts that are never trained


def frozen(model: PreTrainedModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert"])
def test_what_is_frozen_gets_no_gradient_and_nothing_else_is(family: str) -> None:
    model = make(family)
    freeze(model, ["embeddings", 2])
    names = {name for name, _ in model.named_parameters()}
    layer = ".layer.1." if ".layer.1." in " ".join(names) else ".layers.1."
    expected = {name for name in names if ".embeddings" in name or layer in name}
    assert frozen(model) == frozen(copy.deepcopy(model)) == expected
    assert 0 < len(parameters_of(model, [0])) < len(expected) < len(names) / 2
    model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} >= expected
    count = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    assert f"the embeddings, layer 2: {count:,} of " in describe_frozen(model, ["embeddings", 2])


@pytest.mark.parametrize("number", [5, -1])
def test_a_layer_that_is_not_there(number: int) -> None:
    model = make("bert")
    with pytest.raises(ConfigError, match=r"student\.freeze names layer .* 1 to 4"):
        freeze(model, [1, number])
    assert not frozen(model)


def test_shared_layers_cannot_be_frozen_but_their_embeddings_can() -> None:
    model = make("albert")
    with pytest.raises(ModelError, match="ALBERT"):
        freeze(model, [1])
    freeze(model, ["embeddings"])
    assert frozen(model)
    assert all("embeddings" in name for name in frozen(model))
    with pytest.raises(ModelError, match="not understood"):
        freeze(make("xlnet"), ["embeddings"])
