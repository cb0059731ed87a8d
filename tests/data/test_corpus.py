"""Corpora from end to end: content, determinism, validation part, resume, and everything that stops one."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, List, Value
from small_texts import articles
from tokenizers import normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from codir import build_corpus, open_corpus
from codir.data import corpus as corpus_module
from codir.data import corpus_build
from codir.data.corpus import Corpus, choose_validation
from codir.data.packing import Packing, tokenizer_digest
from codir.errors import ConfigError, DataError, ModelError, RunError
from codir.files import exclusive


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "articles.txt"
    path.write_text("\n".join(articles(120)), encoding="utf-8")
    return path


@pytest.fixture
def build(tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns `build_corpus` with the tiny tokenizer, short blocks, small portions and one worker."""
    monkeypatch.setattr(corpus_build, "PORTION_BYTES", 2000)

    def run(inputs: Path | Sequence[Path | str], output: Path, **options: Any) -> Corpus:
        names = [str(inputs)] if isinstance(inputs, Path) else [str(each) for each in inputs]
        settings = {"block": 16, "workers": 1, "validation": 0.1, **options}
        return build_corpus(names, str(tokenizer_dir), output, **settings)

    return run


def content(folder: Path) -> dict[str, bytes]:
    """Returns every file of a corpus, the manifest without the names of files and folders."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    manifest = json.loads(files.pop("corpus.json"))
    manifest["options"].pop("inputs")
    manifest.pop("sources")
    files["corpus.json"] = json.dumps(manifest).encode()
    return files


# --- what is in a corpus ---------------------------------------------------------------------------------------------


def test_blocks_hold_the_documents_whole(
    texts: Path, tmp_path: Path, build: Any, tiny_tokenizer: Any
) -> None:
    corpus = build(texts, tmp_path / "corpus")
    cls, sep = tiny_tokenizer.cls_token_id, tiny_tokenizer.sep_token_id
    found: dict[int, list[int]] = {}
    starts = set()
    for part in (corpus.train, corpus.validation):
        for row in part:
            ids = row["input_ids"]
            assert len(ids) <= 16
            assert (ids[0], ids[-1]) == (cls, sep)
            if row["document"] not in found:
                starts.add(row["document"])
            found.setdefault(row["document"], []).extend(ids[1:-1])
    expected = [tiny_tokenizer(text, add_special_tokens=False)["input_ids"] for text in articles(120)]
    assert [found[number] for number in range(120)] == expected
    counts = corpus.manifest["counts"]
    assert counts["documents"] == 120
    assert counts["tokens"] == sum(map(len, expected))
    assert counts["sentences"] == sum(text.count(".") for text in articles(120))
    assert counts["blocks"] == len(corpus.train) + len(corpus.validation)
    filled = sum(len(ids) for part in (corpus.train, corpus.validation) for ids in part["input_ids"])
    assert counts["fill"] == pytest.approx(filled / (16 * counts["blocks"]))
    for part, name in ((corpus.train, "train"), (corpus.validation, "validation")):
        assert counts[name]["blocks"] == len(part)
        assert counts[name]["documents"] == len(set(part["document"]))
        assert counts[name]["tokens"] == sum(len(ids) - 2 for ids in part["input_ids"])


def test_whole_sentences_where_they_fit(texts: Path, tmp_path: Path, build: Any, tiny_tokenizer: Any) -> None:
    corpus = build(texts, tmp_path / "corpus")  # no sentence is longer than 14 tokens
    stop = tiny_tokenizer.convert_tokens_to_ids(".")
    assert all(ids[-2] == stop for ids in corpus.train["input_ids"])


def test_the_corpus_says_what_it_is(texts: Path, tmp_path: Path, build: Any, tokenizer_dir: Path) -> None:
    corpus = build(texts, tmp_path / "corpus")
    assert corpus.path == tmp_path / "corpus"
    assert corpus.name == "corpus"
    assert corpus.block == 16
    assert corpus.vocab_size == len(corpus.tokenizer)
    assert corpus.config_path is not None
    assert corpus.config_path.read_bytes() == (tokenizer_dir / "config.json").read_bytes()
    assert corpus.manifest["sources"][0]["documents"] == "line"
    assert corpus.train.column_names == ["input_ids", "document"]
    assert corpus.train.features == Features({"input_ids": List(Value("int32")), "document": Value("int64")})
    assert corpus.train.cache_files  # memory-mapped
    assert corpus.train[3]["document"] <= corpus.train[4]["document"]
    assert not (tmp_path / "corpus" / ".building").exists()
    assert open_corpus(tmp_path / "corpus").key == corpus.key
    assert open_corpus(tmp_path / "corpus").train._fingerprint == corpus.train._fingerprint


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "folder"])
def test_other_formats_give_the_same_blocks(texts: Path, tmp_path: Path, build: Any, kind: str) -> None:
    plain = build(texts, tmp_path / "plain")
    rows = [{"id": number, "body": text} for number, text in enumerate(articles(120))]
    source = tmp_path / "other" / f"articles.{kind}"
    source.parent.mkdir()
    if kind == "jsonl":
        source.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), source, row_group_size=20)
    else:
        shutil.copy(texts, source.with_suffix(".txt"))
        source = source.parent
    assert build(source, tmp_path / "corpus", text="body").key == plain.key


def test_several_files_in_their_order(tmp_path: Path, build: Any) -> None:
    documents = articles(30)
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("\n".join(documents[10 * number : 10 * number + 10]))
    (tmp_path / "all.txt").write_text("\n".join(documents))
    together = build([tmp_path / "0.txt", tmp_path / "1.txt", tmp_path / "2.txt"], tmp_path / "a")
    assert together.key == build(tmp_path / "all.txt", tmp_path / "b").key
    other = build([tmp_path / "1.txt", tmp_path / "0.txt", tmp_path / "2.txt"], tmp_path / "c")
    assert other.key != together.key


def test_special_tokens_in_a_text_are_text(tmp_path: Path, build: Any, tiny_tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text("the [MASK] man [SEP] sees .\nthe end\n")
    corpus = build(tmp_path / "a.txt", tmp_path / "corpus", validation=0)
    ids = corpus.train[0]["input_ids"]
    assert tiny_tokenizer.mask_token_id not in ids
    assert ids.count(tiny_tokenizer.sep_token_id) == 1


def test_a_tokenizer_saved_with_truncation_and_padding(
    texts: Path, tmp_path: Path, tokenizer_dir: Path, build: Any
) -> None:
    other: Any = AutoTokenizer.from_pretrained(tokenizer_dir)
    other.backend_tokenizer.enable_truncation(8)
    other.backend_tokenizer.enable_padding(length=8)
    other.save_pretrained(tmp_path / "tok")
    one = build(texts, tmp_path / "one")
    two = build_corpus(
        [str(texts)], str(tmp_path / "tok"), tmp_path / "two", block=16, validation=0.1, workers=1
    )
    assert two.key == one.key
    assert two.config_path is None


# --- the same for every number of workers, and after a stop ----------------------------------------------------------


def test_workers_do_not_matter(
    texts: Path, tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_build, "PORTION_BYTES", 10_000)
    monkeypatch.setattr(corpus_build, "_WORTH_A_PROCESS", 100)
    one = build(texts, tmp_path / "one")
    three = build(texts, tmp_path / "three", workers=3)
    assert one.key == three.key
    assert content(tmp_path / "one") == content(tmp_path / "three")


def test_the_seed_and_the_text_matter(texts: Path, tmp_path: Path, build: Any) -> None:
    one = build(texts, tmp_path / "one")
    assert build(texts, tmp_path / "seed", seed=1).key != one.key
    assert build(texts, tmp_path / "block", block=20).key != one.key
    texts.write_text(texts.read_text() + "\nOne more .")
    assert build(texts, tmp_path / "more").key != one.key


def stops(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_resume_packs_only_what_is_missing(
    texts: Path, tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build(texts, tmp_path / "whole")
    pack, seen = Packing.__call__, []

    def until(self: Packing, batch: Any) -> Any:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.extend([batch["text"][0]])
        return pack(self, batch)

    monkeypatch.setattr(Packing, "__call__", until)
    with pytest.raises(KeyboardInterrupt):
        build(texts, tmp_path / "corpus")
    with pytest.raises(DataError, match=r"unfinished.*--resume"):
        open_corpus(tmp_path / "corpus")
    with pytest.raises(RunError, match=r"unfinished corpus. Add --resume"):
        build(texts, tmp_path / "corpus")
    again: list[str] = []
    monkeypatch.setattr(Packing, "__call__", lambda *a: again.append(a[1]["text"][0]) or pack(*a))
    resumed = build(texts, tmp_path / "corpus", resume=True)
    assert resumed.key == whole.key
    assert again
    assert not {*seen} & {*again}
    assert content(tmp_path / "corpus") == content(tmp_path / "whole")


@pytest.mark.parametrize(
    "name",
    ["corpus.choose_validation", "corpus_build.save_tokenizer", "corpus_build.os.replace", "write_json"],
)
def test_resume_after_the_packing(
    texts: Path, tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = build(texts, tmp_path / "whole")
    with monkeypatch.context() as patch:
        if name == "write_json":  # between the moves and the manifest
            write = corpus_build.write_json
            patch.setattr(
                corpus_build, name, lambda p, v: stops() if p.name == "corpus.json" else write(p, v)
            )
        else:
            patch.setattr(f"codir.data.{name}", stops)
        with pytest.raises(KeyboardInterrupt):
            build(texts, tmp_path / "corpus")
    with pytest.raises(DataError, match="unfinished"):
        open_corpus(tmp_path / "corpus")
    assert build(texts, tmp_path / "corpus", resume=True).key == whole.key
    assert content(tmp_path / "corpus") == content(tmp_path / "whole")


def test_a_finished_corpus_that_is_resumed_stays_as_it_is(texts: Path, tmp_path: Path, build: Any) -> None:
    corpus = build(texts, tmp_path / "corpus")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*.arrow")}
    assert build(texts, tmp_path / "corpus", resume=True).key == corpus.key
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_resume_of_something_else(texts: Path, tmp_path: Path, build: Any) -> None:
    build(texts, tmp_path / "corpus")
    with pytest.raises(RunError, match="block: 16 there, 32 now"):
        build(texts, tmp_path / "corpus", resume=True, block=32)
    with pytest.raises(RunError, match=r"Nothing to resume: .*nowhere does not exist"):
        build(texts, tmp_path / "nowhere", resume=True)


def test_an_input_that_changed_in_between(
    texts: Path, tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(corpus_build, "write_parts", stops)
        with pytest.raises(KeyboardInterrupt):
            build(texts, tmp_path / "corpus")
    texts.write_text(texts.read_text() + "\nOne more .")
    with pytest.raises(RunError, match="was changed since"):
        build(texts, tmp_path / "corpus", resume=True)


# --- validation ------------------------------------------------------------------------------------------------------


def test_validation_is_by_document(texts: Path, tmp_path: Path, build: Any) -> None:
    corpus = build(texts, tmp_path / "corpus")
    held, kept = set(corpus.validation["document"]), set(corpus.train["document"])
    assert held
    assert not held & kept
    assert held | kept == set(range(120))


def test_the_same_documents_are_held_out_for_every_block(texts: Path, tmp_path: Path, build: Any) -> None:
    one, two = build(texts, tmp_path / "one"), build(texts, tmp_path / "two", block=32)
    assert set(one.validation["document"]) == set(two.validation["document"])


def test_choice_of_validation() -> None:
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**64, size=20_000, dtype=np.uint64)
    blocks = np.ones(20_000, dtype=np.int64)
    held = choose_validation(hashes, blocks, 0.05)
    assert 900 < held.sum() < 1100
    assert hashes[held].max() < hashes[~held].min()
    assert choose_validation(hashes, blocks, 0.5).sum() == corpus_module.MOST_HELD_OUT
    assert not choose_validation(hashes, blocks, 0.0).any()
    assert choose_validation(hashes[:2], blocks[:2], 0.001).sum() == 1
    assert choose_validation(hashes[:2], blocks[:2], 1.0).sum() == 1
    assert not choose_validation(hashes[:1], blocks[:1], 1.0).any()
    # where every document is too large, the smallest
    assert choose_validation(hashes[:3], np.array([9000, 7000, 8000]), 0.5).tolist() == [False, True, False]


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["\n\n \n", '{"text": ""}\n{"text": null}\n'])
def test_an_empty_corpus(tmp_path: Path, build: Any, text: str) -> None:
    path = tmp_path / ("a.jsonl" if "{" in text else "a.txt")
    path.write_text(text)
    with pytest.raises(DataError, match="corpus is empty"):
        build(path, tmp_path / "corpus")


def test_only_empty_files(tmp_path: Path, build: Any) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"none of 1 files can be used[\s\S]*a.txt: empty file"):
        build(tmp_path / "a.txt", tmp_path / "corpus")


def test_a_binary_file_is_named_and_stops(texts: Path, tmp_path: Path, build: Any) -> None:
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\0\1")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    inputs = [texts, tmp_path / "picture.txt", tmp_path / "latin.txt"]
    with pytest.raises(
        DataError, match=r"2 of 3 files [\s\S]*picture.txt: line 1: a zero byte[\s\S]*latin.txt: .* not UTF-8"
    ):
        build(inputs, tmp_path / "corpus")
    corpus = build(inputs, tmp_path / "corpus", allow_skipped=0.7)
    assert ["zero" in entry["reason"] for entry in corpus.manifest["skipped"]["files"]] == [True, False]
    assert len(corpus.manifest["sources"]) == 1
    assert corpus.key == build(texts, tmp_path / "other").key


def test_empty_documents_are_counted(tmp_path: Path, build: Any) -> None:
    rows = [{"text": text} for text in articles(50)]
    rows.insert(7, {"text": " "})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"1 of 51 documents[\s\S]*a.jsonl, line 8: empty"):
        build(tmp_path / "a.jsonl", tmp_path / "corpus")
    corpus = build(tmp_path / "a.jsonl", tmp_path / "corpus", resume=True, allow_skipped=0.05)
    assert corpus.manifest["skipped"]["documents"] == {"empty": 1}
    assert corpus.manifest["counts"]["documents"] == 50


@pytest.mark.parametrize("unit", ["word ", "x", "the man . ", "the man sees . The dog "])
def test_a_document_longer_than_any_limit(tmp_path: Path, build: Any, unit: str) -> None:
    (tmp_path / "a.txt").write_text(unit * 30_000 + "\nThe end .\n")
    corpus = build(tmp_path / "a.txt", tmp_path / "corpus", block=64)
    assert corpus.manifest["counts"]["documents"] == 2
    assert max(len(ids) for ids in corpus.train["input_ids"]) <= 64
    words = 0 if unit == "x" else 30_000 * len(unit.split())
    assert corpus.manifest["counts"]["tokens"] >= words


@pytest.mark.parametrize(
    ("block", "message"),
    [(7, "leaves no room for text; give at least 8"), (65, "model has positions for 64.*--block 64 or less")],
)
def test_blocks_that_cannot_be(texts: Path, tmp_path: Path, build: Any, block: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(texts, tmp_path / "corpus", block=block)
    assert not (tmp_path / "corpus").exists()


def test_blocks_longer_than_a_tokenizer_alone_is_made_for(
    texts: Path, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tiny_tokenizer.save_pretrained(tmp_path / "tok")
    with pytest.raises(ConfigError, match="tokenizer is made for 64"):
        build_corpus([str(texts)], str(tmp_path / "tok"), tmp_path / "corpus", block=65)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"documents": "lines"}, "did you mean 'line'"),
        ({"validation": 1.5}, "between 0 and 1"),
        ({"allow_skipped": -1}, "between 0 and 1"),
        ({"workers": 0}, "at least one worker"),
    ],
)
def test_settings_that_cannot_be(texts: Path, tmp_path: Path, build: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(texts, tmp_path / "corpus", **options)


def test_no_tokenizer(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in ("empty", "nowhere"):
        with pytest.raises(ModelError, match=source):
            build_corpus([str(texts)], str(tmp_path / source), tmp_path / "corpus")


def test_the_output_is_in_the_way(texts: Path, tmp_path: Path, build: Any) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"not empty and no corpus .it holds thesis.tex"):
        build(texts, tmp_path / "full")
    with pytest.raises(RunError, match="is a file"):
        build(texts, texts)
    build(texts, tmp_path / "corpus")
    with pytest.raises(RunError, match="already holds a corpus"):
        build(texts, tmp_path / "corpus")


def test_two_processes_on_one_output(texts: Path, tmp_path: Path, build: Any) -> None:
    with exclusive(tmp_path / "corpus"), pytest.raises(RunError, match="Another process is working in"):
        build(texts, tmp_path / "corpus")


def test_a_disk_that_would_fill(
    texts: Path, tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("codir.files.shutil.disk_usage", lambda _: usage(10**9, 10**9, 10_000))
    with pytest.raises(RunError, match=r"The corpus needs .* free"):
        build(texts, tmp_path / "corpus")
    assert len(list((tmp_path / "corpus").rglob("*.arrow"))) == 1


def test_the_estimate_of_the_disk_covers_what_is_written(
    tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "big.txt"
    path.write_text("\n".join(articles(2000, most=30)))
    needed: list[int] = []
    monkeypatch.setattr(corpus_build, "require_disk", lambda _, size, __: needed.append(size))
    monkeypatch.setattr(corpus_build, "PORTION_BYTES", 100_000)
    corpus = build(path, tmp_path / "corpus", block=64)
    written = 2 * sum(facts["bytes"] for facts in corpus.manifest["files"].values())
    assert 0.8 * written < needed[0] < 2 * written


def test_a_full_disk(texts: Path, tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(corpus_build, "write_parts", full)
    with pytest.raises(RunError, match=r"disk of .* is full.*--resume goes on"):
        build(texts, tmp_path / "corpus")


def test_nothing_is_left_but_the_corpus(
    texts: Path, tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither beside the texts nor where `datasets` keeps its own files."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    before = sorted(tmp_path.iterdir())
    build(texts, tmp_path / "corpus")
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "corpus"])
    assert {each.name for each in (tmp_path / "corpus").iterdir()} == {
        *("train", "validation", "tokenizer", "corpus.json", ".lock"),
    }


def test_progress_counts_bytes_of_text(texts: Path, tmp_path: Path, build: Any) -> None:
    seen: list[tuple[int, int]] = []
    build(texts, tmp_path / "corpus", progress=lambda done, in_all: seen.append((done, in_all)))
    size = texts.stat().st_size
    assert seen[0] == (0, size)
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_random_bytes_never_crash(tmp_path: Path, build: Any) -> None:
    generator = random.Random(0)
    for number in range(20):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(bytes(generator.choices(b"\n\n .a\xc3\xa9\xe2\x80\x9d=", k=400)))
        with contextlib.suppress(DataError):
            build(path, tmp_path / f"corpus{number}")


# --- opening one -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "a.txt").write_text("\n".join(articles(60)))
    build_corpus(
        [str(folder / "a.txt")], str(tokenizer_dir), folder / "corpus", block=16, workers=1, validation=0.1
    )
    return folder / "corpus"


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "wiki"))


def test_moved_is_fine(copied: Path, made: Path) -> None:
    opened = open_corpus(str(copied))
    assert opened.name == "wiki"
    assert opened.key == open_corpus(made).key
    assert opened.train[0] == open_corpus(made).train[0]


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_truncated_file(copied: Path, part: str) -> None:
    path = copied / part / "00000.arrow"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        DataError, match=rf"{part}/00000.arrow is truncated: it has .* bytes where .* were written"
    ):
        open_corpus(copied)


def test_a_changed_file(copied: Path) -> None:
    path = copied / "train" / "00000.arrow"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"the content of train/00000.arrow has changed"):
        open_corpus(copied)
    open_corpus(copied, digests=False)  # what happens to more than 1 GB


def test_a_missing_file(copied: Path) -> None:
    (copied / "train" / "00000.arrow").unlink()
    with pytest.raises(DataError, match=r"train/00000.arrow is missing"):
        open_corpus(copied)


def test_a_damaged_manifest(copied: Path) -> None:
    manifest = copied / "corpus.json"
    manifest.write_text(manifest.read_text()[:100])
    with pytest.raises(DataError, match=r"corpus.json is damaged"):
        open_corpus(copied)


def test_another_format(copied: Path) -> None:
    manifest = json.loads((copied / "corpus.json").read_text())
    (copied / "corpus.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(DataError, match="format 99, and this codir reads 1"):
        open_corpus(copied)


def test_no_corpus(tmp_path: Path, copied: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").touch()
    with pytest.raises(DataError, match=r"other is no corpus: corpus.json is missing .it holds config.json"):
        open_corpus(tmp_path / "other")
    with pytest.raises(DataError, match=r"wike does not exist .did you mean 'wiki'"):
        open_corpus(tmp_path / "wike")


# --- whose tokenizer fits ---


def test_its_own_tokenizer_fits(
    copied: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    opened = open_corpus(copied)
    opened.check_tokenizer(tiny_tokenizer, "the teacher")
    opened.check_tokenizer(opened.tokenizer, "the teacher")
    other = AutoTokenizer.from_pretrained(copied / "tokenizer")
    other("a text", truncation=True, max_length=4, padding="max_length")  # leaves its state in the backend
    other.padding_side = "left"
    opened.check_tokenizer(other, "the teacher")
    other.save_pretrained(tmp_path / "again")
    opened.check_tokenizer(AutoTokenizer.from_pretrained(tmp_path / "again"), "the teacher")


def test_another_tokenizer_is_refused_in_one_sentence(copied: Path) -> None:
    opened = open_corpus(copied)
    cased = AutoTokenizer.from_pretrained(copied / "tokenizer")
    cased.backend_tokenizer.normalizer = normalizers.NFC()
    larger = AutoTokenizer.from_pretrained(copied / "tokenizer")
    larger.add_tokens(["entirely", "new"])
    for other in (cased, larger):
        with pytest.raises(DataError) as caught:
            opened.check_tokenizer(other, "the student runs/stage1")
        message = str(caught.value)
        assert opened.manifest["tokenizer"]["name"] in message
        assert "the student runs/stage1" in message
        assert f"{len(other):,} tokens" in message
        assert "\n" not in message
        assert message.count(". ") == 0
    assert len({tokenizer_digest(each) for each in (opened.tokenizer, cased, larger)}) == 3
