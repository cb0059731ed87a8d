"""Opening a corpus: what is no corpus, what is damaged, whose tokenizer fits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_texts import articles
from tokenizers import normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from codir.corpora.build import build_corpus
from codir.corpora.corpus import open_corpus, tokenizer_digest
from codir.errors import DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "a.txt").write_text("\n".join(articles(60)))
    build_corpus([str(folder / "a.txt")], str(tokenizer_dir), folder / "corpus", block=16, workers=1)
    return folder / "corpus"


@pytest.fixture
def corpus(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "wiki"))


def test_moved_is_fine(corpus: Path, made: Path) -> None:
    opened = open_corpus(str(corpus))
    assert opened.name == "wiki"
    assert opened.key == open_corpus(made).key
    assert opened.train[0] == open_corpus(made).train[0]


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_truncated_file(corpus: Path, part: str) -> None:
    path = corpus / part / "00000.arrow"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        DataError, match=rf"{part}/00000.arrow is truncated: it has .* bytes where .* were written"
    ):
        open_corpus(corpus)


def test_a_changed_file(corpus: Path) -> None:
    path = corpus / "train" / "00000.arrow"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"the content of train/00000.arrow has changed"):
        open_corpus(corpus)
    open_corpus(corpus, digests=False)  # what happens to more than 1 GB


def test_a_missing_file(corpus: Path) -> None:
    (corpus / "train" / "00000.arrow").unlink()
    with pytest.raises(DataError, match=r"train/00000.arrow is missing"):
        open_corpus(corpus)


def test_a_damaged_manifest(corpus: Path) -> None:
    manifest = corpus / "corpus.json"
    manifest.write_text(manifest.read_text()[:100])
    with pytest.raises(DataError, match=r"corpus.json is damaged"):
        open_corpus(corpus)


def test_another_format(corpus: Path) -> None:
    manifest = json.loads((corpus / "corpus.json").read_text())
    (corpus / "corpus.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(DataError, match="format 99, and this codir reads 1"):
        open_corpus(corpus)


def test_no_corpus(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").touch()
    with pytest.raises(DataError, match=r"other is no corpus: corpus.json is missing .it holds config.json"):
        open_corpus(tmp_path / "other")
    with pytest.raises(DataError, match=r"wike does not exist .did you mean 'wiki'"):
        open_corpus(tmp_path / "wike")


# --- tokenizers ------------------------------------------------------------------------------------------------------


def test_its_own_tokenizer_fits(
    corpus: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    opened = open_corpus(corpus)
    opened.check_tokenizer(tiny_tokenizer, "the teacher")
    opened.check_tokenizer(opened.tokenizer, "the teacher")
    other = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    other("a text", truncation=True, max_length=4, padding="max_length")  # leaves its state in the backend
    other.padding_side = "left"
    opened.check_tokenizer(other, "the teacher")
    other.save_pretrained(tmp_path / "again")
    opened.check_tokenizer(AutoTokenizer.from_pretrained(tmp_path / "again"), "the teacher")


def test_another_tokenizer_is_refused_in_one_sentence(corpus: Path) -> None:
    opened = open_corpus(corpus)
    cased = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    cased.backend_tokenizer.normalizer = normalizers.NFC()
    larger = AutoTokenizer.from_pretrained(corpus / "tokenizer")
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
