"""What the trainer adds to transformers': terms, scale, watch over the loss, banks, checkpoints."""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForSequenceClassification, TrainerCallback

sys.path.insert(0, str(Path(__file__).parent))
from training_job import OBJECTIVES, make_trainer

from codir.errors import ConfigError, InterruptedRunError, RunError, TrainingDivergedError
from codir.training import resumable
from codir.training.arguments import DistillationArguments
from codir.training.callbacks import EarlyStopping, LogFile

ONE_EPOCH = {"num_train_epochs": 1, "save_strategy": "no", "eval_strategy": "no"}


class Watch(TrainerCallback):
    """Calls a function with the trainer's state at the end of every step."""

    def __init__(self, look):
        self.look = look

    def on_step_end(self, args, state, control, **kwargs):
        self.look(state)


def without_dropout(trainer):
    for module in trainer.distillation.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return trainer


def test_every_term_is_logged(tmp_path, models):
    trainer = make_trainer(tmp_path, models, **ONE_EPOCH)
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert {"loss_task", "loss_kd", "loss_crd", "crd_accuracy", "kd_agreement"} <= set(entry)
    total = entry["loss_task"] + 0.7 * entry["loss_kd"] + 0.5 * entry["loss_crd"]
    assert entry["loss"] == pytest.approx(total, rel=1e-4)
    assert 0 <= entry["crd_accuracy"] <= 1


@pytest.mark.parametrize("crd", [{"k": "all"}, {"negatives": "in-batch-bank", "k": "auto"}])
def test_accumulated_batches_take_the_step_of_one_large_batch(tmp_path, models, crd):
    """Stock transformers would take a step four times too large."""
    after = []
    for batch, accumulation in ((16, 1), (4, 4)):
        trainer = without_dropout(
            make_trainer(
                tmp_path / str(batch),
                models,
                {"task": {}, "kd": {}, "crd": {"dim": 8, **crd}},
                max_steps=2,
                save_strategy="no",
                eval_strategy="no",
                train_sampling_strategy="sequential",
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                optim="sgd",
                learning_rate=0.1,
                max_grad_norm=0.0,
            )
        )
        trainer.train()
        after.append({k: v.clone() for k, v in trainer.distillation.state_dict().items()})
    for name, value in after[0].items():
        atol = 1e-4 if name.endswith("bank.data") else 1e-5
        torch.testing.assert_close(after[1][name], value, rtol=1e-4, atol=atol, msg=name)


def test_the_bank_is_written_once_a_step_and_never_in_evaluation(tmp_path, models):
    trainer = make_trainer(tmp_path, models, **ONE_EPOCH, gradient_accumulation_steps=2)
    banks, bank = [], trainer.distillation.get_buffer("objectives.crd.bank.data")
    trainer.add_callback(Watch(lambda state: banks.append(bank.clone())))
    before = bank.clone()
    trainer.train()
    changed = [(a != b).any(dim=1).sum().item() for a, b in zip([before, *banks], banks, strict=False)]
    assert changed == [16, 16, 16, 12]
    trainer.evaluate()
    assert torch.equal(bank, banks[-1])


