"""Classes that have names are matched by name, whatever their order: data, teacher and student, files and Python."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from fault_world import QUICK, flags, refused, sentences, succeeded
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

import codir

SEED = 19  # of a teacher that gives each of its answers to some of the texts
NAMES = ["zeta", "alpha", "mid"]  # in no order that anybody would sort into


@pytest.fixture(scope="module")
def teacher(saved: Callable[..., Path]) -> Path:
    """Returns a random teacher of the three classes, in an order of its own."""
    return saved(layers=2, labels=("mid", "zeta", "alpha"), seed=SEED)


@pytest.fixture(scope="module")
def answered(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Returns texts with the classes that the teacher gives them: by name it is always right."""
    folder = tmp_path_factory.mktemp("answers")
    texts, output = folder / "texts.txt", folder / "answers.jsonl"
    rows = [{"text": row["text"]} for row in sentences(40, seed=3)]
    texts.write_text("".join(row["text"] + "\n" for row in rows))
    succeeded("predict", teacher, "--input", texts, "--output", output)
    for row, line in zip(rows, output.read_text().splitlines(), strict=True):
        row["label"] = json.loads(line)["label"]
    assert {row["label"] for row in rows} == set(NAMES)
    return rows


def as_dataset(rows: list[dict[str, str]], names: list[str], column: str = "label") -> datasets.Dataset:
    """Returns rows as a data set whose classes have names, in this order."""
    features = datasets.Features({"text": datasets.Value("string"), column: datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict(
        {"text": [row["text"] for row in rows], column: [names.index(row["label"]) for row in rows]},
        features=features,
    )


def parquet(path: Path, rows: list[dict[str, str]], names: list[str]) -> Path:
    """Writes them as `datasets` does."""
    as_dataset(rows, names).to_parquet(path)
    return path


def ids_of(folder: Path) -> dict[str, str]:
    """Returns a model's class names by id."""
    return json.loads((folder / "config.json").read_text())["id2label"]


# ---- the command line ----------------------------------------------------------------------------------------------


def test_parquet_with_named_classes_is_scored_and_taught_by_name(
    tmp_path: Path, teacher: Path, answered: list[dict[str, str]]
) -> None:
    dev = parquet(tmp_path / "dev.parquet", answered, NAMES)
    assert "1.0000" in succeeded("evaluate", teacher, "--validation", dev).text
    train, run = parquet(tmp_path / "train.parquet", answered, NAMES[::-1]), tmp_path / "run"
    given = flags(train=train, validation=dev, student_layers=1, cache_dir=tmp_path / "cache", recipe="kd")
    done = succeeded("distill", *given, *QUICK, teacher=teacher, output=run)
    table = next(line for line in done.out.splitlines() if "teacher" in line and "1.0000" in line)
    assert "0.0000" not in table
    assert ids_of(run) == ids_of(teacher)


def test_a_model_has_the_order_of_the_file_and_other_files_follow_by_name(
    tmp_path: Path, tiny_model_dir: Callable[..., Path], answered: list[dict[str, str]]
) -> None:
    train = parquet(tmp_path / "train.parquet", answered, NAMES)
    dev = parquet(tmp_path / "dev.parquet", answered, NAMES[::-1])
    text = tmp_path / "dev.jsonl"
    text.write_text("".join(json.dumps(row) + "\n" for row in answered))
    run = tmp_path / "run"
    succeeded("finetune", *QUICK, model=tiny_model_dir(layers=1), train=train, validation=dev, output=run)
    assert list(ids_of(run).values()) == NAMES
    scores = [succeeded("evaluate", run, "--validation", each).text.split()[-2:] for each in (dev, text, train)]
    assert scores[0] == scores[1] == scores[2]


def test_a_model_without_names_takes_the_order_of_the_file_and_that_is_said(
    tmp_path: Path, tiny_model_dir: Callable[..., Path], answered: list[dict[str, str]]
) -> None:
    dev = parquet(tmp_path / "dev.parquet", answered, ["mid", "zeta", "alpha"])
    unnamed = tiny_model_dir(layers=2, labels=("LABEL_0", "LABEL_1", "LABEL_2"), seed=SEED)
    with pytest.warns(UserWarning, match="matched by order: mid = LABEL_0"):
        assert "1.0000" in succeeded("evaluate", unnamed, "--validation", dev).text


def test_named_classes_that_a_model_lacks_are_refused(
    tmp_path: Path, teacher: Path, answered: list[dict[str, str]], tiny_model_dir: Callable[..., Path]
) -> None:
    other = parquet(tmp_path / "other.parquet", answered, [*NAMES, "more"])
    given = flags(train=other, validation=other, student_layers=1, output=tmp_path / "run")
    message = refused("distill", *given, *QUICK, teacher=teacher, leaves_nothing=tmp_path / "run")
    assert "'more'" in message
    twice = parquet(tmp_path / "twice.parquet", answered, [*NAMES, "Mid"])
    given = ["--train", twice, "--output", tmp_path / "run", *QUICK]
    message = refused("finetune", *given, model=tiny_model_dir(layers=1), leaves_nothing=tmp_path / "run")
    assert "'mid' and 'Mid'" in message
    assert str(twice) in message


# ---- Python --------------------------------------------------------------------------------------------------------


def tokenised(data: datasets.Dataset, tokenizer: PreTrainedTokenizerFast) -> datasets.Dataset:
    """Returns examples as everybody makes them, with `Dataset.map`."""
    return data.map(lambda rows: tokenizer(rows["text"]), batched=True)


def in_order(model: Any, names: list[str]) -> Any:
    """Returns a copy of a classifier that answers the same and numbers its classes in another order."""
    made = copy.deepcopy(model)
    order = [model.config.label2id[name] for name in names]
    made.classifier.weight.data = model.classifier.weight.data[order].clone()
    made.classifier.bias.data = model.classifier.bias.data[order].clone()
    made.config.id2label = dict(enumerate(names))
    made.config.label2id = {name: number for number, name in enumerate(names)}
    return made


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((np.argmax(prediction.predictions, -1) == prediction.label_ids).mean())}


def trainer_of(tmp_path: Path, student: Any, teacher: Any, examples: Any, tokenizer: Any, **more: Any) -> Any:
    """Returns a trainer that changes nothing: its first losses say what the student is trained against."""
    arguments = codir.DistillationArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        learning_rate=0.0,
        logging_steps=1,
        per_device_train_batch_size=40,
        use_cpu=True,
        save_strategy="no",
        cache_folder=str(tmp_path / "cache"),
        cache_teacher=more.pop("cache_teacher", True),
    )
    return codir.DistillationTrainer(
        student=student,
        objectives={"task": {}, "kd": {"weight": 1.0}},
        args=arguments,
        train_dataset=examples,
        eval_dataset=more.pop("evaluation", examples),
        processing_class=tokenizer,
        teacher=teacher,
        compute_metrics=accuracy,
        **more,
    )


