"""`codir pretrain` from a corpus to a student that fine-tunes, on models small enough for a test."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from killing import at_call, begin, end, forked, needs_fork
from safetensors.torch import load_file
from small_world import FILLER, World, quiet
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedTokenizerFast,
)

from codir import distill, finetune
from codir.data.corpus_build import build_corpus
from codir.errors import CodirError, ConfigError, DataError, InterruptedRunError, ModelError, RunError
from codir.runs import pretrain as module
from codir.runs import train as train_module
from codir.runs.pretrain import PretrainResult, pretrain
from codir.training.samplers import NeighbourSampler
from codir.training.trainer import DistillationTrainer

BLOCK = 16
TRAINING: dict[str, Any] = {
    "max_steps": 6,
    "global_batch_size": 8,
    "per_device_train_batch_size": 4,
    "neighbours": 2,
    "learning_rate": 3e-3,
    "precision": "fp32",
    "save_steps": 2,
    "seed": 5,
}
CRD = {"dim": 8, "weight": 0.1}


def config_of(tokenizer: PreTrainedTokenizerFast, **settings: Any) -> BertConfig:
    values: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "initializer_range": 0.2,
    }
    return BertConfig(**{**values, **settings})


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """Returns a folder with a teacher, an encoder without head, a corpus and a student of the first stage."""
    folder = tmp_path_factory.mktemp("pretraining")
    torch.manual_seed(0)
    for name, model in (
        ("teacher", BertForMaskedLM(config_of(tiny_tokenizer))),
        ("encoder", BertModel(config_of(tiny_tokenizer))),
    ):
        model.save_pretrained(folder / name)
        tiny_tokenizer.save_pretrained(folder / name)
    generator = random.Random(0)
    documents = [
        " ".join(" ".join(generator.choices(FILLER, k=generator.randint(3, 9))) + "." for _ in range(8))
        for _ in range(16)
    ]
    (folder / "text.txt").write_text("\n".join(documents) + "\n", encoding="utf-8")
    build_corpus(
        [str(folder / "text.txt")],
        str(folder / "teacher"),
        folder / "corpus",
        block=BLOCK,
        documents="line",
        validation=0.1,
        workers=1,
    )
    run(folder, folder / "stage1", "mlm-pre", teacher=None, student={"layers": 2}, objectives={})
    return folder


def settings(here: Path, output: Path, recipe: str = "codir-pre", **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "recipe": recipe,
        "corpus": str(here / "corpus"),
        "teacher": str(here / "teacher"),
        "student": {"layers": 2},
        "training": {**TRAINING, **changes.pop("training", {})},
        "objectives": {"crd": CRD} if recipe == "codir-pre" else {},
        "output": output,
    }
    return {key: value for key, value in {**given, **changes}.items() if value is not None}


def run(here: Path, output: Path, recipe: str = "codir-pre", **changes: Any) -> PretrainResult:
    return pretrain(**settings(here, output, recipe, **changes), console=quiet())


def still_student(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Saves a student without dropout, so that trainings that share out a batch differently can be compared."""
    torch.manual_seed(0)
    config = config_of(tokenizer, num_hidden_layers=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("recipe", ["mlm-pre", "kd-pre", "codir-pre"])
def test_every_recipe_trains_and_saves_a_plain_model(here: Path, tmp_path: Path, recipe: str) -> None:
    result = run(here, tmp_path / "run", recipe, training={"max_steps": 30})
    student = AutoModelForMaskedLM.from_pretrained(result.output)
    assert student.config.num_hidden_layers == 2
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight
    assert student.config.architectures == ["BertForMaskedLM"]
    assert AutoTokenizer.from_pretrained(result.output).mask_token == "[MASK]"
    terms = {"mlm-pre": {"mlm"}, "kd-pre": {"mlm", "kd"}, "codir-pre": {"mlm", "kd", "crd"}}[recipe]
    logged = {key.removeprefix("loss_") for key in log(result.output)[0] if key.startswith("loss_")}
    assert logged == terms
    rows = {row.name: row for row in result.table.rows}
    assert set(rows) == {"student before", "student"} | ({"teacher"} if recipe != "mlm-pre" else set())
    before, after = rows["student before"].loss, rows["student"].loss
    assert before is not None
    assert after is not None
    assert after < before
    content = json.loads((result.output / "metrics.json").read_text())
    assert content["recipe"] == recipe
    assert content["cost"]["steps"] == 30
    assert not (result.output / "checkpoints").exists()
    assert (result.output / "contrast.safetensors").exists() == (recipe == "codir-pre")
    card = (result.output / "README.md").read_text()
    assert "fill-mask" in card
    assert "| student |" in card


def test_a_finished_run_is_left_alone(here: Path, tmp_path: Path) -> None:
    first = run(here, tmp_path / "run")
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    again = run(here, tmp_path / "run", resume=True)
    assert again.table.to_json() == first.table.to_json()
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights
    with pytest.raises(RunError, match="already holds a run"):
        run(here, tmp_path / "run")


def test_a_student_of_the_first_stage_goes_on(here: Path, tmp_path: Path) -> None:
    result = run(here, tmp_path / "run", student={"model": str(here / "stage1")}, training={"max_steps": 1})
    before = next(row for row in result.table.rows if row.name == "student before")
    stage1 = json.loads((here / "stage1" / "metrics.json").read_text())["scores"]["rows"][-1]
    assert before.accuracy == stage1["accuracy"]  # the same held-out tokens, the same model


def test_a_second_stage_sees_other_masks_in_another_order(here: Path, tmp_path: Path) -> None:
    """With one seed for both stages, the second would repeat what the first has just learnt by heart."""
    known = json.loads((here / "stage1" / "corpus.json").read_text())
    assert known["epochs"] == 1
    run(here, tmp_path / "run", student={"model": str(here / "stage1")}, training={"max_steps": 9})
    after = json.loads((tmp_path / "run" / "corpus.json").read_text())
    assert after["epochs"] == 1 + 2  # nine steps of eight blocks: a second pass has begun
    args: Any = {"documents": [0] * 40, "neighbours": 2, "seed": 1}
    first, second = NeighbourSampler(**args), NeighbourSampler(**args, first_epoch=1)
    assert list(first) != list(second)
    first.set_epoch(1)
    second.set_epoch(0)
    assert list(first) == list(second)


def test_a_pretrained_student_is_fine_tuned(here: Path, world: World, tmp_path: Path) -> None:
    training = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "precision": "fp32"}
    result = finetune(
        model=str(here / "stage1"),
        data=world.data(),
        training=training,
        output=tmp_path / "tuned",
        console=quiet(),
    )
    assert 0 <= result.metrics["accuracy"] <= 1


