"""Masked language models of many families: predictions at chosen positions are those of the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModel, BertConfig, BertForMaskedLM, PreTrainedModel

from codir.errors import ModelError
from codir.models.masked_lm import load_masked_lm, masked_lm_from_config, require_plain_head
from codir.models.representations import represent
from codir.models.student import build_student

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "distilbert": {"dim": 32, "n_heads": 2, "n_layers": 4, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "mpnet": {},
    "deberta-v2": {},
    "camembert": {},
    "modernbert": {},
}


def model_of(family: str, **extra: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(
        family,
        **{
            **{
                "vocab_size": 97,
                "hidden_size": 32,
                "num_hidden_layers": 4,
                "num_attention_heads": 2,
                "intermediate_size": 64,
            },
            **{"max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
            "cls_token_id": 1,
            **{"sep_token_id": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
            **FAMILIES[family],
            **extra,
        },
    )
    model = masked_lm_from_config(config, seed=1)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases and norms away from 0 and 1
            torch.nn.init.normal_(parameter)
    return model


def _tied(model: Any) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def batch() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 97, (3, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    positions = torch.rand(3, 12, generator=generator) < 0.3
    return {"input_ids": ids, "attention_mask": mask}, positions & mask.bool()


@pytest.mark.parametrize("family", FAMILIES)
def test_chosen_positions_equal_the_whole_model(family: str) -> None:
    model = model_of(family)
    inputs, positions = batch()
    stock = model(**inputs, output_hidden_states=True)
    found = represent(model, inputs, ("mean",), positions)
    assert found.masked is not None
    logits = functional.linear(*found.masked)
    torch.testing.assert_close(logits, stock.logits[positions])
    plain = represent(model, inputs, ("mean",))
    torch.testing.assert_close(found.pooled["mean"], plain.pooled["mean"])
    torch.testing.assert_close(plain.logits, stock.logits)  # the hooks are gone
    # and the gradient reaches every parameter that the stock loss reaches
    labels = inputs["input_ids"][positions]
    functional.cross_entropy(logits, labels).backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    functional.cross_entropy(model(**inputs).logits[positions], labels).backward()
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)


def test_no_position_is_no_prediction() -> None:
    model = model_of("bert")
    inputs, positions = batch()
    found = represent(model, inputs, (), torch.zeros_like(positions)).masked
    assert found is not None
    assert found.hidden.shape == (0, 32)


def test_hooks_go_when_the_model_fails() -> None:
    model = model_of("bert")
    inputs, positions = batch()
    with pytest.raises(IndexError):
        represent(model, {"input_ids": inputs["input_ids"] + 1000}, (), positions)
    assert model(**inputs).logits.shape == (3, 12, 97)


def test_a_head_that_does_more_is_refused() -> None:
    class Scaled(BertForMaskedLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output: Any = super().forward(*args, **kwargs)
            output.logits = output.logits * 2.0
            return output

    config = BertConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    with pytest.raises(ModelError, match=r"Scaled.*masked positions only"):
        require_plain_head(Scaled(config), "mine")
    require_plain_head(BertForMaskedLM(config), "mine")


def test_load_keeps_the_head_and_ties_it(tmp_path: Path) -> None:
    model = model_of("bert")
    model.save_pretrained(tmp_path)
    loaded = load_masked_lm(tmp_path)
    inputs, _ = batch()
    torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)
    assert _tied(loaded)
    assert not loaded.training


def test_an_encoder_without_head(tmp_path: Path) -> None:
    AutoModel.from_config(model_of("bert").config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no head that predicts masked tokens.*mlm-head"):
        load_masked_lm(tmp_path)
    first, second, other = (load_masked_lm(tmp_path, require_head=False, seed=seed) for seed in (1, 1, 2))
    name = "cls.predictions.transform.dense.weight"
    assert torch.equal(first.state_dict()[name], second.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_a_student_is_cut_out_of_a_masked_lm() -> None:
    teacher = model_of("roberta")
    student = build_student(teacher, 2)
    assert type(student) is type(teacher)
    assert student.config.num_hidden_layers == 2
    theirs, mine = teacher.state_dict(), student.state_dict()
    assert torch.equal(mine["lm_head.dense.weight"], theirs["lm_head.dense.weight"])
    assert torch.equal(
        mine["roberta.encoder.layer.1.output.dense.weight"],
        theirs["roberta.encoder.layer.3.output.dense.weight"],
    )
    assert _tied(student)
    assert student.get_input_embeddings().weight is not teacher.get_input_embeddings().weight
