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
from codir.models.student import (
    build_student,
    chosen_layers,
    layers_prefix,
    spread_layers,
    student_from_model,
)
from codir.models.student_config import student_from_config

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
}


def make(family: str, seed: int = 3, **changes: object) -> PreTrainedModel:
    config = CONFIGS[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    config.id2label = NAMES
    config.label2id = {name: number for number, name in NAMES.items()}
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with (
        torch.no_grad()
    ):  # norms and biases start as ones and zeros, alike in every layer: make all layers differ
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
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and "Layer" in type(m[0]).__name__]
    lists += [
        m
        for m in model.modules()
        if isinstance(m, nn.ModuleList) and type(m[0]).__name__ == "TransformerBlock"
    ]
    return lists[0]


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize(
    ("init", "expected"), [("spread", [2, 4]), ("first", [1, 2]), ("last", [3, 4]), ([1, 4], [1, 4])]
)
def test_every_layer_equals_the_teachers(family: str, init, expected: list[int], tmp_path: Path):
    teacher = make(family)
    before = copy.deepcopy(teacher.state_dict())
    student = build_student(teacher, 2, init)
    assert encoder_shape(student).layers == 2
    mine, theirs = layer_list(student), layer_list(teacher)
    assert len(mine) == 2
    for number, layer in enumerate(expected):
        state = theirs[layer - 1].state_dict()
        copied = mine[number].state_dict()
        # ModernBERT's first layer has no attention norm of its own
        odd = {"attn_norm.weight"} if family == "modernbert" and (number == 0) != (layer == 1) else set()
        assert state.keys() ^ copied.keys() <= odd
        for name in state.keys() & copied.keys():
            assert torch.equal(copied[name], state[name]), (layer, name)
    prefix = layers_prefix(teacher)
    rest = {name: tensor for name, tensor in teacher.state_dict().items() if not name.startswith(prefix)}
    copied = {name: tensor for name, tensor in student.state_dict().items() if not name.startswith(prefix)}
    assert rest.keys() == copied.keys()
    assert rest
    assert all(torch.equal(copied[name], rest[name]) for name in rest)
    assert student.config.id2label == NAMES

    student.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(student))
    # the teacher is as it was, and shares no memory
    assert encoder_shape(teacher).layers == 4
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert all(torch.equal(teacher.state_dict()[name], before[name]) for name in before)
    assert all(parameter.requires_grad for parameter in student.parameters())


@pytest.mark.parametrize("family", CONFIGS)
def test_a_student_of_all_layers_is_the_teacher(family: str):
    teacher = make(family)
    assert torch.equal(logits(build_student(teacher, 4)), logits(teacher))


def test_the_student_computes_what_the_teacher_computes_with_layers_cut_out():
    teacher = make("bert")
    cut = copy.deepcopy(teacher)
    cut.bert.encoder.layer = nn.ModuleList([cut.bert.encoder.layer[1], cut.bert.encoder.layer[3]])
    torch.testing.assert_close(logits(build_student(teacher, 2)), logits(cut))


def test_modernberts_kinds_of_attention_follow_their_layers():
    teacher = make("modernbert")
    assert teacher.config.layer_types == [
        "full_attention",
        "sliding_attention",
        "sliding_attention",
        "full_attention",
    ]
    student = build_student(teacher, init=[2, 4])
    assert student.config.layer_types == ["sliding_attention", "full_attention"]
    assert build_student(teacher, init=[2, 3]).config.layer_types == ["sliding_attention"] * 2


def test_lists_that_have_the_depths_length_by_chance_stay_whole():
    teacher = make("deberta-v2", num_hidden_layers=2)
    assert build_student(teacher, 1).config.pos_att_type == ["p2c", "c2p"]