def test_a_pretrained_student_is_distilled(here: Path, world: World, tmp_path: Path) -> None:
    """CoDIR-Pre + CoDIR-Fine."""
    given = world.settings(tmp_path / "both", student={"model": str(here / "stage1")}, baseline=False)
    result = distill(**given, console=quiet())
    assert result.comparison.row("codir") is not None
    assert json.loads((tmp_path / "both" / "config.json").read_text())["architectures"] == [
        "BertForSequenceClassification"
    ]


def test_random_student_of_the_corpus_own_family(here: Path) -> None:
    """Stage 1 needs no teacher: the corpus knows the model its tokenizer came with."""
    content = json.loads((here / "stage1" / "config.json").read_text())
    assert (content["model_type"], content["num_hidden_layers"], content["hidden_size"]) == ("bert", 2, 32)


@pytest.mark.parametrize(
    "crd",
    [
        {"negatives": "in-batch", "negatives_gradient": True},
        {"negatives": "any", "k": "all", "bank_storage": "cpu", "bank_dtype": "float16"},
    ],
)
def test_other_negatives(here: Path, tmp_path: Path, crd: dict[str, Any]) -> None:
    run(here, tmp_path / "run", objectives={"crd": {**CRD, **crd}})
    assert all(entry["loss_crd"] >= 0 for entry in log(tmp_path / "run") if "loss_crd" in entry)


def test_a_head_for_an_encoder(here: Path, tmp_path: Path) -> None:
    student = {"model": str(here / "encoder")}
    result = run(
        here,
        tmp_path / "head",
        "mlm-head",
        teacher=None,
        student=student,
        training={"max_steps": 40, "global_batch_size": 8},
    )
    encoder = BertModel.from_pretrained(here / "encoder", add_pooling_layer=False).state_dict()
    trained = AutoModelForMaskedLM.from_pretrained(result.output)
    for name, tensor in trained.base_model.state_dict().items():
        assert torch.equal(tensor, encoder[name]), name
    before, after = (row.loss for row in result.table.rows)
    assert before is not None
    assert after is not None
    assert after < before
    # and now it is a teacher
    run(here, tmp_path / "run", "kd-pre", teacher=str(result.output))
    # training all of it changes the encoder
    whole = run(here, tmp_path / "whole", "mlm-head", teacher=None, student=student, trained="all")
    changed = AutoModelForMaskedLM.from_pretrained(whole.output).base_model.state_dict()
    assert not torch.equal(
        changed["encoder.layer.0.output.dense.weight"], encoder["encoder.layer.0.output.dense.weight"]
    )


