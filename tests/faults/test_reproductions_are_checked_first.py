"""`codir reproduce` finds what cannot be trained before it trains anything."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from fault_world import flags, refused, sentences, succeeded


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns CoLA and RTE in GLUE's own format, 40 training examples each."""
    folder = tmp_path_factory.mktemp("glue")
    rows = sentences(40, seed=3, labels=("0", "1"), pairs=True)
    (folder / "CoLA").mkdir()
    (folder / "RTE").mkdir()
    for split in ("train", "dev"):
        (folder / "CoLA" / f"{split}.tsv").write_text(
            "\n".join(f"x\t{row['label']}\t\t{row['text']}" for row in rows) + "\n"
        )
        pairs = [
            f"{number}\t{row['text']}\t{row['text_pair']}\t{('entailment', 'not_entailment')[int(row['label'])]}"
            for number, row in enumerate(rows)
        ]
        (folder / "RTE" / f"{split}.tsv").write_text("\n".join(["index\tsentence1\tsentence2\tlabel", *pairs]) + "\n")
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    words = random.Random(0)
    lines = [" ".join(words.choices(["the", "film", "dog", "good", "bad", "sees"], k=30)) + "." for _ in range(40)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("table", "scale", "more", "k"),
    [
        ("table2", "small", (), "500"),  # the recipe's own K
        ("table5", "small", (), "500"),
        ("table4", "small", (), "1000"),  # a row of the table
        ("table1", "paper", ("--tasks", "rte"), "100"),  # a point of the search, which comes last
        ("table2", "small", ("--set", "study.settings={codir-fine: {objectives.crd.k: 41}}"), "41"),
    ],
)
def test_more_negatives_than_examples_are_refused_before_pretraining(
    tmp_path: Path,
    glue: Path,
    text: Path,
    tiny_model_dir: Any,
    table: str,
    scale: str,
    more: tuple[str, ...],
    k: str,
) -> None:
    message = refused(
        "reproduce",
        table,
        "--model",
        tiny_model_dir(),
        "--data-dir",
        glue,
        "--corpus",
        text,
        "--scale",
        scale,
        "--output",
        tmp_path / "out",
        *more,
        leaves_nothing=tmp_path / "out",
    )
    assert f"K={k}" in message
    assert "40 training examples" in message
    way = "study.grid" if scale == "paper" else "study.settings"
    assert way in message


def test_the_way_out_is_one(tmp_path: Path, glue: Path, tiny_model_dir: Any) -> None:
    """With what the message says the same table is made."""
    succeeded(
        "reproduce",
        "table5",
        "--model",
        tiny_model_dir(layers=2),
        "--data-dir",
        glue,
        "--scale",
        "small",
        "--tasks",
        "cola",
        "--seeds",
        "1",
        "--workers",
        "0",
        "--output",
        tmp_path / "out",
        "--set",
        "study.settings={codir-fine: {objectives.crd.k: 40}}",
        "--set",
        "study.training.num_train_epochs=1",
        "--set",
        "study.teacher_training.num_train_epochs=1",
    )
    assert (tmp_path / "out" / "table5.md").is_file()


def test_flags_that_a_table_has_no_use_for(tmp_path: Path, glue: Path, tiny_model_dir: Any) -> None:
    """A table of speeds trains nothing, so that no tasks and no seeds can be chosen for it."""
    start = flags(model=tiny_model_dir(), data_dir=glue, output=tmp_path / "out", plan=True)
    for flag, value in (("--seeds", "1-3"), ("--seeds", "nonsense"), ("--tasks", "cola")):
        message = refused("reproduce", "table3", *start, flag, value, leaves_nothing=tmp_path / "out")
        assert f"leave out {flag}" in message