def test_random_initialisation_is_seeded_and_leaves_the_global_generator():
    teacher = make("roberta")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (build_student(teacher, 2, "random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logits(one), logits(same))
    assert not torch.equal(logits(one), logits(other))
    words = teacher.get_input_embeddings().weight
    assert not torch.equal(one.get_input_embeddings().weight, words)
    assert encoder_shape(one).layers == 2


def test_a_frozen_teacher_gives_a_trainable_student():
    teacher = make("bert").requires_grad_(False)
    assert all(parameter.requires_grad for parameter in build_student(teacher, 2).parameters())


@pytest.mark.parametrize(
    ("teacher", "layers", "expected"),
    [
        (12, 6, [2, 4, 6, 8, 10, 12]),
        (12, 4, [3, 6, 9, 12]),
        (12, 5, [2, 4, 7, 9, 12]),
        (12, 1, [12]),
        (6, 3, [2, 4, 6]),
        (3, 3, [1, 2, 3]),
        (3, 2, [1, 3]),
    ],
)
def test_spread(teacher: int, layers: int, expected: list[int]):
    assert spread_layers(teacher, layers) == expected


def test_depth_by_default():
    assert chosen_layers(12, None, "spread") == [2, 4, 6, 8, 10, 12]
    assert chosen_layers(1, None, "spread") == [1]
    assert chosen_layers(12, None, [1, 12]) == [1, 12]


def test_bad_choices():
    with pytest.raises(ModelError, match="deeper than its teacher, which has 4"):
        build_student(make("bert"), 5)
    with pytest.raises(ModelError, match="layer 5"):
        chosen_layers(4, None, [1, 5])
    with pytest.raises(ConfigError, match="did you mean 'spread'"):
        chosen_layers(4, 2, "spred")  # type: ignore[arg-type]
    for layers in ([2, 1], [1, 1], [0, 1], []):
        with pytest.raises(ConfigError, match="increasing"):
            chosen_layers(4, None, layers)
    with pytest.raises(ConfigError, match="names 2"):
        chosen_layers(4, 3, [1, 2])
    with pytest.raises(ConfigError, match="at least one layer"):
        chosen_layers(4, 0, "first")


def test_albert_shares_its_layers():
    teacher = AutoModelForSequenceClassification.from_config(hf.AlbertConfig(**SIZES, embedding_size=16))
    with pytest.raises(ModelError, match="ALBERT"):
        build_student(teacher, 2)
    assert encoder_shape(build_student(teacher, 2, "random")).layers == 2
    alone = AutoModelForSequenceClassification.from_config(
        hf.AlbertConfig(**{**SIZES, "num_hidden_layers": 1}, embedding_size=16)
    )
    with pytest.raises(ModelError, match="ALBERT"):
        build_student(alone, 1)


def test_other_shapes_of_model_are_refused():
    funnel = AutoModelForSequenceClassification.from_config(
        hf.FunnelConfig(vocab_size=100, d_model=32, n_head=2, d_head=16, d_inner=64, block_sizes=[2, 2])
    )
    with pytest.raises(ModelError, match="one list"):
        build_student(funnel, 2)
    bart = AutoModelForSequenceClassification.from_config(
        hf.BartConfig(
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            vocab_size=100,
        )
    )
    with pytest.raises(ModelError, match="decoder"):
        build_student(bart, 1)


def test_from_a_model_folder_with_the_teachers_classes(tmp_path: Path):
    teacher = make("roberta")
    other = make("distilbert", seed=8)
    other.config.id2label = {0: "Good", 1: "bad", 2: "MIDDLING"}
    other.save_pretrained(tmp_path)
    student = student_from_model(tmp_path, teacher)
    assert torch.equal(logits(student), logits(other))
    assert student.config.id2label == other.config.id2label


def test_from_a_model_folder_with_other_classes(tmp_path: Path):
    teacher = make("bert")
    other = make("distilbert", seed=8)
    other.config.id2label = {0: "a", 1: "b", 2: "c"}
    other.save_pretrained(tmp_path)
    student = student_from_model(tmp_path, teacher, seed=1)
    assert student.config.id2label == NAMES
    assert torch.equal(
        student.distilbert.embeddings.word_embeddings.weight, other.get_input_embeddings().weight
    )
    assert not torch.equal(student.classifier.weight, other.classifier.weight)
    assert torch.equal(
        student.classifier.weight, student_from_model(tmp_path, teacher, seed=1).classifier.weight
    )
    assert not torch.equal(
        student.classifier.weight, student_from_model(tmp_path, teacher, seed=2).classifier.weight
    )


def test_from_a_model_folder_without_classifier(tmp_path: Path):
    teacher = make("bert")
    encoder = make("electra", seed=8).base_model
    encoder.save_pretrained(tmp_path)
    student = student_from_model(tmp_path, teacher)
    assert student.config.id2label == NAMES
    assert torch.equal(student.get_input_embeddings().weight, encoder.get_input_embeddings().weight)


def test_from_a_model_for_a_regression_teacher(tmp_path: Path):
    config = hf.BertConfig(**SIZES, num_labels=1, problem_type="regression")
    teacher = AutoModelForSequenceClassification.from_config(config)
    make("distilbert").save_pretrained(tmp_path)
    student = student_from_model(tmp_path, teacher)
    assert (student.config.num_labels, student.config.problem_type) == (1, "regression")


def test_a_deeper_model_is_refused(tmp_path: Path):
    make("distilbert").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="deeper"):
        student_from_model(tmp_path, build_student(make("bert"), 2))


def test_from_a_narrower_config(tmp_path: Path):
    teacher = make("bert")
    settings = {"model_type": "bert", **SIZES, "hidden_size": 16, "num_hidden_layers": 2}
    student = student_from_config(settings, teacher, seed=4)
    assert encoder_shape(student) == type(encoder_shape(student))(2, 16)
    assert student.config.id2label == NAMES
    hf.BertConfig(
        **{name: value for name, value in settings.items() if name != "model_type"}
    ).save_pretrained(tmp_path)
    for source in (tmp_path, tmp_path / "config.json", hf.BertConfig.from_pretrained(tmp_path)):
        assert torch.equal(logits(student_from_config(source, teacher, seed=4)), logits(student))
    student.save_pretrained(tmp_path / "student")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert torch.equal(logits(again), logits(student))


def test_bad_configs(tmp_path: Path):
    teacher = make("bert")
    with pytest.raises(ModelError, match="model_type"):
        student_from_config({"hidden_size": 16}, teacher)
    with pytest.raises(ModelError, match="knows no models of the family 'brt'"):
        student_from_config({"model_type": "brt"}, teacher)
    with pytest.raises(ModelError, match="no config file"):
        student_from_config(tmp_path / "nothing.json", teacher)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ModelError, match=r"bad\.json"):
        student_from_config(tmp_path / "bad.json", teacher)
    with pytest.raises(ModelError, match="deeper"):
        student_from_config({"model_type": "bert", **SIZES, "num_hidden_layers": 5}, teacher)