def test_heads_are_trained_and_not_exported(tmp_path, models):
    trainer = make_trainer(tmp_path, models, num_train_epochs=1, eval_strategy="no", save_steps=8)
    start = {name: value.clone() for name, value in trainer.distillation.objectives.state_dict().items()}
    trainer.train()
    assert start
    for name, value in trainer.distillation.objectives.state_dict().items():
        assert not torch.equal(value, start[name]), name
    with safe_open(tmp_path / "checkpoint-8" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert names == set(AutoModelForSequenceClassification.from_pretrained(models / "student").state_dict())


def test_nothing_is_pickled_but_torch_state(tmp_path, models):
    trainer = make_trainer(tmp_path, models, num_train_epochs=1, eval_strategy="no", save_steps=8)
    trainer.train()
    files = {path.name for path in (tmp_path / "checkpoint-8").iterdir()}
    assert "training_args.bin" not in files
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        from transformers.trainer_pt_utils import safe_globals

        with safe_globals():
            torch.load(tmp_path / "checkpoint-8" / name, weights_only=True)


@pytest.mark.parametrize("broken", ["crd", "task"])
def test_a_loss_that_becomes_nan_stops_and_names_the_term(tmp_path, models, broken):
    trainer = make_trainer(tmp_path, models, save_steps=3, eval_strategy="no")
    objective = trainer.distillation.objectives[broken]
    forward = objective.forward

    def spoiled(step):
        term = forward(step)
        if trainer.state.global_step >= 6:
            term.loss = term.loss * float("nan")
        return term

    objective.forward = spoiled
    with pytest.raises(TrainingDivergedError, match=rf"step 7: the loss term '{broken}' is nan.*checkpoint-6"):
        trainer.train()
    assert resumable.damage(tmp_path / "checkpoint-6") is None
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-6")
    assert all(torch.isfinite(parameter).all() for parameter in saved.parameters())


def test_weights_that_are_not_finite_are_never_saved(tmp_path, models):
    trainer = make_trainer(tmp_path, models, {"task": {}}, save_steps=4, eval_strategy="no")

    def spoil(state):
        if state.global_step == 4:
            trainer.student.classifier.bias.data.fill_(float("inf"))

    trainer.add_callback(Watch(spoil))
    with pytest.raises(TrainingDivergedError, match=r"classifier\.bias.*No checkpoint"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_gradient_that_is_not_finite_stops(tmp_path, models):
    trainer = make_trainer(tmp_path, models, {"task": {}}, **ONE_EPOCH)
    trainer.student.classifier.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingDivergedError, match="gradient's norm"):
        trainer.train()


def test_early_stopping_and_the_best_checkpoint(tmp_path, models):
    trainer = make_trainer(
        tmp_path,
        models,
        {"task": {}},
        callbacks=[EarlyStopping(early_stopping_patience=1), LogFile(tmp_path / "log.jsonl")],
        num_train_epochs=6,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_score",
        greater_is_better=True,
    )
    scores = iter([0.1, 0.5, 0.4, 0.9, 0.9, 0.9])
    trainer.compute_metrics = lambda prediction: {"score": next(scores)}
    kept = []

    def keep(state):
        if state.global_step == 16:
            kept.append({k: v.clone() for k, v in trainer.student.state_dict().items()})

    trainer.add_callback(Watch(keep))
    trainer.train()
    assert trainer.state.global_step == 24  # stopped after the third epoch
    assert trainer.state.best_global_step == 16
    assert all(torch.equal(value, kept[0][name]) for name, value in trainer.student.state_dict().items())
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["eval_score"] for line in lines if "eval_score" in line] == [0.1, 0.5, 0.4]


def test_a_resume_does_not_go_on_after_patience_ran_out(tmp_path, models):
    def build():
        trainer = make_trainer(
            tmp_path,
            models,
            {"task": {}},
            callbacks=[EarlyStopping(early_stopping_patience=1)],
            num_train_epochs=6,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="eval_score",
            greater_is_better=True,
        )
        scores = iter([0.5, 0.4, 0.9, 0.9, 0.9, 0.9])
        trainer.compute_metrics = lambda prediction: {"score": next(scores)}
        return trainer

    build().train()
    again = build()
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 16


def test_damaged_checkpoints(tmp_path, models, caplog):
    make_trainer(tmp_path, models, num_train_epochs=2, eval_strategy="no").train()
    whole = resumable.checkpoints(tmp_path)
    assert [path.name for path in whole] == ["checkpoint-16", "checkpoint-15", "checkpoint-10"]
    optimizer = whole[0] / "optimizer.pt"
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1
    optimizer.write_bytes(bytes(content))
    with pytest.raises(RunError, match=r"checkpoint-16 cannot be used: the content of optimizer\.pt has changed"):
        make_trainer(tmp_path, models).train(resume_from_checkpoint=str(whole[0]))
    (whole[1] / "trainer_state.json").unlink()
    with caplog.at_level(logging.WARNING):
        found = resumable.last_whole(tmp_path, logging.getLogger().warning)
    assert found == whole[2]
    assert "optimizer.pt has changed" in caplog.text
    assert "trainer_state.json is missing" in caplog.text
    assert not whole[0].exists()