def test_a_narrower_and_partly_frozen_student(here: Path, tmp_path: Path) -> None:
    console = quiet()
    changes = {"student": {"layers": 2, "width": 16, "freeze": ["embeddings"]}, "training": {"max_steps": 2}}
    pretrain(**settings(here, tmp_path / "run", **changes), console=console)
    words = "bert.embeddings.word_embeddings.weight"
    mine, teachers = (load_file(folder / "model.safetensors")[words] for folder in (tmp_path / "run", here / "teacher"))
    assert mine.shape == (teachers.shape[0], 16)
    assert all(bool((teachers == column[:, None]).all(dim=0).any()) for column in mine.T)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "16 of 32 dimensions" in said
    assert "parameters are never trained" in said


def test_evaluation_during_training(here: Path, tmp_path: Path) -> None:
    run(here, tmp_path / "run", "kd-pre", training={"eval_steps": 3})
    losses = [entry["eval_mlm_loss"] for entry in log(tmp_path / "run") if "eval_mlm_loss" in entry]
    assert len(losses) == 2
    run(here, tmp_path / "other", "kd-pre")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "other"))
    assert all(torch.equal(one[name], other[name]) for name in one), "an evaluation must not change the training"


def test_accumulation_changes_nothing_but_rounding(
    here: Path, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """The batch is what a step sees, however many blocks are computed at a time (dropout off)."""
    still_student(tmp_path / "student", tiny_tokenizer)
    for micro in (2, 8):
        run(
            here,
            tmp_path / f"micro{micro}",
            student={"model": str(tmp_path / "student")},
            training={"per_device_train_batch_size": micro, "logging_steps": 1},
        )
    for name in ("loss_mlm", "loss_kd", "loss_crd"):
        one, other = ([e[name] for e in log(tmp_path / f"micro{m}") if name in e] for m in (2, 8))
        assert one == pytest.approx(other, rel=1e-4)


# ---- stopped and resumed -------------------------------------------------------------------------------------------

POINTS: dict[str, Callable[[], None]] = {
    "in the middle": at_call(DistillationTrainer, "training_step", 7),
    "while a checkpoint is written": at_call(DistillationTrainer, "_save_rng_state", 2),
    "between the student and its marker": at_call(train_module, "write_json", 1),
    "while the table is made": at_call(module, "predict_masked", 2),
    "before the card is written": at_call(module, "run_card", 1),
}


def kept(here: Path, output: Path, **crd: Any) -> dict[str, Any]:
    return settings(here, output, objectives={"crd": {**CRD, **crd}}, training={"keep_checkpoints": True})


def assert_same(one: Path, other: Path) -> None:
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    kept = Path("checkpoints") / "checkpoint-6" / "objectives.safetensors"
    mine, theirs = load_file(one / kept), load_file(other / kept)
    assert mine.keys() == theirs.keys() >= {"crd.bank.data", "crd._extra_state"}
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert (one / "contrast.safetensors").read_bytes() == (other / "contrast.safetensors").read_bytes()
    assert [entry["step"] for entry in log(one)] == [entry["step"] for entry in log(other)]
    tables = [json.loads((run / "metrics.json").read_text())["scores"] for run in (one, other)]
    assert tables[0] == tables[1]


@pytest.fixture(scope="module")
def uninterrupted(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    pretrain(**kept(here, output), console=quiet())
    return output


@needs_fork
@pytest.mark.parametrize("point", POINTS)
def test_killed_in_the_second_stage_and_resumed(here: Path, tmp_path: Path, uninterrupted: Path, point: str) -> None:
    output = tmp_path / "run"

    def work() -> None:
        POINTS[point]()
        pretrain(**kept(here, output), console=quiet())

    assert forked(work) == -signal.SIGKILL
    pretrain(**kept(here, output), resume=True, console=quiet())
    assert_same(uninterrupted, output)


@needs_fork
def test_two_processes_on_one_folder_and_a_signal(here: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    long = settings(here, output, training={"max_steps": 100_000, "save_steps": 100_000})
    child = begin(lambda: pretrain(**long, console=quiet()))
    deadline = time.monotonic() + 60
    while not (output / "log.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(RunError, match=r"already holds a run|Another process"):
        pretrain(**long, console=quiet())
    os.kill(child, signal.SIGTERM)
    assert end(child) != 0
    assert json.loads((output / "run.json").read_text())["state"] == "interrupted"
    assert list((output / "checkpoints").glob("checkpoint-*"))


def test_resume_with_another_corpus(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(here / "corpus", tmp_path / "corpus")
    changed = settings(here, tmp_path / "run", corpus=str(tmp_path / "corpus"))

    def stop(*args: Any) -> None:
        raise InterruptedRunError("stop")

    monkeypatch.setattr(module, "train_and_publish", stop)
    with pytest.raises(InterruptedRunError):
        pretrain(**changed, console=quiet())
    shutil.rmtree(tmp_path / "corpus")
    build_corpus(
        [str(here / "text.txt")],
        str(here / "teacher"),
        tmp_path / "corpus",
        block=12,
        documents="line",
        workers=1,
    )
    with pytest.raises(RunError, match=r"corpus \(.*\): other blocks of text"):
        pretrain(**changed, resume=True, console=quiet())


def test_two_processes_from_the_command_line(
    here: Path, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """torchrun: the losses of one process, one model, one table, one message."""
    still_student(tmp_path / "student", tiny_tokenizer)
    given = settings(here, Path(), student={"model": str(tmp_path / "student")})
    given["training"]["logging_steps"] = 1
    del given["output"], given["recipe"]
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({"recipe": "codir-pre", **given}))
    command = ["-m", "codir", "pretrain", "--config", str(tmp_path / "my.yaml"), "--output"]
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d"]
    torchrun += ["--rdzv-endpoint", "localhost:0"]

    def start(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, check=False)

    two = start(*torchrun, *command, str(tmp_path / "two"))
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("Held-out masked tokens") == 1
    given["training"]["seed"] = 5
    pretrain(recipe="codir-pre", **given, output=tmp_path / "one", console=quiet())
    one, both = log(tmp_path / "one"), log(tmp_path / "two")
    for name in ("loss_mlm", "loss_kd", "loss_crd", "mlm_accuracy", "grad_norm"):
        expected = [entry[name] for entry in one if name in entry]
        assert len(expected) == 6
        assert [entry[name] for entry in both if name in entry] == pytest.approx(expected, rel=1e-4), name
    mine, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-3, atol=1e-4)

    again = start(*torchrun, *command, str(tmp_path / "two"))
    assert again.returncode != 0
    assert again.stderr.count("already holds a run") == 1


def test_what_runs_in_one_process_only_says_so(here: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"codir finetune runs in one.*codir pretrain"):
        finetune(model=str(here / "encoder"), data=world.data(), output=here / "never", console=quiet())
    with pytest.raises(ConfigError, match="codir distill runs in one"):
        distill(**world.settings(here / "never"), console=quiet())


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_what_is_refused_before_anything_is_computed(
    here: Path, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    def save(name: str, model: Any, tokenizer: Any = tiny_tokenizer) -> str:
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    words = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, mask_token="[MASK]", pad_token="[PAD]"
    )
    words.add_tokens(["entirely", "new"])
    other = save("other", BertForMaskedLM(config_of(tiny_tokenizer, vocab_size=len(words))), words)
    short = save("short", BertForMaskedLM(config_of(tiny_tokenizer, max_position_embeddings=8)))
    small = {"model_type": "bert", "vocab_size": 20, "hidden_size": 16, "num_attention_heads": 2}
    cases: list[tuple[type[CodirError], str, dict[str, Any]]] = [
        (ConfigError, "--recipe mlm-pre, which needs none", {"teacher": None}),
        (ModelError, "--recipe mlm-head", {"teacher": str(here / "encoder")}),
        (DataError, "does not exist", {"corpus": str(here / "corpsu")}),
        (DataError, "is no corpus", {"corpus": str(here / "teacher")}),
        (DataError, "fewer than one batch", {"training": {"global_batch_size": 4096}}),
        (
            ConfigError,
            "choose per_device_train_batch_size 3, or global_batch_size",
            {"training": {"global_batch_size": 9}},
        ),
        (ConfigError, "there is no other one", {"training": {"global_batch_size": 1}}),
        (ConfigError, "add --teacher", {"recipe": "mlm-pre", "teacher": None, "student": {"init": "last"}}),
        (ModelError, "deeper than its teacher", {"student": {"layers": 9}}),
        (ConfigError, "no labels", {"objectives": {"crd": {**CRD, "negatives": "different-label"}}}),
        (ConfigError, "`mlm` instead of `task`", {"objectives": {"task": {}}}),
        (
            ConfigError,
            "have different tokenizers, so KD over tokens is impossible",
            {"student": {"model": other}},
        ),
        (DataError, "was prepared with the tokenizer", {"teacher": other}),
        (ModelError, "--block 8", {"teacher": short}),
        (ConfigError, "vocabulary of 20", {"student": {"config": small}}),
    ]
    for error, message, changes in cases:
        with pytest.raises(error) as caught:
            run(here, tmp_path / "run", **changes)
        assert message in str(caught.value), caught.value
        assert not (tmp_path / "run" / "codir.yaml").exists(), "a refusal leaves the folder free"
