"""The texts of a corpus: what is found and skipped, documents, sentences, blocks against a naive reference."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from small_texts import articles
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CanineTokenizer, PreTrainedTokenizerFast

from codir.data.corpus_sources import Source, decide_documents, find_sources, read_documents, scan
from codir.data.packing import Encoder, pack, sentence_pieces
from codir.errors import ConfigError, DataError, ModelError

WRAPPED = (
    "It was the best of times, it was the worst of\ntimes, it was the age of wisdom. It was\nthe age of foolishness.\n"
)
WIKITEXT = (
    " \n = Robert = \n \n Robert is . \n He was . \n \n = = Career = = \n \n In 2000 . \n \n = Du Fu = \n Poet . \n"
)


def found(path: Path, text: str = "text", documents: str = "auto") -> Source:
    (source,) = find_sources([str(path)], text)
    return scan(source, text, documents)


def texts(source: Source, text: str = "text") -> list[str]:
    """Returns the documents of a source, white space collapsed."""
    found = read_documents(source, text)
    return [" ".join(document.text.split()) for document in found if not document.fault]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- finding ---------------------------------------------------------------------------------------------------------


def test_folders_patterns_and_files_each_once(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "deep/c.jsonl", "deep/d.parquet", "picture.png", ".hidden/e.txt"):
        write(tmp_path / name, "x")
    sources = find_sources([str(tmp_path / "b.txt"), str(tmp_path), str(tmp_path / "*.txt")], "text")
    assert [Path(source.path).name for source in sources] == ["b.txt", "a.txt", "c.jsonl", "d.parquet"]
    assert [source.kind for source in sources] == ["text", "text", "jsonl", "parquet"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("artcles.txt", "did you mean 'articles.txt'"),
        ("*.md", "no file with text is there"),
        ("table.csv", "cannot be read from '.csv'"),
        ("empty", "no file with text is there"),
    ],
)
def test_inputs_that_cannot_be(tmp_path: Path, name: str, message: str) -> None:
    write(tmp_path / "articles.txt", "x")
    write(tmp_path / "table.csv", "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        find_sources([str(tmp_path / name)], "text")
    with pytest.raises(ConfigError, match="at least one"):
        find_sources([], "text")


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("org/name", ("org/name", None, "train")),
        ("org/name:test", ("org/name", None, "test")),
        ("org/name:20231101.en:train", ("org/name", "20231101.en", "train")),
    ],
)
def test_a_hub_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, called: Any) -> None:
    Dataset.from_dict({"text": ["One.", "Two.", "3."], "id": [1, 2, 3]}).save_to_disk(tmp_path / "cached")
    calls = []

    def load(repository: str, config: str | None, split: str) -> Dataset:
        calls.append((repository, config, split))
        return Dataset.load_from_disk(tmp_path / "cached").select([2, 0])

    monkeypatch.setattr("datasets.load_dataset", load)
    (source,) = find_sources([name], "text")
    assert calls == [called]
    assert texts(scan(source, "text", "line")) == ["3.", "One."]


def test_the_hub_without_the_column_or_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Dataset:
        raise ConnectionError("offline")

    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Dataset.from_dict({"text": ["a"]}))
    with pytest.raises(DataError, match=r"no column 'txt' .did you mean 'text'"):
        find_sources(["org/name"], "txt")
    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(DataError, match="neither a file here nor could its split 'train' be loaded"):
        find_sources(["org/name"], "text")


# --- looking over ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"GIF89a\0\1\2", "line 1: a zero byte"),
        (b"one\n" + "naïve".encode("latin-1") * 3, "line 2: the byte 0xef is not UTF-8"),
        (b"fine \xe2\x82", "line 1: the byte 0xe2 is not UTF-8"),
        (
            "the café\n".encode() + b"caf\xe9\n",
            "line 2 is not UTF-8, and of the 2 lines with more than ASCII 1 are",
        ),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, reason: str) -> None:
    source = found(write(tmp_path / "file.txt", content))
    assert source.skipped is not None
    assert re.match(reason, source.skipped), source.skipped


@pytest.mark.parametrize("name", ["cp1251", "utf-16", "utf-16-le"])
def test_other_encodings(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "file.txt", "хороший фильм.\nмир.\n".encode(name))
    source = scan(find_sources([str(path)], "text")[0], "text", "line", None if name == "utf-16" else name)
    assert (source.skipped, source.encoding) == (None, name)
    assert texts(source) == ["хороший фильм.", "мир."]


@pytest.mark.parametrize(
    ("mode", "content", "expected"),
    [
        ("line", "One.\n\n  \nTwo.\r\nThree.", ["One.", "Two.", "Three."]),
        ("blank", "\n\nA.\nB.\n \t\n\nC.\n", ["A. B.", "C."]),
        ("file", "A.\n\nB.\n", ["A. B."]),
        (
            "heading",
            WIKITEXT,
            ["= Robert = Robert is . He was . = = Career = = In 2000 .", "= Du Fu = Poet ."],
        ),
        ("line", "\ufeffOne.\n", ["One."]),
    ],
)
def test_documents_of_text(tmp_path: Path, mode: str, content: str, expected: list[str]) -> None:
    assert texts(found(write(tmp_path / "file.txt", content), documents=mode)) == expected


def test_documents_of_json_lines(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": "One."}, {"text": " "}, {"text": None}, {"other": 1}, {"text": 3}, [1]]
    lines = [json.dumps(row) for row in rows] + [
        '{"text": "bad',
        '{"text": "\\ud800"}',
        "",
        '{"text": "Two."}',
    ]
    source = found(write(tmp_path / "file.jsonl", "\n".join(lines)))
    assert texts(source) == ["One.", "Two."]
    bad = {each.place.rpartition(" ")[2]: each.fault for each in read_documents(source, "text") if each.fault}
    assert bad == {
        "2": "empty",
        "3": "missing",
        "4": "missing",
        "5": "not a text",
        "6": "not a JSON object",
        "7": "not a JSON object",
        "8": "not valid Unicode",
    }


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
def test_a_missing_column(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"file.{kind}"
    if kind == "jsonl":
        write(path, '{"texts": "a"}\n')
    elif kind == "parquet":
        pq.write_table(pa.table({"texts": ["a"]}), path)
    else:
        path = tmp_path / "saved"
        Dataset.from_dict({"texts": ["a"]}).save_to_disk(path)
    with pytest.raises(DataError, match=r"no column 'text' .did you mean 'texts'.*--text"):
        found(path)


def test_parquet_that_is_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "file.parquet")
    with pytest.raises(DataError, match="holds int64, not text"):
        found(tmp_path / "file.parquet")
    source = found(write(tmp_path / "damaged.parquet", b"PAR1 no"))
    assert "Parquet" in (source.skipped or "")


# --- sentences -----------------------------------------------------------------------------------------------------


def split_sentences(text: str) -> list[str]:
    """Returns the sentences of a text, put together of their pieces."""
    sentences: list[str] = []
    for piece, begins in sentence_pieces(text):
        sentences += [piece.removeprefix(" ")] if begins else []
        sentences[-1] += "" if begins else piece
    return sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("It was 3.14. Then 5 came.", ["It was 3.14.", "Then 5 came."]),
        ("Mr. Bennet met Dr. Watson. They spoke.", ["Mr. Bennet met Dr. Watson.", "They spoke."]),
        ("By J. R. R. Tolkien. Yes.", ["By J. R. R. Tolkien.", "Yes."]),
        ("In the U.S. Navy, e.g. here.", ["In the U.S. Navy, e.g. here."]),
        ("See No. 5. She said no. Then left.", ["See No. 5.", "She said no.", "Then left."]),
        ("“Stop!” he said. “No.” She went.", ["“Stop!” he said.", "“No.”", "She went."]),
        ('He said "go." (It was late.) Then', ['He said "go."', "(It was late.)", "Then"]),
        ("reached its peak . In this period", ["reached its peak .", "In this period"]),
        ("Hard-wrapped text goes\non and on. It\nends", ["Hard-wrapped text goes on and on.", "It ends"]),
        ("CHAPTER I\n\nIt was the best\n \t\nof times", ["CHAPTER I", "It was the best", "of times"]),
        ("東京です。大阪です。「はい。」終わり", ["東京です。", "大阪です。", "「はい。」", "終わり"]),
        ("Wait... What? and so on", ["Wait...", "What? and so on"]),
        ("", []),
        (" \n\n \t ", []),
        (".", ["."]),
    ],
)
def test_rules_of_sentences(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


def test_nothing_is_lost() -> None:
    generator = random.Random(0)
    parts = ["a", "Bc", ".", "!", "。", "\n", "\n\n", " ", "  ", '"', "Mr.", "é"]
    for _ in range(20):
        text = "".join(generator.choices(parts, k=3000))
        assert "".join(piece for piece, _ in sentence_pieces(text)) == " ".join(text.split())
    pieces = [("One.", True), (" Two", True), (" Three.東。", True), ("京", True)]
    assert list(sentence_pieces("One.  Two\n\nThree.東。京")) == pieces


@pytest.mark.parametrize("unit", ["x", "word ", ".", "!!!! ", " ", "\n", "a.b", "Mr. ", "”"])
def test_time_is_linear(unit: str) -> None:
    def seconds(length: int) -> float:
        text = (unit * (length // len(unit) + 1))[:length]
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            for _piece in sentence_pieces(text):
                pass
            best = min(best, time.process_time() - start)
        return best

    assert seconds(1 << 19) < 10 * seconds(1 << 17) + 0.05  # 4 times is linear, 16 quadratic


# --- blocks --------------------------------------------------------------------------------------------------------


def naive(document: list[list[int]], capacity: int) -> list[list[int]]:
    """Blocks of text of one document given as sentences."""
    blocks: list[list[int]] = [[]]
    for sentence in document:
        if len(sentence) <= capacity:
            if len(blocks[-1]) + len(sentence) > capacity:
                blocks.append([])
            blocks[-1] = blocks[-1] + sentence
        else:
            for token in sentence:
                if len(blocks[-1]) == capacity:
                    blocks.append([])
                blocks[-1] = [*blocks[-1], token]
    return [block for block in blocks if block]


def test_packing_against_the_reference() -> None:
    generator = random.Random(0)
    for _ in range(180):
        size = generator.randint(2, 40)
        lengths = [generator.randint(0, 3 * size) for _ in range(generator.randint(0, 8))]
        document = [[generator.randrange(1000) for _ in range(length)] for length in lengths]
        assert list(pack(document, size)) == naive(document, size)


# --- tokenizers ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerFast:
    """A tokenizer of RoBERTa's kind: a word and the space before it are one token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(articles(50), trainer)
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))  # type: ignore[assignment]
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=core, cls_token="<s>", sep_token="</s>", **names)


