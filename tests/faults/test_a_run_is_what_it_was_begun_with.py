"""A run that is resumed goes on with the data and models it was begun with, or says what has changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_world import QUICK, codir, flags, refused, sentences, succeeded, write_csv
from transformers import PreTrainedTokenizerFast


def stop_early(*arguments: Any, output: Path, sign: str = "checkpoints/checkpoint-*") -> None:
    """Runs `codir` and interrupts it, as Ctrl-C does, as soon as `sign` lies in its output."""
    over = threading.Event()

    def interrupt() -> None:
        while not any(output.glob(sign)):
            if over.wait(0.005):
                return
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    try:
        done = codir(*arguments, "--output", output)
    finally:
        over.set()
        watcher.join()
    assert done.code == 130, done.text
    assert "--resume" in done.text
    assert json.loads((output / "run.json").read_text())["state"] == "interrupted"


class World:
    """A stopped fine-tuning, a stopped distillation and a finished run, and the files they were begun with."""

    def __init__(self, folder: Path, saved: Callable[..., Path]):
        self.folder = folder
        self.rows = sentences(48, seed=1)
        self.train = write_csv(folder / "train.csv", self.rows)
        self.dev = write_csv(folder / "dev.csv", sentences(16, seed=2))
        self.more = write_csv(folder / "more.csv", [{"text": row["text"]} for row in sentences(20, seed=3)])
        for name, seed in (("base", 0), ("teacher", 1), ("origin", 2)):
            saved(folder / name, layers=2, width=16, seed=seed)
        long = (*QUICK, *flags(train=self.train, validation=self.dev, epochs=8))
        student = flags(student_origin=folder / "origin", student_layers=1, cache_dir=folder / "cache")
        self.finetune = ("finetune", *long, *flags(model=folder / "base"))
        self.distill = (
            *("distill", *long, *student),
            *flags(recipe="kd", teacher=folder / "teacher", unlabeled=self.more),
        )
        stop_early(*self.finetune, output=folder / "run")
        # the second training, that of the comparison student, has begun
        stop_early(*self.distill, output=folder / "student", sign="comparison/*/checkpoints/checkpoint-*")
        shutil.copytree(folder / "run", folder / "finished")
        succeeded(*self.finetune, output=folder / "finished", resume=True)

    def copy(self, name: str, place: Path) -> Path:
        return Path(shutil.copytree(self.folder / name, place / name, dirs_exist_ok=True))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, saved: Callable[..., Path]) -> World:
    return World(tmp_path_factory.mktemp("world"), saved)


@pytest.fixture
def restored(world: World) -> Any:
    """Puts everything that the runs were begun with back after the test."""
    names = ("train.csv", "dev.csv", "more.csv", "base", "teacher", "origin")
    kept = world.folder / "kept"
    for name in names:
        path = world.folder / name
        kept.mkdir(exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, kept / name)
    yield
    for name in names:
        path = world.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        (kept / name).rename(path)


def flipped(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    other = {"negative": "positive", "positive": "negative"}
    return [{**row, "label": other[row["label"]]} for row in rows]


CHANGES: dict[str, tuple[Callable[[list[dict[str, str]]], list[dict[str, str]]], str]] = {
    "fewer rows": (lambda rows: rows[:-6], "48 examples then, 42 now"),
    "every label flipped": (flipped, "other labels"),
    "one label flipped": (lambda rows: [*flipped(rows[:1]), *rows[1:]], "other labels"),
    # the classes are numbered in the order of their names: the same rows, the same numbers
    "a class renamed": (
        lambda rows: [{**row, "label": row["label"].replace("negative", "negated")} for row in rows],
        "negated",
    ),
    "another order": (lambda rows: [*rows[2:], *rows[:2]], "another order"),
    # the tokenizer knows no capitals, so that the tokens are the same
    "a capital": (lambda rows: [{**rows[0], "text": rows[0]["text"].title()}, *rows[1:]], "other texts"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_finetune_refuses_other_training_data(world: World, tmp_path: Path, restored: None, change: str) -> None:
    # a finished run is not said to have the scores of other data, either
    run = world.copy("finished" if change == "every label flipped" else "run", tmp_path)
    rows, words = CHANGES[change]
    write_csv(world.train, rows(world.rows))
    if change == "a class renamed":
        write_csv(world.dev, rows(sentences(16, seed=2)))
    message = refused(*world.finetune, "--output", run, "--resume", leaves_nothing=run)
    assert words in message
    assert "training data" in message
    assert str(world.train) in message
    assert "--output" in message


def test_finetune_refuses_other_validation_data_and_another_model(
    world: World, tmp_path: Path, restored: None, tiny_classifier: Callable[..., Any]
) -> None:
    run = world.copy("run", tmp_path)
    write_csv(world.dev, sentences(16, seed=9))
    message = refused(*world.finetune, "--output", run, "--resume", leaves_nothing=run)
    assert "validation data" in message
    assert "training data" not in message
    write_csv(world.dev, sentences(16, seed=2))

    tiny_classifier(layers=2, width=16, seed=7).save_pretrained(world.folder / "base")
    message = refused(*world.finetune, "--output", run, "--resume", leaves_nothing=run)
    assert f"model to fine-tune ({world.folder / 'base'}): other weights" in message


def test_finetune_refuses_another_tokenizer(world: World, tmp_path: Path, restored: None) -> None:
    run = world.copy("run", tmp_path)
    path = world.folder / "base" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    path.write_text(json.dumps(content))
    assert "tokenizer" in refused(*world.finetune, "--output", run, "--resume", leaves_nothing=run)


def test_distill_refuses_what_its_models_and_texts_are_no_longer(
    world: World, tmp_path: Path, restored: None, tiny_classifier: Callable[..., Any]
) -> None:
    run = world.copy("student", tmp_path)
    again = (*world.distill, "--output", run, "--resume")

    write_csv(world.train, flipped(world.rows))
    assert "training data" in refused(*again, leaves_nothing=run)
    write_csv(world.train, world.rows)

    texts = [{"text": row["text"]} for row in sentences(19, seed=3)]
    write_csv(world.more, texts)
    message = refused(*again, leaves_nothing=run)
    assert "texts without labels" in message
    assert "20 examples then, 19 now" in message
    write_csv(world.more, [{"text": row["text"]} for row in sentences(20, seed=3)])

    for name, whose in (("teacher", "teacher"), ("origin", "student's origin")):
        weights = world.folder / name / "model.safetensors"
        before = weights.read_bytes()
        tiny_classifier(layers=2, width=16, seed=8).save_pretrained(world.folder / name)
        assert f"{whose} ({world.folder / name}): other weights" in refused(*again, leaves_nothing=run)
        weights.write_bytes(before)

    # the teacher's outputs with the other names: what was 0.9 positive is 0.9 negative
    config = world.folder / "teacher" / "config.json"
    content = json.loads(config.read_text())
    content["id2label"] = {"0": "positive", "1": "negative"}
    content["label2id"] = {"positive": 0, "negative": 1}
    config.write_text(json.dumps(content))
    assert "config.json" in refused(*again, leaves_nothing=run)


def test_what_is_as_it_was_goes_on_and_may_have_been_moved(world: World, tmp_path: Path) -> None:
    run = world.copy("student", tmp_path)
    for name in ("train.csv", "dev.csv", "more.csv"):
        shutil.copy2(world.folder / name, tmp_path / name)
    for name in ("teacher", "origin"):
        shutil.copytree(world.folder / name, tmp_path / "models" / name)
    # what a newer library would write, and what no answer depends on
    config = tmp_path / "models" / "teacher" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "transformers_version": "99.0"}))
    student = flags(student_origin="models/origin", student_layers=1, cache_dir="elsewhere")
    done = succeeded(
        *("distill", *QUICK, *student, "--resume"),
        **{"train": "train.csv", "validation": "dev.csv", "epochs": 8, "recipe": "kd", "output": "student"},
        **{"teacher": "models/teacher", "unlabeled": "more.csv"},
        cwd=tmp_path,
    )
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    assert "changed" not in done.text
    # from here on the run knows where its data are now
    assert f"train: {world.train}" not in (run / "codir.yaml").read_text()


def test_other_settings_are_still_refused(world: World, tmp_path: Path) -> None:
    run = world.copy("run", tmp_path)
    message = refused(*world.finetune, "--seed", "5", "--output", run, "--resume", leaves_nothing=run)
    assert "training.seed" in message


def test_a_finished_run_gives_its_results_for_its_own_data_model_and_settings_alone(
    world: World, tmp_path: Path, saved: Callable[..., Path]
) -> None:
    run = world.copy("finished", tmp_path)
    again = (*world.finetune, *flags(output=run, resume=True))
    message = refused(*again, model=saved(layers=2, width=16, seed=7), leaves_nothing=run)
    assert "other weights" in message
    message = refused(*again, learning_rate=0.5, leaves_nothing=run)
    assert "training.learning_rate" in message
    assert "0.5 now" in message
    moved = Path(shutil.copy(world.train, tmp_path / "moved.csv"))
    assert "nothing to resume" in succeeded(*again, train=moved).text
    moved.unlink()
    assert "gone.csv" in refused(*again, train=tmp_path / "gone.csv")
    hidden = world.train.rename(tmp_path / "hidden.csv")  # data that are gone are no hindrance
    try:
        assert "nothing to resume" in succeeded(*again).text
    finally:
        hidden.rename(world.train)


def test_a_study_does_not_go_on_with_other_data(world: World, tmp_path: Path) -> None:
    train, study = Path(shutil.copy(world.train, tmp_path / "train.csv")), tmp_path / "study.yaml"
    content = {
        "recipes": ["finetune"],
        "tasks": {"toy": {"train": str(train), "validation": str(world.dev), "max_length": 16}},
        "teachers": {"toy": str(world.folder / "finished")},
        "students": {"one": {"layers": 1}},
        "seeds": [1],
        "training": {"max_steps": 1, "per_device_train_batch_size": 8, "precision": "fp32"},
        "workers": 0,
    }
    study.write_text(json.dumps(content))
    command = ["study", study, "--output", tmp_path / "out"]
    succeeded(*command)
    succeeded(*command, "--resume")
    write_csv(train, world.rows[:16])
    message = refused(*command, "--resume", leaves_nothing=tmp_path / "out")
    assert "training data" in message
    assert "48 examples then, 16 now" in message


def test_a_damaged_fingerprint_is_said_to_be_one(world: World, tmp_path: Path) -> None:
    run = world.copy("run", tmp_path)
    for content in ("[]", '{"parts": 5}', "", '{"parts": {"training data": 3}}'):
        (run / "fingerprint.json").write_text(content)
        assert "fingerprint.json" in refused(*world.finetune, "--output", run, "--resume", leaves_nothing=run)


def test_pretraining_refuses_other_models(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, tiny_classifier: Callable[..., Any]
) -> None:
    from transformers import BertForMaskedLM

    def save(name: str, seed: int) -> None:
        encoder = tiny_classifier(layers=2, width=16, seed=seed)
        BertForMaskedLM(encoder.config).save_pretrained(tmp_path / name)
        tiny_tokenizer.save_pretrained(tmp_path / name)

    save("teacher", 0)
    lines = [row["text"] for row in sentences(300, seed=4)]
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
    teacher, corpus = tmp_path / "teacher", tmp_path / "corpus"
    making = flags(tokenizer=teacher, output=corpus, block=16, documents="line", workers=1)
    succeeded("corpus", tmp_path / "text.txt", *making)
    command = (
        *("pretrain", *flags(corpus=corpus, teacher=teacher, recipe="kd-pre", steps=30, batch_size=8)),
        *flags(precision="fp32", student_layers=1, set="training.save_steps=5"),
    )
    run = tmp_path / "run"
    stop_early(*command, output=run)
    before = (tmp_path / "teacher" / "model.safetensors").read_bytes()
    save("teacher", 1)
    message = refused(*command, "--output", run, "--resume", leaves_nothing=run)
    assert f"teacher ({tmp_path / 'teacher'}): other weights" in message
    (tmp_path / "teacher" / "model.safetensors").write_bytes(before)
    assert succeeded(*command, "--output", run, "--resume").code == 0
