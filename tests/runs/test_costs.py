"""The arithmetic of a plan against counts by hand, PyTorch's own counter and real models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForMaskedLM, PretrainedConfig

from codir.losses.base import ObjectiveContext
from codir.losses.registry import build_objectives, needs_of
from codir.models.loading import encoder_shape
from codir.models.masked_lm import masked_lm_from_config
from codir.runs import costs, footprint
from codir.runs.costs import Contrast, ModelShape, Setting
from codir.runs.model_shapes import KNOWN, config_of, model_shape
from codir.teacher.frozen import FrozenTeacher
from codir.training.model import DistillationModel

TINY: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48},
    "roberta": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 48},
    "electra": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "embedding_size": 16,
    },
    "albert": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "embedding_size": 16,
    },
}
VOCABULARY, LENGTH, BATCH = 120, 20, 4


def in_place_flops(
    total: torch.Size, left: torch.Size, right: torch.Size, out_shape: Any = None, **_: Any
) -> int:
    return 2 * left[0] * left[1] * right[1]


IN_PLACE = {torch.ops.aten.addmm_: in_place_flops}  # PyTorch's counter does not know it


def tiny(family: str, **settings: Any) -> PretrainedConfig:
    return AutoConfig.for_model(
        family, **{"vocab_size": VOCABULARY, "max_position_embeddings": 64, **TINY[family], **settings}
    )


def setting(student: ModelShape, teacher: ModelShape | None = None, **more: Any) -> Setting:
    values: dict[str, Any] = {
        "block": LENGTH,
        "blocks": 1000,
        "batch": BATCH,
        "micro_batch": BATCH,
        "processes": 1,
        "steps": 10,
        "masked": 0.15,
        "precision": "fp32",
    }
    return Setting(student, teacher, **{**values, **more})


# --- shapes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", TINY)
def test_parameters_are_those_of_the_real_model(family: str) -> None:
    model = AutoModelForMaskedLM.from_config(tiny(family))
    shape = model_shape(tiny(family))
    assert shape.parameters == sum(each.numel() for each in model.parameters())
    body = {id(each) for each in model.base_model.parameters()}
    assert shape.head_parameters == sum(each.numel() for each in model.parameters() if id(each) not in body)
    assert (shape.blocks, shape.width, shape.heads, shape.intermediate) == (3, 32, 2, 48)
    assert shape.vocabulary == VOCABULARY
    words, positions = VOCABULARY * shape.output_width, 64 * shape.output_width
    assert words + positions <= shape.embedding <= words + positions + 10 * shape.output_width


def test_the_papers_counts() -> None:
    """Table 3: RoBERTa-base has 39.0 million parameters in its embeddings, the half-size student 82.7 with a pooler."""
    teacher = model_shape(config_of("roberta-base"))
    student = model_shape(
        AutoConfig.for_model("roberta", **{**KNOWN["roberta-base"][1], "num_hidden_layers": 6})
    )
    assert round(teacher.embedding / 1e6, 1) == round(student.embedding / 1e6, 1) == 39.0
    a_block = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert teacher.parameters - student.parameters == 6 * a_block
    assert teacher.encoder_weights == 12 * (4 * 768**2 + 2 * 768 * 3072)
    assert teacher.head_weights == 768**2
    # the model of the paper's table has a pooler where this one has a head
    assert student.parameters - teacher.head_parameters + 768**2 + 768 == pytest.approx(82.7e6, rel=0.01)


# --- operations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "albert"])
def test_the_stock_forward_pass_is_what_pytorch_counts(family: str) -> None:
    config = tiny(family)
    model = AutoModelForMaskedLM.from_config(config, attn_implementation="eager").eval()
    ids = torch.randint(5, VOCABULARY, (BATCH, LENGTH))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    shape, tokens = model_shape(config), BATCH * LENGTH
    pooler = 2 * BATCH * 32 * 32 if getattr(model.base_model, "pooler", None) is not None else 0
    expected = costs.encoder_flops(shape, tokens, LENGTH) + costs.head_flops(shape, tokens) + pooler
    assert counter.get_total_flops() == expected


@pytest.mark.parametrize("contrasted", ["concatenated", "blocks"])
@pytest.mark.parametrize("negatives", ["in-batch-bank", "in-batch", "queue"])
def test_a_real_step_is_what_pytorch_counts(negatives: str, contrasted: str) -> None:
    """Student forward and backward, teacher, both heads at the masked positions, projections, contrast: exactly."""
    student_config, teacher_config = tiny("bert", num_hidden_layers=2), tiny("bert", num_hidden_layers=4)
    gradient = negatives == "in-batch"
    crd = {"negatives": negatives, "dim": 8, "k": "all", "queue_size": 12, "negatives_gradient": gradient}
    crd["contrast"] = contrasted
    objectives: dict[str, dict[str, Any]] = {"mlm": {}, "kd": {"weight": 0.1}, "crd": crd}
    student, teacher = masked_lm_from_config(student_config), masked_lm_from_config(teacher_config)
    for each in (student, teacher):
        each.set_attn_implementation("eager")
    frozen = FrozenTeacher(teacher)
    context = ObjectiveContext(
        encoder_shape(student),
        frozen.shape,
        100,
        None,
        "masked-lm",
        VOCABULARY,
        batch=BATCH,
        micro_batch=BATCH,
    )
    needs = needs_of(objectives)
    model = DistillationModel(student, build_objectives(objectives, context), needs.pooled).train()
    ids = torch.randint(5, VOCABULARY, (BATCH, LENGTH))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = torch.full_like(ids, -100)
    labels[:, [2, 5, 11]] = 7  # 15 % of 20
    numbers = torch.arange(BATCH)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        taught = frozen.represent(inputs, needs.pooled, labels != -100)
        model(inputs, labels, numbers, taught, numbers)["loss"].backward()
    contrast = Contrast(
        dim=8,
        teacher_inputs=(2 if contrasted == "blocks" else 4) * 32,
        student_inputs=2 * 32,
        pairs=2 if contrasted == "blocks" else 1,
        compared=12 if negatives == "queue" else BATCH,
        through_negatives=gradient,
    )
    planned = setting(
        model_shape(student_config),
        model_shape(teacher_config),
        teacher_logits=True,
        pooled=True,
        contrast=contrast,
    )
    assert planned.positions == 12
    assert contrast.parameters == sum(each.numel() for each in model.objectives.parameters())
    assert counter.get_total_flops() == costs.step_flops(planned).total


def test_training_the_head_alone_is_what_pytorch_counts() -> None:
    config = tiny("bert")
    student = masked_lm_from_config(config)
    student.set_attn_implementation("eager")
    student.base_model.requires_grad_(False)
    context = ObjectiveContext(encoder_shape(student), None, 100, None, "masked-lm", VOCABULARY)
    model = DistillationModel(student, build_objectives({"mlm": {}}, context), frozenset()).train()
    ids = torch.randint(5, VOCABULARY, (BATCH, LENGTH))
    labels = torch.full_like(ids, -100)
    labels[:, :3] = 9
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        model(inputs, labels, torch.arange(BATCH))["loss"].backward()
    planned = setting(model_shape(config), head_only=True)
    assert counter.get_total_flops() == costs.step_flops(planned).total
    assert planned.trained == sum(each.numel() for each in model.parameters() if each.requires_grad)


def test_operations_by_hand() -> None:
    shape = ModelShape("bert", 2, 4, 1, 8, 10, 0, 0, 2 * (4 * 16 + 2 * 32), 16, 4, 26)
    assert costs.attention_flops(shape, 6, 3) == 2 * (2 * 6 * 3 * 4 + 2 * 6 * 3 * 4)
    assert costs.encoder_flops(shape, 6, 3) == 2 * 6 * 256 + 576
    assert costs.head_flops(shape, 5) == 2 * 5 * 4 * 4 + 2 * 5 * 4 * 10
    whole = costs.step_flops(setting(shape, batch=2, block=50))
    assert whole.student_backward == 2 * whole.student_forward
    assert whole.stock_heads / whole.student_head == pytest.approx(1 / 0.15)
    again = costs.step_flops(setting(shape, batch=2, block=50, recompute=True))
    assert again.total - again.model == whole.student_forward
    assert again.model == whole.total


# --- bytes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_are_what_autograd_keeps(family: str, precision: str, dropout: float) -> None:
    config = tiny(
        family,
        hidden_size=64,
        intermediate_size=256,
        num_attention_heads=4,
        attention_probs_dropout_prob=dropout,
    )
    model = masked_lm_from_config(config).train()
    known = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(5, VOCABULARY, (BATCH, LENGTH))
    half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), half:
        model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids))
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    planned = setting(model_shape(config), precision=precision, cpu=True, stored_attention=dropout > 0)
    assert footprint.activation_bytes(planned, False) == pytest.approx(measured, rel=0.05)


def test_bytes_by_hand() -> None:
    student = ModelShape("bert", 2, 4, 1, 8, 1000, 5000, 4200, 256, 16, 4, 1040)
    teacher = replace(student, blocks=4, parameters=5500)
    contrast = Contrast(dim=8, teacher_inputs=16, student_inputs=8, compared=64, bank_item=2)
    planned = setting(
        student,
        teacher,
        batch=64,
        micro_batch=4,
        processes=8,
        block=32,
        blocks=1_000_000,
        steps=100,
        contrast=contrast,
        teacher_logits=True,
        pooled=True,
        save_every=10,
    )
    projections = 8 * 17 + 8 * 9
    assert planned.trained == 5000 + projections
    assert footprint.weights_bytes(planned) == 4 * (5000 + 5500 + projections)
    assert footprint.adam_bytes(planned) == 2 * footprint.gradient_bytes(planned) == 8 * (5000 + projections)
    assert footprint.bank_bytes(planned) == 16_000_000
    assert footprint.corpus_bytes(planned) == 1_000_000 * (4 * 32 + 12)
    in_memory = footprint.checkpoint_bytes(planned, bank_on_disk=False)
    assert in_memory == 12 * (5000 + projections) + 16_000_000
    assert footprint.checkpoint_bytes(planned, bank_on_disk=True) == 12 * (5000 + projections)
    assert footprint.undo_bytes(planned) == 64 * 30 * (16 + 8)
    assert footprint.network_bytes(planned) == 7 * 5208 + 8 * 7 * (4 * 8 + 8)
    assert footprint.network_bytes(replace(planned, processes=1)) == 0
    pairs = replace(planned, contrast=replace(contrast, pairs=3))
    assert pairs.trained == planned.trained + 8 * 4
    assert footprint.bank_bytes(pairs) == 3 * 16_000_000
    assert footprint.undo_bytes(pairs) == 3 * 64 * 30 * (16 + 8)
    assert footprint.network_bytes(pairs) == 7 * (5208 + 4 * 8) + 3 * 8 * 7 * (4 * 8 + 8)
    assert footprint.teacher_activation_bytes(planned) == 4 * 128 * 4 * 4
    assert footprint.stock_logits_bytes(planned) == 2 * 4 * 128 * 1000
    assert footprint.logits_bytes(planned) == 4 * 1000 * 19  # 15 % of 128 are fewer than a chunk
    assert footprint.logits_bytes(replace(planned, micro_batch=4000)) <= 1 << 26
    assert footprint.logits_bytes(replace(planned, micro_batch=4000, cpu=True)) <= 1 << 24
    assert planned.accumulation == 2
    assert planned.epochs == 0.0064


def test_where_the_bank_lies() -> None:
    shape = model_shape(tiny("bert"))
    contrast = Contrast(dim=128, teacher_inputs=1, student_inputs=1, compared=4, bank_item=4)
    planned = setting(shape, blocks=1_000_000, contrast=contrast)  # 512 MB
    assert footprint.bank_place(planned, 4 * 512_000_000) == "gpu"
    assert footprint.bank_place(planned, 4 * 512_000_000 - 1) == "cpu or disk"
    assert footprint.bank_place(planned, None) == "cpu or disk"
    asked = replace(planned, contrast=replace(contrast, bank_storage="disk"))
    assert footprint.bank_place(asked, 10**12) == "disk"
    assert footprint.bank_place(replace(planned, contrast=None), 10**12) == ""
    with_bank, without = footprint.memory_bytes(planned, 10**10), footprint.memory_bytes(asked, 10**10)
    assert with_bank - without == 512_000_000


def test_a_queue_has_no_bank() -> None:
    contrast = Contrast(dim=8, teacher_inputs=1, student_inputs=1, compared=100, queue=100)
    planned = setting(model_shape(tiny("bert")), contrast=contrast)
    assert footprint.bank_bytes(planned) == 100 * (32 + 8)
    assert footprint.bank_place(planned, 10**10) == ""
    assert footprint.undo_bytes(planned) == 0


def test_what_grows_with_what() -> None:
    shape = model_shape(tiny("bert"))
    plain = setting(shape, batch=8, micro_batch=2)
    flops = costs.step_flops(plain).total
    assert costs.step_flops(replace(plain, batch=16)).total == 2 * flops
    assert costs.step_flops(replace(plain, blocks=9)).total == flops
    assert costs.seconds_per_step(replace(plain, processes=4), 1e9, 0.5) == flops / 4 / 0.5e9
    assert costs.step_flops(replace(plain, block=40)).attention == 4 * costs.step_flops(plain).attention
    assert footprint.activation_bytes(plain, False) * 2 == footprint.activation_bytes(
        replace(plain, micro_batch=4), False
    )
    assert footprint.activation_bytes(plain, True) < footprint.activation_bytes(plain, False)