def test_sentences_encode_as_the_document_does(byte_level: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(byte_level)
    assert (encoder.prefix, encoder.suffix) == ([0], [2])
    for text in articles(20, seed=3):
        pieces = [piece for piece, _ in sentence_pieces(text.replace(". ", ".\n "))]
        joined = [token for ids in encoder.encode(pieces) for token in ids]
        assert joined == byte_level(text, add_special_tokens=False)["input_ids"]


def test_a_slow_tokenizer() -> None:
    tokenizer = CanineTokenizer()
    encoder = Encoder(tokenizer)
    assert encoder.encode(["ab", "c"]) == [[97, 98], [99]]
    assert (encoder.prefix, encoder.suffix) == ([0xE000], [0xE001])


def test_special_tokens_inside_the_text_are_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    core = Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    core.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )

    class Odd(PreTrainedTokenizerFast):
        def __call__(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            return {"input_ids": [2, 7, 3, 7]}

    with pytest.raises(ModelError, match="does not put its special tokens before and after"):
        Encoder(Odd(tokenizer_object=core))


@pytest.mark.parametrize(
    ("sample", "mode"),
    [
        ("A first article. It is long.\nA second one.\nA third.\n", "line"),
        ("A first article. It is long.\n\nA second one.\n\nA third.\n\n", "line"),
        ("A sentence.\nAnother one.\n\nNew document.\nIts second sentence.\n", "blank"),
        ((WRAPPED + "\n") * 9, "file"),
        (WRAPPED * 9, "file"),
        (WIKITEXT, "heading"),
        ("only one line", "line"),
        ("\n \n\n", "line"),
        ("", "line"),
        ("short\na title without a stop\nwords of any length here\na\n" * 9, "line"),
    ],
)
def test_auto(sample: str, mode: str) -> None:
    assert decide_documents(sample) == mode
