"""The methods of pre-training with a teacher run from the command line as their authors meant them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_world import flags, refused, succeeded
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

# Nothing moves, so that a student shows what it started from.
STILL = ("--learning-rate", "1e-30", "--set", "training.weight_decay=0")
SHORT = ("--steps", "2", "--batch-size", "4", "--micro-batch", "4", "--precision", "fp32")
FOUR_HEADS = ("--set", "objectives.relations.relation_heads=4")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """Returns a folder with a corpus, a teacher with a head that predicts tokens, and one without."""
    folder = tmp_path_factory.mktemp("methods")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        num_hidden_layers=6,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        pad_token_id=0,
        initializer_range=0.2,
    )
    for name, model in (("teacher", BertForMaskedLM(config)), ("headless", BertModel(config))):
        model.save_pretrained(folder / name)
        tiny_tokenizer.save_pretrained(folder / name)
    words = random.Random(0)
    vocabulary = ["the", "good", "bad", "film", "book", "cat", "dog", "sees", "likes", "in"]
    lines = [" ".join(words.choices(vocabulary, k=40)) + "." for _ in range(24)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    making = flags(block=16, documents="line", validation=0.1, workers=1, output=folder / "corpus")
    succeeded("corpus", *making, input=folder / "text.txt", tokenizer=folder / "teacher")
    return folder


def pretrain(here: Path, output: Path, recipe: str, teacher: str, *more: Any) -> dict[str, Any]:
    """Runs a recipe for two steps that move nothing, with a student of two layers; returns its terms."""
    given = flags(corpus=here / "corpus", teacher=here / teacher, recipe=recipe, student_layers=2)
    succeeded("pretrain", *given, *SHORT, *STILL, *more, output=output)
    entries = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return {key: value for entry in entries for key, value in entry.items() if key.startswith("loss_")}


def start(here: Path, student: Path) -> list[int | None]:
    """Returns for each layer of a student of `pretrain` which of the teacher's six it is; None for none."""
    name = "bert.encoder.layer.{}.output.dense.weight"
    teacher = AutoModelForMaskedLM.from_pretrained(here / "teacher").state_dict()
    of_student = AutoModelForMaskedLM.from_pretrained(student).state_dict()
    return [
        next(
            (n + 1 for n in range(6) if torch.equal(of_student[name.format(own)], teacher[name.format(n)])),
            None,
        )
        for own in range(2)
    ]


@pytest.mark.parametrize(
    ("recipe", "terms", "more"),
    [
        ("tinybert-pre", {"embedding_mse", "hidden_mse", "attention_mse"}, ()),
        ("minilm-pre", {"relations"}, ()),
        ("minilmv2-pre", {"relations"}, FOUR_HEADS),
    ],
    ids=["tinybert", "minilm", "minilmv2"],
)
def test_losses_over_single_tokens_have_their_teacher(
    here: Path, tmp_path: Path, recipe: str, terms: set[str], more: tuple[Any, ...]
) -> None:
    """Nothing of them is a logit or a pooled layer, so a teacher without a head that predicts tokens will do."""
    losses = pretrain(here, tmp_path / "run", recipe, "headless", *more)
    assert {key.removeprefix("loss_") for key in losses} == terms
    assert all(value > 0 for value in losses.values())
    assert start(here, tmp_path / "run") == [None, None], "the authors' students start at random"
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "head that predicts tokens was not trained" in card


def test_the_methods_with_predictions_run_too(here: Path, tmp_path: Path) -> None:
    losses = pretrain(here, tmp_path / "distilbert", "distilbert-pre", "teacher")
    assert set(losses) == {"loss_mlm", "loss_kd", "loss_hidden_cosine"}
    assert start(here, tmp_path / "distilbert") == [1, 6], "evenly from the first layer to the last"
    losses = pretrain(here, tmp_path / "mobilebert", "mobilebert-pre", "teacher", "--student-init", "last")
    assert start(here, tmp_path / "mobilebert") == [5, 6]
    assert set(losses) == {"loss_feature_map_mse", "loss_attention_kl", "loss_mlm", "loss_kd"}
    for name in ("distilbert", "mobilebert"):
        card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        assert "was not trained" not in card


@pytest.mark.parametrize("recipe", ["tinybert-pre", "minilm-pre", "minilmv2-pre", "distilbert-pre", "mobilebert-pre"])
def test_without_a_teacher_the_flag_is_named(here: Path, tmp_path: Path, recipe: str) -> None:
    corpus, run = here / "corpus", tmp_path / "run"
    message = refused("pretrain", *SHORT, corpus=corpus, recipe=recipe, output=run, leaves_nothing=run)
    assert "--teacher" in message
    message = refused("plan", recipe=recipe, corpus=corpus, student_config=here / "teacher")
    assert "--teacher" in message


def test_predictions_need_a_teacher_with_a_head(here: Path, tmp_path: Path) -> None:
    given = flags(corpus=here / "corpus", teacher=here / "headless", recipe="distilbert-pre")
    message = refused("pretrain", *given, *SHORT, output=tmp_path / "run", leaves_nothing=tmp_path / "run")
    assert "mlm-head" in message


def test_a_plan_counts_such_a_teacher(here: Path, tmp_path: Path) -> None:
    found = {}
    for recipe in ("minilm-pre", "mlm-pre"):
        given = flags(recipe=recipe, corpus=here / "corpus", teacher=here / "headless")
        succeeded("plan", *given, *SHORT, json=tmp_path / "plan.json")
        stage = json.loads((tmp_path / "plan.json").read_text())["stages"][recipe]
        found[recipe] = stage["flops_teacher_forward"]
    assert found["minilm-pre"] > (found["mlm-pre"] or 0) == 0


def test_epochs_and_steps_give_way_to_what_is_said(here: Path, tmp_path: Path) -> None:
    """A recipe's passes over the corpus give way to --steps, a recipe's steps to epochs; both at once are refused."""
    where = ["pretrain", *flags(corpus=here / "corpus", teacher=here / "headless", student_layers=1)]
    quick = flags(recipe="minilm-pre", batch_size=8, micro_batch=8, precision="fp32")
    succeeded(*where, *quick, set="training.num_train_epochs=2", output=tmp_path / "a")
    blocks = json.loads((tmp_path / "a" / "metrics.json").read_text())["corpus"]["blocks"]
    entries = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert max(entry.get("step", 0) for entry in entries) == 2 * (blocks // 8)
    both = flags(steps=2, set="training.num_train_epochs=2", output=tmp_path / "b")
    message = refused(*where, *quick, *both, leaves_nothing=tmp_path / "b")
    assert "num_train_epochs" in message