def test_a_moved_run_folder_finds_its_best_checkpoint(tmp_path, models):
    settings = {
        "num_train_epochs": 2,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
    }
    make_trainer(tmp_path / "here", models, {"task": {}}, **settings).train()
    (tmp_path / "here").rename(tmp_path / "there")
    moved = make_trainer(tmp_path / "there", models, {"task": {}}, **settings)
    moved.train(resume_from_checkpoint=True)
    assert Path(str(moved.state.best_model_checkpoint)).parent == tmp_path / "there"


@pytest.mark.parametrize("moment", ["on_log", "on_step_begin", "on_step_end"])
def test_a_signal_at_any_moment_of_a_step_saves_before_it_stops(tmp_path, models, moment):
    class Signal(TrainerCallback):
        pass

    def send(self, args, state, control, **kwargs):
        if state.global_step == 2:
            signal.raise_signal(signal.SIGINT)

    setattr(Signal, moment, send)
    trainer = make_trainer(tmp_path, models, callbacks=[Signal()], **ONE_EPOCH)
    with pytest.raises(InterruptedRunError, match=r"Stopped by SIGINT after step [23]; a checkpoint was saved"):
        trainer.train()
    assert [resumable.damage(path) for path in resumable.checkpoints(tmp_path)] == [None]


def test_a_signal_after_the_last_step_is_not_lost(tmp_path, models):
    class Signal(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            signal.raise_signal(signal.SIGTERM)

    trainer = make_trainer(tmp_path, models, callbacks=[Signal()], **ONE_EPOCH)
    with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM at the end of the training"):
        trainer.train()


def test_gradient_checkpointing_changes_no_loss(tmp_path, models):
    histories = []
    for wanted in (False, True):
        folder = tmp_path / str(wanted)
        trainer = make_trainer(folder, models, gradient_checkpointing=wanted, **ONE_EPOCH)
        trainer.train()
        assert trainer.student.is_gradient_checkpointing == wanted
        histories.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)


def test_bad_settings(tmp_path, models, monkeypatch):
    with pytest.raises(ConfigError, match="average_tokens"):
        DistillationArguments(output_dir=str(tmp_path), average_tokens_across_devices=True)
    with pytest.raises(ConfigError, match="remove_unused_columns"):
        DistillationArguments(output_dir=str(tmp_path), remove_unused_columns=True)
    for name, value in {
        "label_smoothing_factor": 0.1,
        "neftune_noise_alpha": 5.0,
        "save_only_model": True,
        "auto_find_batch_size": True,
        "include_for_metrics": ["inputs"],
        "dataloader_persistent_workers": True,
    }.items():
        with pytest.raises(ConfigError, match=f"{name} is not supported"):
            DistillationArguments(output_dir=str(tmp_path), **{name: value})
    with pytest.raises(ConfigError, match=r"crd\.k=61 does not fit N=60"):
        make_trainer(tmp_path, models, {"task": {}, "crd": {"k": 61}})
    with pytest.raises(ConfigError, match="0"):
        make_trainer(tmp_path, models, {"task": {}, "crd": {"k": 0}})


def test_objectives_that_need_a_teacher_are_refused_without_one(tmp_path, models):
    trainer = make_trainer(tmp_path, models, {"task": {}}, **ONE_EPOCH)
    with pytest.raises(ConfigError, match="needs a teacher"):
        type(trainer)(
            trainer.student,
            OBJECTIVES,
            trainer.args,
            trainer.train_dataset,
            processing_class=trainer.processing_class,
        )
