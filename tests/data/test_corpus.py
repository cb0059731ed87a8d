"""Corpora from end to end: content, determinism, validation part, resume, and everything that stops one."""

from __future__ import annotations

import json
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


def write_articles(folder: Path, count: int = 120) -> Path:
    path = folder / "articles.txt"
    path.write_text("\n".join(articles(count)), encoding="utf-8")
    return path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_articles(tmp_path)


@pytest.fixture
def build(tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns `build_corpus` with the tiny tokenizer, short blocks, small portions and one worker."""
    monkeypatch.setattr(corpus_build, "PORTION_BYTES", 2000)

    def run(inputs: Path | Sequence[Path | str], output: Path, **options: Any) -> Corpus:
        names = [str(inputs)] if isinstance(inputs, Path) else [str(each) for each in inputs]
        settings = {"block": 16, "workers": 1, "validation": 0.1, **options}
        return build_corpus(names, str(tokenizer_dir), output, **settings)

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("made")
    inputs = [str(write_articles(folder))]
    build_corpus(inputs, str(tokenizer_dir), folder / "corpus", block=16, workers=1, validation=0.1)
    return folder / "corpus"


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "wiki"))


def content(folder: Path) -> dict[str, bytes]:
    """Returns every file of a corpus, the manifest without the names of files and folders."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    manifest = json.loads(files.pop("corpus.json"))
    manifest["options"].pop("inputs")
    manifest.pop("sources")
    return {**files, "corpus.json": json.dumps(manifest).encode()}


# --- what is in a corpus ---------------------------------------------------------------------------------------------


def test_blocks_hold_the_documents_whole(made: Path, tiny_tokenizer: Any) -> None:
    corpus = open_corpus(made)
    cls, sep = tiny_tokenizer.cls_token_id, tiny_tokenizer.sep_token_id
    stop = tiny_tokenizer.convert_tokens_to_ids(".")
    found: dict[int, list[int]] = {}
    for part in (corpus.train, corpus.validation):
        for row in part:
            ids = row["input_ids"]
            assert len(ids) <= 16
            assert (ids[0], ids[-2], ids[-1]) == (cls, stop, sep)  # no sentence is longer than 14 tokens
            found.setdefault(row["document"], []).extend(ids[1:-1])
    expected = [tiny_tokenizer(text, add_special_tokens=False)["input_ids"] for text in articles(120)]
    assert [found[number] for number in range(120)] == expected
    counts = corpus.manifest["counts"]
    assert counts["documents"] == 120
    assert counts["tokens"] == sum(map(len, expected))
    assert counts["sentences"] == sum(text.count(".") for text in articles(120))
    assert counts["blocks"] == len(corpus.train) + len(corpus.validation)
    assert counts["fill"] == pytest.approx((counts["tokens"] + 2 * counts["blocks"]) / (16 * counts["blocks"]))
    for part, name in ((corpus.train, "train"), (corpus.validation, "validation")):
        tokens = sum(len(ids) - 2 for ids in part["input_ids"])
        expected_counts = {"documents": len(set(part["document"])), "tokens": tokens, "blocks": len(part)}
        assert counts[name] == expected_counts
    held, kept = set(corpus.validation["document"]), set(corpus.train["document"])
    assert held
    assert not held & kept


def test_the_corpus_says_what_it_is(made: Path, tokenizer_dir: Path) -> None:
    corpus = open_corpus(made)
    assert (corpus.path, corpus.name, corpus.block) == (made, "corpus", 16)
    assert corpus.vocab_size == len(corpus.tokenizer)
    assert corpus.config_path is not None
    assert corpus.config_path.read_bytes() == (tokenizer_dir / "config.json").read_bytes()
    assert corpus.manifest["sources"][0]["documents"] == "line"
    assert corpus.train.features == Features({"input_ids": List(Value("int32")), "document": Value("int64")})
    assert corpus.train.cache_files  # memory-mapped
    assert open_corpus(made).train._fingerprint == corpus.train._fingerprint


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


def test_special_tokens_in_a_text_are_text(tmp_path: Path, build: Any, tiny_tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text("the [MASK] man [SEP] sees .\nthe end\n")
    ids = build(tmp_path / "a.txt", tmp_path / "corpus", validation=0).train[0]["input_ids"]
    assert tiny_tokenizer.mask_token_id not in ids
    assert ids.count(tiny_tokenizer.sep_token_id) == 1


# --- the same for every number of workers, and after a stop ----------------------------------------------------------


def test_workers_do_not_matter_but_seed_block_and_text_do(
    texts: Path, tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_build, "PORTION_BYTES", 10_000)
    monkeypatch.setattr(corpus_build, "_WORTH_A_PROCESS", 100)
    one, three = build(texts, tmp_path / "one"), build(texts, tmp_path / "three", workers=3)
    assert one.key == three.key
    assert content(tmp_path / "one") == content(tmp_path / "three")
    assert build(texts, tmp_path / "seed", seed=1).key != one.key
    wider = build(texts, tmp_path / "block", block=20)
    assert wider.key != one.key
    assert set(wider.validation["document"]) == set(one.validation["document"])
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
    assert build(texts, tmp_path / "corpus", resume=True).key == whole.key
    assert again
    assert not {*seen} & {*again}
    assert content(tmp_path / "corpus") == content(tmp_path / "whole")


@pytest.mark.parametrize("name", ["corpus.choose_validation", "corpus_build.os.replace", "write_json"])
def test_resume_after_the_packing(
    texts: Path, tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patch:
        if name == "write_json":  # between the moves and the manifest
            write = corpus_build.write_json
            last = lambda p, v: stops() if p.name == "corpus.json" else write(p, v)  # noqa: E731
            patch.setattr(corpus_build, name, last)
        else:
            patch.setattr(f"codir.data.{name}", stops)
        with pytest.raises(KeyboardInterrupt):
            build(texts, tmp_path / "corpus")
    with pytest.raises(DataError, match="unfinished"):
        open_corpus(tmp_path / "corpus")
    build(texts, tmp_path / "whole")
    build(texts, tmp_path / "corpus", resume=True)
    assert content(tmp_path / "corpus") == content(tmp_path / "whole")


def test_resume_of_what_is_finished_or_something_else(texts: Path, tmp_path: Path, build: Any) -> None:
    corpus = build(texts, tmp_path / "corpus")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*.arrow")}
    assert build(texts, tmp_path / "corpus", resume=True).key == corpus.key
    assert {path: path.stat().st_mtime_ns for path in times} == times
    with pytest.raises(RunError, match="block: 16 there, 32 now"):
        build(texts, tmp_path / "corpus", resume=True, block=32)
    with pytest.raises(RunError, match=r"Nothing to resume: .*nowhere holds no corpus"):
        build(texts, tmp_path / "nowhere", resume=True)


def test_an_input_that_changed_in_between(
    texts: Path, tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(corpus_build, "write_parts", stops)
        with pytest.raises(KeyboardInterrupt):
            build(texts, tmp_path / "corpus")
    texts.write_text(texts.read_text() + "\nOne more .")
    with pytest.raises(RunError, match=r"other options or texts:\n  .*articles.txt: '\w+' there, '\w+' now"):
        build(texts, tmp_path / "corpus", resume=True)


def test_choice_of_validation() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, size=20_000, dtype=np.uint64)
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\n \n", "corpus is empty"),
        ('{"text": ""}\n{"text": null}\n', "corpus is empty"),
        ("", r"none of 1 files can be used[\s\S]*empty file"),
    ],
)
def test_an_empty_corpus(tmp_path: Path, build: Any, text: str, message: str) -> None:
    path = tmp_path / ("a.jsonl" if "{" in text else "a.txt")
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        build(path, tmp_path / "corpus")


def test_files_that_are_no_text_are_named_and_stop(texts: Path, tmp_path: Path, build: Any) -> None:
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\0\1")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    inputs = [texts, tmp_path / "picture.txt", tmp_path / "latin.txt"]
    message = r"2 of 3 files [\s\S]*picture.txt: line 1: a zero byte[\s\S]*latin.txt: .* not UTF-8"
    with pytest.raises(DataError, match=message):
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


@pytest.mark.parametrize("unit", ["word ", "x", "the man sees . The dog "])
def test_a_document_longer_than_any_limit(tmp_path: Path, build: Any, unit: str) -> None:
    (tmp_path / "a.txt").write_text(unit * 30_000 + "\nThe end .\n")
    corpus = build(tmp_path / "a.txt", tmp_path / "corpus", block=64)
    assert corpus.manifest["counts"]["documents"] == 2
    assert max(len(ids) for ids in corpus.train["input_ids"]) <= 64
    assert corpus.manifest["counts"]["tokens"] >= (0 if unit == "x" else 30_000 * len(unit.split()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"documents": "lines"}, "did you mean 'line'"),
        ({"validation": 1.5}, "between 0 and 1"),
        ({"allow_skipped": -1}, "between 0 and 1"),
        ({"workers": 0}, "at least one worker"),
        ({"block": 7}, "leaves no room for text; give at least 8"),
        ({"block": 65}, "model has positions for 64.*--block 64 or less"),
    ],
)
def test_settings_that_cannot_be(texts: Path, tmp_path: Path, build: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(texts, tmp_path / "corpus", **options)
    assert not (tmp_path / "corpus").exists()


def test_tokenizers_that_cannot_be(texts: Path, tmp_path: Path, tiny_tokenizer: Any) -> None:
    tiny_tokenizer.save_pretrained(tmp_path / "tok")
    with pytest.raises(ConfigError, match="tokenizer is made for 64"):
        build_corpus([str(texts)], str(tmp_path / "tok"), tmp_path / "corpus", block=65)
    (tmp_path / "empty").mkdir()
    for source in ("empty", "nowhere"):
        with pytest.raises(ModelError, match=source):
            build_corpus([str(texts)], str(tmp_path / source), tmp_path / "corpus")


def test_the_output_is_in_the_way(texts: Path, tmp_path: Path, build: Any, copied: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    for output, message in (
        (tmp_path / "full", r"not empty and no corpus .it holds thesis.tex"),
        (texts, "is a file"),
        (copied, "already holds a corpus"),
    ):
        with pytest.raises(RunError, match=message):
            build(texts, output)
    with exclusive(tmp_path / "corpus"), pytest.raises(RunError, match="Another process is working in"):
        build(texts, tmp_path / "corpus")


def test_disks_that_are_or_would_be_full(
    texts: Path, tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(corpus_build, "write_parts", full)
        with pytest.raises(RunError, match=r"disk of .* is full.*--resume goes on"):
            build(texts, tmp_path / "full")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("codir.files.shutil.disk_usage", lambda _: usage(10**9, 10**9, 10_000))
    with pytest.raises(RunError, match=r"The corpus needs .* free"):
        build(texts, tmp_path / "corpus")
    assert len(list((tmp_path / "corpus").rglob("*.arrow"))) == 1


def test_progress_and_nothing_is_left_but_the_corpus(
    texts: Path, tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither beside the texts nor where `datasets` keeps its own files."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    before = sorted(tmp_path.iterdir())
    seen: list[tuple[int, int]] = []
    build(texts, tmp_path / "corpus", progress=lambda done, in_all: seen.append((done, in_all)))
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "corpus"])
    names = {each.name for each in (tmp_path / "corpus").iterdir()}
    assert names == {"train", "validation", "tokenizer", "corpus.json", ".lock"}
    size = texts.stat().st_size
    assert (seen[0], seen[-1], seen) == ((0, size), (size, size), sorted(seen))


# --- opening one -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_damaged_file(copied: Path, part: str) -> None:
    path = copied / part / "00000.arrow"
    raw = bytearray(path.read_bytes())
    path.write_bytes(raw[:-10])
    with pytest.raises(DataError, match=rf"{part}/00000.arrow is truncated: it has .* bytes"):
        open_corpus(copied)
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=rf"the content of {part}/00000.arrow has changed"):
        open_corpus(copied)
    open_corpus(copied, digests=False)  # what happens to more than 1 GB
    path.unlink()
    with pytest.raises(DataError, match=rf"{part}/00000.arrow is missing"):
        open_corpus(copied)


def test_what_is_no_corpus(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(DataError, match=r"wike does not exist .did you mean 'wiki'"):
        open_corpus(tmp_path / "wike")
    manifest = copied / "corpus.json"
    text = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(text), "format": 99}))
    with pytest.raises(DataError, match="format is 99, not 1"):
        open_corpus(copied)
    manifest.write_text(text[:100])
    with pytest.raises(DataError, match=r"corpus.json is damaged"):
        open_corpus(copied)
    manifest.unlink()
    with pytest.raises(DataError, match=r"wiki is no corpus: corpus.json is missing"):
        open_corpus(copied)


def test_its_own_tokenizer_fits(copied: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    opened = open_corpus(copied)
    other = AutoTokenizer.from_pretrained(copied / "tokenizer")
    other("a text", truncation=True, max_length=4, padding="max_length")  # leaves its state in the backend
    other.padding_side = "left"
    other.save_pretrained(tmp_path / "again")
    for same in (tiny_tokenizer, opened.tokenizer, other, AutoTokenizer.from_pretrained(tmp_path / "again")):
        opened.check_tokenizer(same, "the teacher")


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
        for part in (
            opened.manifest["tokenizer"]["name"],
            "the student runs/stage1",
            f"{len(other):,} tokens",
        ):
            assert part in message
    assert len({tokenizer_digest(each) for each in (opened.tokenizer, cased, larger)}) == 3