def losses(trainer: Any) -> dict[str, float]:
    trainer.train()
    return next(entry for entry in trainer.state.log_history if "loss_kd" in entry)


@pytest.fixture
def models(teacher: Path) -> Any:
    """Returns the teacher's model without dropout, so that what it says in training is what it says."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    for module in model.modules():
        if module.__class__.__name__ == "Dropout":
            module.p = 0.0
    return model


@pytest.mark.parametrize("order", [["alpha", "mid", "zeta"]])
@pytest.mark.parametrize("how", ["labels", "label", "frozen", "live", "shuffled", "other evaluation"])
def test_the_trainer_matches_data_student_and_teacher_by_name(
    tmp_path: Path,
    models: Any,
    answered: list[dict[str, str]],
    tiny_tokenizer: PreTrainedTokenizerFast,
    order: list[str],
    how: str,
) -> None:
    """A student that answers as the teacher does has no KD loss, and data labelled by it have no mistakes."""
    column = "labels" if how == "labels" else "label"
    examples = tokenised(as_dataset(answered, NAMES, column), tiny_tokenizer)
    evaluation: Any = examples
    if how == "shuffled":
        evaluation = examples = examples.shuffle(seed=1)
    if how == "other evaluation":
        evaluation = {"dev": tokenised(as_dataset(answered, NAMES[::-1]), tiny_tokenizer)}
    given = codir.FrozenTeacher(models) if how == "frozen" else copy.deepcopy(models)
    trainer = trainer_of(
        tmp_path,
        in_order(models, order),
        given,
        examples,
        tiny_tokenizer,
        evaluation=evaluation,
        cache_teacher=how != "live",
    )
    found = trainer.evaluate()
    assert found["eval_dev_accuracy" if how == "other evaluation" else "eval_accuracy"] == 1.0
    assert losses(trainer)["loss_kd"] < 1e-6


def test_the_pattern_of_the_readme_is_right_for_a_teacher_of_another_order(
    tmp_path: Path, tiny_classifier: Callable[..., Any], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    from codir.data.encoding import encode

    data = codir.load_task("acceptability", train_size=30, validation_size=2)
    labels = list(data.train["label"])
    few = [row for row, label in enumerate(labels) if label == 1][:5]  # classes of unlike size: no two mistakes cancel
    split = data.train.select([*(row for row, label in enumerate(labels) if label == 0), *few])
    teacher = tiny_classifier(labels=("acceptable", "unacceptable"), layers=2, seed=1)
    inputs = tiny_tokenizer(list(split["text"]), padding=True, return_tensors="pt")
    answers = [teacher.config.id2label[number] for number in teacher(**inputs).logits.argmax(-1).tolist()]
    right = [answer == data.task.labels[label] for answer, label in zip(answers, split["label"], strict=True)]
    assert 2 * sum(right) != len(right)  # or it would be as often right the other way round
    student = codir.build_student(teacher, layers=2)  # all of the teacher: it answers as that does
    trainer = trainer_of(tmp_path, student, teacher, encode(split, tiny_tokenizer), tiny_tokenizer)
    assert trainer.evaluate()["eval_accuracy"] == pytest.approx(sum(right) / len(right))


def test_an_order_that_was_given_holds(
    tmp_path: Path, models: Any, answered: list[dict[str, str]], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    examples = tokenised(as_dataset(answered, NAMES), tiny_tokenizer)
    given = codir.FrozenTeacher(models, logit_order=[models.config.label2id[name] for name in NAMES])
    trainer = trainer_of(tmp_path, in_order(models, ["alpha", "mid", "zeta"]), given, examples, tiny_tokenizer)
    assert losses(trainer)["loss_kd"] < 1e-6


def test_labels_without_names_are_refused_where_they_could_mean_two_things(
    tmp_path: Path, models: Any, answered: list[dict[str, str]], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    named = tokenised(as_dataset(answered, NAMES, "labels"), tiny_tokenizer)
    numbers = named.cast_column("labels", datasets.Value("int64"))
    with pytest.raises(Exception, match="ClassLabel") as caught:
        trainer_of(tmp_path, in_order(models, NAMES), models, numbers, tiny_tokenizer)
    assert "mid, zeta, alpha" in str(caught.value)
    texts = named.map(lambda row: {"name": NAMES[row["labels"]]}).remove_columns("labels")
    with pytest.raises(Exception, match="class_encode_column"):
        trainer_of(tmp_path, models, models, texts.rename_column("name", "labels"), tiny_tokenizer)
    unknown = tokenised(as_dataset(answered, [*NAMES, "more"]), tiny_tokenizer)
    with pytest.raises(Exception, match="'more'"):
        trainer_of(tmp_path, models, models, unknown, tiny_tokenizer)
    # one order, known by both models, is taken for the data's
    assert trainer_of(tmp_path, copy.deepcopy(models), models, numbers, tiny_tokenizer) is not None


def test_labels_that_the_student_has_no_output_for(
    tmp_path: Path, models: Any, answered: list[dict[str, str]], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Numbers without names, as in many data sets: before anything is computed, and not where the loss meets them."""
    examples = tokenised(as_dataset(answered, ["mid", "zeta", "alpha"]), tiny_tokenizer)
    plain = examples.cast_column("label", datasets.Value("int64"))
    for shift, words in ((1, "holds 3 in row"), (-1, "holds -1 in row")):  # counted from one; -1 for "none"
        wrong = plain.map(lambda row, shift=shift: {"label": row["label"] + shift})
        for train, evaluation in ((wrong, None), (plain, wrong)):
            with pytest.raises(Exception, match=words) as caught:
                trainer_of(tmp_path, models, models, train, tiny_tokenizer, evaluation=evaluation)
            assert "0 to 2" in str(caught.value)
    some = plain.map(lambda row, number: {"label": row["label"] if number % 2 else -100}, with_indices=True)
    assert trainer_of(tmp_path, models, models, some, tiny_tokenizer)  # none is -100
    floats = plain.cast_column("label", datasets.Value("float32"))
    with pytest.raises(Exception, match=r"fraction.*cast_column\('labels', datasets.Value\('int64'\)\)"):
        trainer_of(tmp_path, models, models, floats, tiny_tokenizer)


def test_what_is_no_model_no_examples_no_collator(
    tmp_path: Path, models: Any, answered: list[dict[str, str]], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    from codir.data.encoding import encode

    rows = as_dataset(answered, NAMES)
    examples = tokenised(rows, tiny_tokenizer)
    with pytest.raises(Exception, match="'runs/teacher', not a model: load it"):
        trainer_of(tmp_path, models, "runs/teacher", examples, tiny_tokenizer)
    with pytest.raises(Exception, match=r"IterableDataset, not a datasets\.Dataset"):
        trainer_of(tmp_path, models, models, examples.to_iterable_dataset(), tiny_tokenizer)
    collator = DataCollatorWithPadding(tiny_tokenizer)
    with pytest.raises(Exception, match=r"DataCollatorWithPadding .*leave it out"):
        trainer_of(tmp_path, models, models, examples, tiny_tokenizer, data_collator=collator)
    texts = rows.map(lambda row: {"name": NAMES[row["label"]]}).remove_columns("label")
    with pytest.raises(Exception, match=r"class_encode_column\('label'\)"):
        encode(texts.rename_column("name", "label"), tiny_tokenizer)
