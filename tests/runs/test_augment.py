"""Copies of training texts in a file: rows, leaks, repeats, interruptions, refusals."""

from __future__ import annotations

import importlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import at_call, forked, needs_fork
from rich.console import Console
from small_world import sentences, write_table
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from codir import files as storage
from codir.config.config import DataConfig
from codir.errors import ConfigError, DataError, ModelError, RunError
from codir.models.words import WordCandidates, find_words
from codir.record.data import load_data
from codir.runs.augment import Augmentation, augment, training_texts

module = importlib.import_module("codir.runs.augment")


@pytest.fixture(scope="session")
def mlm(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """Returns the folder of a random masked language model."""
    folder = tmp_path_factory.mktemp("mlm")
    config = BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForMaskedLM(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0.0, 0.4)
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write_table(tmp_path / "train.csv", sentences(30, seed=1, pairs=True))


def data(train: Path, **settings: Any) -> DataConfig:
    return DataConfig(**{"train": str(train), "text": "review", "label": "stars", "holdout": 0.2, **settings})


def made(mlm: Path, data: DataConfig, output: Path, **settings: Any) -> Augmentation:
    return augment(mlm, data, output, **{"copies": 4, "candidates": 5, "precision": "fp32", "quiet": True, **settings})


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_copies_are_of_the_rows_that_train(mlm: Path, train: Path, tmp_path: Path) -> None:
    settings = data(train)
    result = made(mlm, settings, tmp_path / "o.jsonl")
    split = load_data(settings).train
    assert split is not None
    texts, rows = split["text"][:], read(tmp_path / "o.jsonl")
    assert result.examples == len(texts) == 24
    assert result.copies == len(rows)
    assert result.copies + result.unchanged + result.repeated == 4 * 24
    assert [row["source"] for row in rows] == sorted(row["source"] for row in rows)
    for row in rows:
        assert set(row) == {"review", "source", "source_digest"}
        original = texts[row["source"]]
        before = [original[a:b] for a, b in find_words(original)]
        after = [row["review"][a:b] for a, b in find_words(row["review"])]
        assert len(before) == len(after)
        assert before != after
    assert len({row["review"] for row in rows} | set(texts)) == len(rows) + len(set(texts))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.jsonl", "train.csv"]


def test_new_words_are_candidates(mlm: Path, train: Path, tmp_path: Path) -> None:
    from codir.models.loading import load_tokenizer
    from codir.models.masked_lm import load_masked_lm

    texts, _, _ = training_texts(data(train))
    proposer = WordCandidates(load_masked_lm(mlm), load_tokenizer(mlm), most=5)
    known, found, at = [], proposer.propose(texts), 0
    for (text,) in texts:
        count = len(find_words(text))
        known.append([{proposer.words.texts[n] for n in row} for row in found[at : at + count].tolist()])
        at += count
    made(mlm, data(train), tmp_path / "o.jsonl")
    for row in read(tmp_path / "o.jsonl"):
        (text,) = texts[row["source"]]
        for (a, b), (c, d), choice in zip(
            find_words(text), find_words(row["review"]), known[row["source"]], strict=True
        ):
            assert row["review"][c:d] in choice | {text[a:b]}


def test_pairs(mlm: Path, train: Path, tmp_path: Path) -> None:
    made(mlm, data(train, text_pair="reply"), tmp_path / "o.jsonl", copies=2)
    rows = read(tmp_path / "o.jsonl")
    assert all(set(row) == {"review", "reply", "source", "source_digest"} for row in rows)
    texts, pairs, _ = training_texts(data(train, text_pair="reply"))
    assert pairs
    assert any(row["reply"] != texts[row["source"]][1] for row in rows)


@pytest.mark.parametrize("pairs", [False, True])
def test_copies_of_rows_that_a_training_holds_out_are_not_trained_on(
    mlm: Path, train: Path, tmp_path: Path, pairs: bool
) -> None:
    """Whatever `augment` copied: a training with another holdout finds the copies of its held-out rows by text."""
    columns = {"text_pair": "reply"} if pairs else {}
    rows = sentences(30, seed=1, pairs=True)
    made(mlm, data(train, **columns, holdout=None, validation=str(train)), tmp_path / "o.jsonl")
    loaded = load_data(data(train, **columns, unlabeled=[tmp_path / "o.jsonl"]))
    held = set(loaded.validation["holdout"]["text"])
    copies = read(tmp_path / "o.jsonl")
    leaking = {row["review"] for row in copies if rows[row["source"]]["review"] in held}
    assert len(held) == 6
    assert leaking
    assert loaded.unlabeled is not None
    assert len(loaded.unlabeled) == sum(row["review"] not in leaking for row in copies)
    assert leaking.isdisjoint(loaded.unlabeled["text"])


def test_a_column_of_texts_may_be_called_source(mlm: Path, tmp_path: Path) -> None:
    rows = [{"source": row["review"], "stars": row["stars"]} for row in sentences(30, seed=1)]
    settings = data(write_table(tmp_path / "other.csv", rows), text="source")
    made(mlm, settings, tmp_path / "o.jsonl", copies=1)
    copies = read(tmp_path / "o.jsonl")
    assert all(set(row) == {"source", "source_digest"} for row in copies)
    loaded = load_data(settings.model_copy(update={"unlabeled": [tmp_path / "o.jsonl"]}))
    assert loaded.unlabeled is not None
    assert loaded.unlabeled["text"][:] == [row["source"] for row in copies]


def test_which_rows(train: Path, tmp_path: Path) -> None:
    """A file with labels loses what a training would hold out; one without is taken whole."""
    assert len(training_texts(data(train, limit_train=7))[0]) == 7
    # a tenth of each class is held out where nobody says more
    assert len(training_texts(data(train, holdout=None))[0]) == 26
    whole = data(train, holdout=None, validation=str(train))
    assert len(training_texts(whole)[0]) == 30
    no_labels = data(train, holdout=None, label=None)
    texts, _, notes = training_texts(no_labels)
    assert len(texts) == 30
    assert "of its 30 rows all are taken" in notes[0]
    limited = data(train, holdout=None, label=None, limit_train=4)
    assert "30 rows 4 (a fixed random subset)" in training_texts(limited)[2][0]
    (tmp_path / "t.txt").write_text("a cat\na dog\n")
    assert training_texts(DataConfig(train=str(tmp_path / "t.txt")))[0] == [("a cat",), ("a dog",)]
    named = write_table(tmp_path / "named.csv", [{"text": r["review"], "label": r["stars"]} for r in sentences(30, 1)])
    assert len(training_texts(DataConfig(train=str(named)))[0]) == 26  # the label column is there unasked
    with pytest.raises(DataError, match="no column 'mood'"):
        training_texts(data(train, label="mood"))
    with pytest.raises(ConfigError, match="no training texts"):
        training_texts(DataConfig(validation=str(train)))
    loaded = load_data(data(train))
    kept = {text for (text,) in training_texts(data(train))[0]}
    assert kept.isdisjoint(loaded.validation[loaded.main_split]["text"][:])


def test_settings_change_the_draws_only_as_they_should(mlm: Path, train: Path, tmp_path: Path) -> None:
    def lines(name: str, **settings: Any) -> list[tuple[int, str]]:
        made(mlm, data(train, limit_train=12), tmp_path / name, **settings)
        return [(row["source"], row["review"]) for row in read(tmp_path / name)]

    few, many = lines("few.jsonl", copies=2), lines("many.jsonl", copies=6)
    assert set(few) <= set(many)
    assert lines("again.jsonl", copies=2) == few
    assert lines("seed.jsonl", copies=2, seed=1) != few
    assert len(lines("all.jsonl", copies=2, probability=1.0)) >= len(few)


@needs_fork
@pytest.mark.parametrize("at", [(module, "whole_file", 2), (module, "source_digest", 20), (storage.os, "replace", 5)])
def test_a_kill_and_a_resume_give_the_same_file(
    mlm: Path, train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[Any, str, int]
) -> None:
    monkeypatch.setattr(module, "PART", 5)
    made(mlm, data(train), tmp_path / "whole.jsonl")
    output = tmp_path / "o.jsonl"

    def killed() -> None:
        at_call(*at)()
        made(mlm, data(train), output)

    assert forked(killed) == -9
    assert not output.exists()
    with pytest.raises(RunError, match="go on with it by --resume"):
        made(mlm, data(train), output)
    for changed in ({"candidates": 6}, {"batch_size": 3}, {"together": 0.2}):
        with pytest.raises(RunError, match=f"--{next(iter(changed)).replace('_', '-')} changed"):
            made(mlm, data(train), output, resume=True, **changed)
    with pytest.raises(RunError, match="the training texts changed"):
        made(mlm, data(train, limit_train=5), output, resume=True)
    made(mlm, data(train), output, resume=True)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not output.with_name("o.jsonl.parts").exists()


def test_a_resume_keeps_the_parts_that_are_there(
    mlm: Path, train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART", 8)
    seen: list[int] = []
    propose = WordCandidates.propose

    def counted(self: WordCandidates, examples: Any, progress: Any) -> Any:
        if len(seen) == 2:
            seen.append(0)
            raise KeyboardInterrupt
        seen.append(len(examples))
        return propose(self, examples, progress)

    monkeypatch.setattr(WordCandidates, "propose", counted)
    with pytest.raises(KeyboardInterrupt):
        made(mlm, data(train), tmp_path / "o.jsonl")
    made(mlm, data(train), tmp_path / "o.jsonl", resume=True)
    assert len(seen) == 4
    assert sum(seen) == 24  # no example twice


def test_summary(mlm: Path, train: Path, tmp_path: Path) -> None:
    out = io.StringIO()
    result = augment(
        mlm, data(train), tmp_path / "o.jsonl", candidates=5, copies=3, console=Console(file=out, width=120)
    )
    assert f"{result.copies} copies of 24 texts" in out.getvalue()
    assert "6 of the 30 training examples" in out.getvalue() or "held" in out.getvalue()
    assert len(result.shown) == 3
    for (text,), (copy,) in result.shown:
        assert text.split()[0] in out.getvalue()
        assert copy.split()[0] in out.getvalue()


def test_refusals(mlm: Path, train: Path, tmp_path: Path, tiny_model_dir: Any) -> None:
    output = tmp_path / "o.jsonl"
    for settings, message in (
        ({"copies": 0}, "0 copies"),
        ({"probability": 0.0}, "probability"),
        ({"probability": 1.5}, "probability"),
        ({"candidates": 0}, "0 candidates"),
        ({"together": -1.0}, "together"),
    ):
        with pytest.raises(ConfigError, match=message):
            made(mlm, data(train), output, **settings)
    with pytest.raises(RunError, match=r"must end in \.jsonl"):
        made(mlm, data(train), tmp_path / "o.csv")
    with pytest.raises(ModelError, match="mlm-head"):
        made(tiny_model_dir(), data(train), output)
    output.write_text("mine\n")
    with pytest.raises(RunError, match="--overwrite"):
        made(mlm, data(train), output)
    assert output.read_text() == "mine\n"
    made(mlm, data(train), output, overwrite=True)
    assert len(read(output)) > 20
    (tmp_path / "numbers.txt").write_text("12\n13 .\n")
    with pytest.raises(DataError, match="None of the 2 training texts has a word"):
        made(mlm, DataConfig(train=str(tmp_path / "numbers.txt")), tmp_path / "n.jsonl")
