"""Training on vectors of single tokens: the teacher's cached or live, and what is refused before it computes."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
)

sys.path.insert(0, str(Path(__file__).parent))
from training_job import examples, make_trainer

from codir.errors import ModelError
from codir.losses.base import Needs, Objective, ObjectiveSettings, Step, Term
from codir.models.inference import pad_batch
from codir.models.representations import TokenView
from codir.models.student import build_student
from codir.teacher.cache import open_cache
from codir.teacher.frozen import FrozenTeacher
from codir.training.arguments import DistillationArguments
from codir.training.collators import DistillationCollator, MaskedBlockCollator, teacher_of
from codir.training.masking import TokenMasking
from codir.training.trainer import DistillationTrainer

ONE_EPOCH = {"num_train_epochs": 1, "save_strategy": "no", "eval_strategy": "no", "logging_steps": 1}
LAST = {"student": TokenView("hidden", 2), "teacher": TokenView("hidden", 4)}


class TokenGap(Objective):
    """Compares the last hidden states, and optionally the queries and values, of all real tokens."""

    name = "token_gap"
    seen: ClassVar[list[Step]] = []

    class Settings(ObjectiveSettings):
        """Which views are read."""

        attention: bool = True
        layers: tuple[int, int] = (2, 4)

    @classmethod
    def kinds_of(cls, settings):
        return ("hidden", "query", "value") if settings.attention else ("hidden",)

    @classmethod
    def needs(cls, settings):
        return Needs(pooled=frozenset({"mean"}), tokens=frozenset(cls.kinds_of(settings)), layers=[settings.layers])

    def forward(self, step):
        own, other = self.settings.layers
        self.seen.append(step)
        loss = torch.zeros(())
        for kind in self.kinds_of(self.settings):
            gap = step.student.tokens[TokenView(kind, own)] - step.teacher.tokens[TokenView(kind, other)]
            loss = loss + gap.square().mean(dim=2)[step.student.mask].mean()
        return Term(loss)


GAP = f"{__name__}:TokenGap"


@pytest.fixture(autouse=True)
def forget():
    TokenGap.seen.clear()


def losses(trainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_cached_and_live_teacher_give_the_same_losses(tmp_path, models):
    entries, steps = [], []
    for cached in (True, False):
        trainer = make_trainer(
            tmp_path / str(cached),
            models,
            {"task": {}, "kd": {}, "crd": {"k": 10, "dim": 8}, GAP: {}},
            **ONE_EPOCH,
            cache_teacher=cached,
            cache_folder=str(tmp_path / "cache"),
            learning_rate=1e-4,
        )
        trainer.train()
        entries.append(losses(trainer))
        steps.append(list(TokenGap.seen))
        TokenGap.seen.clear()
    assert len(entries[0]) == 8
    for cached, live in zip(*entries, strict=True):
        for name in ("loss_task", "loss_kd", "loss_crd", "loss_token_gap"):
            assert cached[name] == pytest.approx(live[name], rel=2e-3, abs=2e-4), name
    for cached, live in zip(*steps, strict=True):
        assert torch.equal(cached.teacher.mask, live.teacher.mask)
        assert torch.equal(cached.teacher.mask, cached.student.mask)
        assert set(cached.teacher.tokens) == set(live.teacher.tokens)
        for view, vectors in cached.teacher.tokens.items():
            real = cached.teacher.mask
            torch.testing.assert_close(vectors[real], live.teacher.tokens[view][real], atol=1e-3, rtol=1e-3)
    assert any(not step.student.mask.all() for step in steps[0])


def test_gradients_reach_the_student_alone(tmp_path, models):
    for cached in (True, False):
        trainer = make_trainer(tmp_path, models, {GAP: {}}, **ONE_EPOCH, cache_teacher=cached)
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.train()
        trainer.compute_loss(trainer.model, batch).backward()
        step = TokenGap.seen.pop()
        assert not any(vectors.requires_grad for vectors in step.teacher.tokens.values())
        assert all(vectors.requires_grad for vectors in step.student.tokens.values())
        moved = {name for name, parameter in trainer.student.named_parameters() if parameter.grad is not None}
        assert any("layer.1.attention.self.query" in name for name in moved)
        assert any("embeddings" in name for name in moved)
        if not cached:
            assert all(parameter.grad is None for parameter in trainer._source.live.parameters())


def test_where_the_vectors_are_too_large_the_teacher_runs_live(tmp_path, models):
    folder = tmp_path / "cache"
    settings = {**ONE_EPOCH, "cache_folder": str(folder)}
    trainer = make_trainer(tmp_path, models, {"task": {}, "kd": {}, GAP: {}}, **settings, cache_tokens_gb=1e-6)
    assert isinstance(trainer._source.live, FrozenTeacher)
    assert not folder.exists()
    (note,) = [line for line in trainer.objective_notes if line.startswith("teacher")]
    assert "live" in note
    assert "kB" in note
    trainer.train()
    assert losses(trainer)[0]["loss_token_gap"] > 0
    # what needs no tokens is cached all the same
    assert make_trainer(tmp_path, models, {"kd": {}}, **settings, cache_tokens_gb=1e-6)._source.live is None


@pytest.fixture
def parts(models):
    """Returns the student, the teacher, the tokenizer, and the arguments to build a trainer with."""
    return {
        "student": AutoModelForSequenceClassification.from_pretrained(models / "student"),
        "teacher": FrozenTeacher(AutoModelForSequenceClassification.from_pretrained(models / "teacher")),
        "tokenizer": AutoTokenizer.from_pretrained(models / "tokenizer"),
    }


def trainer_of(folder: Path, parts, objectives, data: Dataset | None = None, **settings) -> DistillationTrainer:
    extra = {key: settings.pop(key) for key in ("eval_dataset", "kind", "data_collator") if key in settings}
    return DistillationTrainer(
        parts["student"],
        objectives,
        DistillationArguments(
            output_dir=str(folder),
            use_cpu=True,
            disable_tqdm=True,
            cache_folder=str(folder / "cache"),
            **{**ONE_EPOCH, **settings},
        ),
        train_dataset=data if data is not None else examples(),
        processing_class=parts["tokenizer"],
        teacher=parts["teacher"],
        **extra,
    )


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_model_without_readable_attention_is_refused(tmp_path, parts, side):
    config = DebertaV2Config(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=2,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
    )
    model = DebertaV2ForSequenceClassification(config)
    parts = {**parts, side: FrozenTeacher(model) if side == "teacher" else model}
    with pytest.raises(ModelError, match=f"(?i)the {side} is a DebertaV2"):
        trainer_of(tmp_path, parts, {GAP: {}})
    assert not (tmp_path / "cache").exists()
    trainer_of(tmp_path, parts, {GAP: {"attention": False}})  # hidden states every model has


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_padded_like_the_students_inputs(tmp_path, parts, side):
    tokenizer, data = copy.deepcopy(parts["tokenizer"]), examples()
    tokenizer.padding_side = side
    settings = {"tokenizer": tokenizer, "folder": tmp_path / "cache"}
    views = [TokenView("hidden", 0), TokenView("key", 3)]
    outputs = open_cache(parts["teacher"], data, tokens=views, batch_size=60, **settings)
    collator = DistillationCollator(tokenizer, teacher=outputs)
    batch = collator([data[number] for number in range(60)])
    found = teacher_of(batch)
    mask = batch["inputs"]["attention_mask"].bool()
    assert torch.equal(found.mask, mask)
    live = parts["teacher"].represent(pad_batch([data[n] for n in range(60)], tokenizer), tokens=views)
    assert set(found.tokens) == set(views)
    for view in views:
        torch.testing.assert_close(found.tokens[view][mask], live.tokens[view][mask], atol=1e-3, rtol=1e-3)
    assert set(batch["teacher"]["tokens"]) == {"hidden.0", "key.3"}
    assert "teacher" not in collator.evaluation()([data[0]])


def test_evaluation_reads_nothing_of_the_teacher(tmp_path, parts):
    """More examples than the cache has rows, and longer ones: their ids are not those of the training examples."""
    trainer = trainer_of(tmp_path, parts, {"task": {}, GAP: {}}, examples().select(range(20)), eval_dataset=examples())
    assert trainer.evaluate()["eval_loss"] > 0
    assert TokenGap.seen == []


def test_masked_blocks_with_a_live_teacher(tmp_path, tiny_tokenizer):
    """As `codir pretrain` does it: another pass, other masks; the head sees the masked positions, the losses all."""
    torch.manual_seed(0)
    teacher = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
    ).eval()
    data = examples().select_columns(["input_ids", "example_id"])
    parts = {
        "student": build_student(teacher, 2, "random", seed=3),
        "teacher": FrozenTeacher(teacher),
        "tokenizer": tiny_tokenizer,
    }
    trainer = trainer_of(
        tmp_path,
        parts,
        {"mlm": {}, "kd": {"weight": 0.1}, GAP: {}},
        data,
        cache_teacher=False,
        kind="masked-lm",
        data_collator=MaskedBlockCollator(tiny_tokenizer, TokenMasking(tiny_tokenizer, seed=1)),
    )
    batches = []
    inner = trainer.model.forward
    trainer.model.forward = lambda **inputs: (batches.append(inputs), inner(**inputs))[1]
    trainer.train()
    assert {"loss_mlm", "loss_kd", "loss_token_gap"} <= set(losses(trainer)[0])
    assert len(batches) == len(TokenGap.seen) == 8
    for batch, step in zip(batches, TokenGap.seen, strict=True):
        whole = teacher(**batch["inputs"], output_hidden_states=True).hidden_states[4]
        mask = batch["inputs"]["attention_mask"].bool()
        assert torch.equal(step.teacher.mask, mask)
        assert torch.equal(step.student.mask, mask)
        torch.testing.assert_close(step.teacher.tokens[LAST["teacher"]][mask], whole[mask])
        assert step.student.tokens[LAST["student"]].shape == whole.shape
        assert step.student.masked is not None
        assert step.student.masked.hidden.shape[0] == (batch["labels"] != -100).sum()
    assert all(parameter.grad is None for parameter in teacher.parameters())
