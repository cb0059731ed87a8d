"""Whatever runs a trained model reads texts as its training did: length, columns, pairs; only flags say otherwise."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fault_world import BAD, GOOD, QUICK, codir, flags, refused, succeeded, write_csv

_FILLER = ["the", "a", "one", "two", "this", "that", "film", "book", "song", "is", "was", "in", "on"]
LENGTH = 8


def reviews(count: int, seed: int) -> list[dict[str, str]]:
    """Returns texts whose first six words tell the class, and whose end, which is cut off, tells the other one."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        right, wrong = (GOOD, BAD) if number % 2 else (BAD, GOOD)
        words = [*draw.choices(_FILLER, k=3), draw.choice(right), *draw.choices(_FILLER, k=2)]
        end = [draw.choice(wrong) for _ in range(24)]
        rows.append({"review": " ".join([*words, *end]), "stars": "up" if number % 2 else "down"})
    return rows


def questions(count: int, seed: int) -> list[dict[str, str]]:
    """Returns pairs of texts, of which the second one alone tells the class."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        first = " ".join(draw.choices(_FILLER, k=4))
        second = " ".join([*draw.choices(_FILLER, k=2), draw.choice(GOOD if number % 2 else BAD)])
        rows.append({"question": first, "answer": second, "verdict": "yes" if number % 2 else "no"})
    return rows


class World:
    def __init__(self, folder: Path, base: Path):
        self.folder, self.base = folder, base
        self.dev = write_csv(folder / "dev.csv", reviews(32, seed=2))
        self.pairs_dev = write_csv(folder / "pairs.csv", questions(32, seed=4))
        train = write_csv(folder / "train.csv", reviews(96, seed=1))
        pairs_train = write_csv(folder / "pairs-train.csv", questions(96, seed=3))
        self.single, self.pair, self.student = (folder / name for name in ("single", "pair", "student"))
        common = ("finetune", *QUICK, *flags(model=base, epochs=3, learning_rate="2e-2"))
        data = flags(train=train, validation=self.dev, text="review", label="stars", max_length=LENGTH)
        succeeded(*common, *data, output=self.single, set="training.keep_checkpoints=true")
        pairs = flags(train=pairs_train, validation=self.pairs_dev, text="question", text_pair="answer")
        succeeded(*common, *pairs, label="verdict", max_length=16, output=self.pair)
        few = flags(teacher=self.single, recipe="kd", student_layers=1, cache_dir=folder / "cache")
        succeeded("distill", *few, *QUICK, *data, output=self.student)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, model: Path) -> World:
    return World(tmp_path_factory.mktemp("world"), model)


def score(*arguments: Any) -> float:
    """Returns the accuracy that `codir evaluate` shows for the validation split."""
    said = succeeded("evaluate", *arguments).text
    found = re.search(r"validation\D+\d+\D+([01]\.\d{4})", said)
    assert found is not None, said
    return float(found[1])


def of_run(run: Path) -> float:
    return round(json.loads((run / "metrics.json").read_text())["metrics"]["accuracy"], 4)


def predicted(model: Path, file: Path, output: Path, *more: Any) -> list[str]:
    succeeded("predict", model, "--input", file, "--output", output, *more)
    return [json.loads(line)["label"] for line in output.read_text().splitlines()]


def right(labels: Sequence[str], expected: Sequence[str]) -> float:
    return round(sum(map(str.__eq__, labels, expected)) / len(expected), 4)


def test_evaluate_and_predict_give_the_run_s_own_score(world: World, tmp_path: Path) -> None:
    own = of_run(world.single)
    assert own > 0.9  # else the rest says nothing
    assert score(world.single, "--validation", world.dev) == own
    stars = [row["stars"] for row in reviews(32, seed=2)]
    assert right(predicted(world.single, world.dev, tmp_path / "a.jsonl"), stars) == own
    # a flag wins
    assert score(world.single, "--validation", world.dev, "--max-length", "64") < own
    assert right(predicted(world.single, world.dev, tmp_path / "b.jsonl", "--max-length", "64"), stars) < own


def test_what_is_taken_from_the_run_is_said_in_a_line(world: World, tmp_path: Path) -> None:
    done = succeeded("evaluate", world.single, "--validation", world.dev, "--label", "stars")
    (line,) = [line for line in done.out.splitlines() if line.startswith("As in ")]
    assert str(world.single / "codir.yaml") in line
    assert f"cut at {LENGTH} tokens" in line
    assert "'review'" in line
    assert "stars" not in line  # it was given
    done = succeeded(
        "predict", world.single, input=world.dev, output=tmp_path / "p.jsonl", text="review", max_length="16"
    )
    assert "As in" not in done.text  # everything was given


def test_pairs_are_read_as_pairs(world: World, tmp_path: Path) -> None:
    own = of_run(world.pair)
    assert own > 0.9
    assert score(world.pair, "--validation", world.pairs_dev) == own
    verdicts = [row["verdict"] for row in questions(32, seed=4)]
    for number, more in enumerate([(), ("--text", "question"), ("--text-pair", "answer")]):
        labels = predicted(world.pair, world.pairs_dev, tmp_path / f"{number}.jsonl", *more)
        assert right(labels, verdicts) == own


def test_single_texts_for_a_model_of_pairs_are_refused(world: World, tmp_path: Path) -> None:
    alone = write_csv(tmp_path / "alone.csv", [{"question": "is it", "verdict": word} for word in ("yes", "no") * 8])
    output = tmp_path / "out.jsonl"
    message = refused("predict", world.pair, "--input", alone, "--output", output, "--text", "question")
    assert "trained on pairs" in message
    assert "'answer'" in message
    assert "--text-pair" in message
    assert "trained on pairs" in refused("evaluate", world.pair, "--validation", alone)

    lines = tmp_path / "lines.txt"
    lines.write_text("is this good\n")
    message = refused("predict", world.pair, "--input", lines, "--output", output)
    assert "trained on pairs" in message
    assert not output.exists()

    assert "trained on pairs" in refused("evaluate", world.pair, "--task", "acceptability")
    assert "trained on pairs" in refused(
        *("distill", "--teacher", world.pair, "--train", alone, "--text", "question", "--label", "verdict"),
        *("--output", tmp_path / "student", *QUICK),
        leaves_nothing=tmp_path / "student",
    )


def test_pairs_for_a_model_of_single_texts_are_refused(world: World, tmp_path: Path) -> None:
    two = write_csv(tmp_path / "two.csv", [{"review": "good", "more": "bad", "stars": "up"}] * 4)
    output = tmp_path / "out.jsonl"
    message = refused("predict", world.single, "--input", two, "--output", output, "--text-pair", "more")
    assert "trained on single texts" in message
    assert "trained on single texts" in refused("evaluate", world.single, validation=two, text_pair="more")
    # the second text of GLUE's MRPC is there whatever the flags say
    message = refused("submit", models=f"mrpc={world.single}", data_dir=tmp_path, output="s.zip")
    assert "trained on single texts" in message
    assert len(predicted(world.single, two, output)) == 4  # a column that nobody asked for is no pair


def test_files_with_the_usual_columns_are_read_too(world: World, tmp_path: Path) -> None:
    rows = [{"text": row["review"], "label": row["stars"]} for row in reviews(32, seed=2)]
    usual = write_csv(tmp_path / "usual.csv", rows)
    assert score(world.single, "--validation", usual) == of_run(world.single)
    assert len(predicted(world.single, usual, tmp_path / "out.jsonl")) == 32
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"{row['text']}\n" for row in rows))
    stars = [row["label"] for row in rows]
    assert right(predicted(world.single, lines, tmp_path / "l.jsonl"), stars) == of_run(world.single)
    # neither the run's column nor the usual one
    other = write_csv(tmp_path / "other.csv", [{"opinion": row["text"]} for row in rows])
    message = refused("predict", world.single, "--input", other, "--output", tmp_path / "o.jsonl")
    assert "'review'" in message
    assert "'opinion'" in message


def test_the_encoding_is_that_of_the_run_where_the_file_is_not_utf_8(world: World, tmp_path: Path) -> None:
    rows = [{**row, "review": f"{row['review']} caf\u00e9"} for row in reviews(48, seed=5)]
    format = {"encoding": "cp1252", "delimiter": ";"}
    train = write_csv(tmp_path / "train.csv", rows, **format)
    run = tmp_path / "run"
    columns = flags(text="review", label="stars", encoding="cp1252", delimiter=";")
    succeeded("finetune", *columns, *QUICK, model=world.base, train=train, output=run)
    said = succeeded("evaluate", run, "--validation", train, "--delimiter", ";").text
    assert "encoding 'cp1252'" in said
    output = tmp_path / "out.jsonl"
    succeeded("predict", run, "--input", train, "--output", output, "--delimiter", ";")
    assert "caf\u00e9" in json.loads(output.read_text(encoding="utf-8").splitlines()[0])["text"]
    # the same rows as most files are: read as such, and not as the run's
    for name, more in (("a.csv", {}), ("c.tsv", {"delimiter": "\t"})):
        usual = write_csv(tmp_path / name, rows, **more)
        succeeded("predict", run, "--input", usual, "--output", output, "--overwrite")
        assert "caf\u00e9" in json.loads(output.read_text(encoding="utf-8").splitlines()[0])["text"]
    lines = tmp_path / "lines.txt"
    for encoding in ("utf-8", "cp1252"):
        lines.write_text("a caf\u00e9\n", encoding=encoding)
        succeeded("predict", run, "--input", lines, "--output", output, "--overwrite")
        assert json.loads(output.read_text(encoding="utf-8"))["text"] == "a caf\u00e9"
    assert "add --delimiter ';'" in refused("evaluate", run, "--validation", train)


def test_a_run_that_was_moved_its_checkpoints_and_comparison_students_know_it(world: World, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(world.single, tmp_path / "moved"))
    assert score(moved, "--validation", world.dev) == of_run(world.single)
    checkpoints = sorted((moved / "checkpoints").glob("checkpoint-*"))
    alone = Path(shutil.copytree(world.student / "comparison" / "finetune", tmp_path / "alone"))
    for model in (checkpoints[-1], world.student / "comparison" / "finetune", alone):
        said = succeeded("evaluate", model, "--validation", world.dev).text
        assert f"longer than {LENGTH} tokens" in said
        assert "'review'" in said
    inside = codir("evaluate", "finetune", "--validation", world.dev, cwd=world.student / "comparison")
    assert inside.code == 0, inside.text
    assert f"longer than {LENGTH} tokens" in inside.text


def test_an_export_knows_it_on_another_machine(world: World, tmp_path: Path) -> None:
    home = Path(shutil.copytree(world.pair, tmp_path / "home" / "run"))
    export = tmp_path / "export"
    succeeded("export", home, "--format", "torch-bf16", "--no-data", "--output", export)
    shutil.rmtree(tmp_path / "home")
    assert json.loads((export / "deployment.json").read_text())["max_length"] == 16
    said = succeeded("evaluate", export, "--validation", world.pairs_dev).text
    assert "'question' and 'answer'" in said
    assert "cut at 16 tokens" in said
    alone = write_csv(tmp_path / "alone.csv", [{"question": "is this good"}] * 4)
    assert "trained on pairs" in refused(
        "predict", export, "--input", alone, "--output", tmp_path / "out.jsonl", "--text", "question"
    )


def test_export_and_latency_read_named_files_as_the_run_did(world: World, tmp_path: Path) -> None:
    shutil.copy2(world.dev, tmp_path / "other.csv")
    export = tmp_path / "export"
    succeeded(
        *("export", world.single, "--format", "torch-bf16", "--validation", tmp_path / "other.csv"),
        *("--output", export, "--max-drop", "100", "--min-agreement", "0"),
    )
    manifest = json.loads((export / "deployment.json").read_text())
    assert manifest["max_length"] == LENGTH
    assert round(manifest["metrics_before"]["validation"]["accuracy"], 4) == of_run(world.single)
    quick = flags(batch=4, sequences=4, rounds=1, no_memory=True, output=tmp_path / "latency.json")
    said = succeeded("latency", world.single, *quick, validation=tmp_path / "other.csv").text
    assert json.loads((tmp_path / "latency.json").read_text())["conditions"]["max_length"] == LENGTH
    assert f"cut at {LENGTH} tokens" in said


def test_a_model_made_elsewhere_says_nothing(world: World, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(world.single, elsewhere, ignore=shutil.ignore_patterns("codir.yaml", "checkpoints", "*.json"))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy2(world.single / name, elsewhere / name)
    flags = ("--text", "review", "--label", "stars")
    said = succeeded("evaluate", elsewhere, "--validation", world.dev, *flags)
    assert "As in" not in said.text
    assert score(elsewhere, "--validation", world.dev, *flags) == score(
        world.single, "--validation", world.dev, "--max-length", "64"
    )
    assert "'text'" in refused("predict", elsewhere, "--input", world.dev, "--output", tmp_path / "out.jsonl")


def test_a_damaged_configuration_is_said_to_be_one(world: World, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(world.single, tmp_path / "moved"))
    (moved / "codir.yaml").write_text("data: [1,")
    said = succeeded("evaluate", moved, validation=world.dev, text="review", label="stars").text
    assert "damaged" in said
    assert "codir.yaml" in said
