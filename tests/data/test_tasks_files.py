"""Own files: what is read as it stands, which labels are classes, and the place of whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from codir.data.files import load_files, load_texts, read_texts
from codir.errors import ConfigError, DataError

COLUMNS = {"text": "text", "label": "label"}


@pytest.fixture
def write(tmp_path):
    """Returns a writer of a file of the given name, as text or bytes; it gives back the path."""

    def make(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def rows(count: int, label=lambda i: "ab"[i % 2]) -> str:
    return "text,label\n" + "".join(f"sentence {i},{label(i)}\n" for i in range(count))


def both(path: Path, **options):
    """Loads one file as both splits."""
    return load_files(path, path, **{**COLUMNS, **options})


def train_of(data) -> list:
    return [tuple(row.values()) for row in data.train]


@pytest.mark.parametrize("value", ["NA", "null", "nan"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_na_as_a_text_stays_a_text(write, tmp_path, value, ending):
    table = [{"text": value, "label": "x"}, {"text": "b", "label": "y"}]
    if ending == "parquet":
        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    elif ending.startswith("json"):
        content = json.dumps(table, indent=1) if ending == "json" else "\n".join(map(json.dumps, table))
        path = write(f"a.{ending}", content)
    else:
        d = {"csv": ",", "tsv": "\t"}[ending]
        path = write(f"a.{ending}", f"text{d}label\n{value}{d}x\nb{d}y\n")
    assert train_of(both(path)) == [(value, 0), ("b", 1)]


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.csv", 'text,label\r\n"a, ""b""\tc\nd",x\r\nplain,y\r\n', ['a, "b"\tc\nd', "plain"]),
        ("a.csv", b"\xef\xbb\xbftext,label\na,x\nb,y\n", ["a", "b"]),
        ("a.csv", f"text,label\n{'w ' * 100_000},x\nb,y\n", ["w " * 100_000, "b"]),
        # tabs with quoting from a spreadsheet
        ("a.tsv", 'text\tlabel\n"say ""yes""\tnow"\tx\n"two\nlines"\ty\n', ['say "yes"\tnow', "two\nlines"]),
        ("a.tsv", 'text\tlabel\n"say ""yes"""\tx\nplain "words"\ty\n', ['say "yes"', 'plain "words"']),
        # and without: a leading quote swallows no rows
        (
            "a.tsv",
            'text\tlabel\n" one .\tx\ntwo\ty\nthree "\tx\n"four"\ty\n',
            ['" one .', "two", 'three "', '"four"'],
        ),
    ],
)
def test_texts_are_what_they_are(write, name, content, texts):
    assert [text for text, _ in train_of(both(write(name, content)))] == texts


def test_pairs_and_other_columns(write):
    path = write("a.csv", "id,q,a,stars\n1,who,me,0\n2,how,so,1\n")
    data = load_files(path, path, text="q", text_pair="a", label="stars")
    assert data.train is not None
    assert data.train.column_names == ["text", "text_pair", "label"]
    assert train_of(data) == [("who", "me", 0), ("how", "so", 1)]
    assert (data.task.name, data.task.text, data.task.labels) == ("a", ("q", "a"), ("0", "1"))


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        (["10", "9", "-1", "9"], ("-1", "9", "10"), [2, 1, 0, 1]),  # plain numbers by value, others as text
        (["z", " b ", "b"], ("b", "z"), [1, 0, 0]),
        (["09", "9", "10"], ("09", "10", "9"), [0, 2, 1]),
        (["1.0", "2.0"], ("1.0", "2.0"), [0, 1]),
        ([1.0, 2], ("1", "2"), [0, 1]),
        ([True, False], ("false", "true"), [1, 0]),
        ([True, 1, "1"], ("1", "true"), [1, 0, 0]),
    ],
)
def test_labels_that_are_classes(write, labels, names, ids):
    path = write("a.csv", "text,label\n" + "".join(f"a{n},{label}\n" for n, label in enumerate(labels)))
    if not all(isinstance(label, str) for label in labels):
        lines = [json.dumps({"text": f"a{n}", "label": label}) for n, label in enumerate(labels)]
        path = write("a.jsonl", "\n".join(lines))
    data = both(path)
    assert data.task.labels == names
    assert [label for _, label in train_of(data)] == ids


def test_numbers_that_are_not_whole_are_scores(write):
    data = both(write("a.csv", "text,label\na,1\nb,2.5\n"))
    assert (data.task.kind, data.task.labels, data.task.main_metric) == (
        "regression",
        None,
        "pearson_spearman",
    )
    assert train_of(data) == [("a", 1.0), ("b", 2.5)]
    data = both(write("b.csv", "text,label\na,1\nb,2\n"), kind="regression")
    assert train_of(data) == [("a", 1.0), ("b", 2.0)]
    data = both(write("c.csv", "text,label\na,1.5\nb,2.5\n"), kind="classification")
    assert data.task.labels == ("1.5", "2.5")


def test_a_tenth_is_held_out_stratified_and_this_is_said(write):
    path = write("a.csv", rows(200, lambda i: "x" if i % 4 else "y"))
    data = load_files(path, **COLUMNS)
    assert data.task.metrics == ("accuracy", "macro_f1")
    held = data.validation["validation"]
    assert data.train is not None
    assert (len(data.train), len(held)) == (180, 20)
    assert list(held["label"]).count(1) == 5
    assert not set(held["text"]) & set(data.train["text"])
    assert "20 of 200 training rows were held out" in data.notes[0]
    assert list(load_files(path, **COLUMNS).validation["validation"]["text"]) == list(held["text"])
    few = write("few.csv", rows(12, lambda i: f"c{i % 4}"))
    assert len(load_files(few, **COLUMNS).validation["validation"]) == 1  # never empty
    with pytest.raises(DataError, match="9 training rows are too few"):
        load_files(write("few.csv", rows(9)), **COLUMNS)


def test_validation_alone_with_the_models_classes(write):
    path = write("a.csv", "text,label\na,y\nb,y\n")
    data = load_files(None, path, **COLUMNS, labels=["y", "x"])
    assert data.train is None
    assert list(data.validation["validation"]["label"]) == [0, 0]
    with pytest.raises(ConfigError, match="class names"):
        load_files(None, path, **COLUMNS)
    message = r"line 2: the label 'y' is unknown to the given class names\. It has 'a', 'b'"
    with pytest.raises(DataError, match=message):
        load_files(None, path, **COLUMNS, labels=["a", "b"])


ONE = '{"text":"a","label":1}\n'
BAD = [
    ("a.csv", "txet,label\na,x\n", r"a\.csv has no column 'text'.*'txet'.*It has 'txet', 'label'"),
    ("a.csv", "text;label\na;x\n", "separated by ';'"),
    ("a.csv", "text,label,text\na,x,b\n", r"line 1: the header names \['text'\] more than once"),
    ("a.csv", b"\xef\xbb\xbf\n", r"a\.csv is empty"),
    ("a.csv", "text,label\n", r"a\.csv is empty: it has no rows"),
    ("a.csv", 'text,label\na,x\n"b\nc",y\n  ,y\n', r"line 5: the text in column 'text' is empty"),
    ("a.csv", "text,label\na,x\nb,\nc,y\n", r"line 3: the label in column 'label' is missing or NaN"),
    ("a.csv", "text,label\na,0.5\nb,nan\nc,nan\n", r"line 3: the label .*NaN \(and 1 more rows\)"),
    ("a.csv", "text,label\na,1\nb,NA\nc,0\n", r"line 3: the label .* is missing or NaN"),
    ("a.csv", "text,label\na,1.5\nb,inf\n", r"line 3: the label 'inf' is not a finite number"),
    ("a.csv", b"text,label\na,x\ncaf\xe9,y\n", r"line 3: the byte 0xe9 is not UTF-8"),
    ("a.csv", "text,label\na,x\n".encode("utf-16-le"), r"line 1: a zero byte.*--encoding utf-16-le"),
    ("a.csv", "text,label\na,x\nb\n", r"line 3: 1 fields, but the header has 2 columns"),
    ("a.csv", "text,label\na,x\nb,c,y\n", r"line 3: 3 fields, but the header has 2"),
    ("a.csv", 'text,label\na,x\n"b,y\nc,x\n', r"line 3: the record that starts here is not well-formed"),
    ("a.csv", 'text,label\n"a" b,x\n', r"line 2: .*not well-formed"),
    ("a.csv", "text,label\na,x\nb,x\n", r"all 2 rows have the label 'x'"),
    ("a.csv", rows(40, str), r"40 different values in 40 rows.*--kind regression"),
    ("a.tsv", 'label\ttext\nx\t" one\ny\nx\ttwo "\ny\tb\n', r"line 3: 1 fields"),
    ("score.tsv", "text\tlabel\na\t1.5\nb\thigh\n", r"line 3: the label 'high' is not a finite"),
    ("a.jsonl", ONE + '{"text":\n', r"line 2: not valid JSON"),
    ("a.jsonl", ONE + "[1]\n", r"line 2: expected a JSON object"),
    ("a.jsonl", ONE + '\n{"text":null,"label":0}\n', r"line 3: .*'text' is missing"),
    ("a.jsonl", ONE + '{"text":7,"label":0}\n', r"line 2: .* is not a text but 7"),
    ("a.jsonl", '{"text":"a\\ud800","label":1}\n', r"line 1: the text .* is not valid Unicode"),
    ("a.jsonl", ONE + '{"text":"b"}\n', r"line 2: the label .* is missing"),
    ("a.jsonl", ONE + '{"text":"b","label":NaN}\n', r"line 2: the label .*NaN"),
    ("a.jsonl", '{"text":"a","label":[1]}\n', r"line 1: the label \[1\].* is of the type list"),
    ("a.json", f'[{ONE},{{"text":"","label":0}}]', r"row 2: the text .* is empty"),
    ("a.json", f'[\n{ONE}{{"text":""}}]', r"line 3: not valid JSON"),
    ("a.parquet", "no parquet", r"a\.parquet is not a readable Parquet file"),
    ("a.txt", "a\n", "plain text file has no columns"),
    ("a.xlsx", "a", r"the ending '\.xlsx' is not one codir can read"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_bad_input_names_the_place(write, name, content, message):
    path = write(name, content)
    with pytest.raises(DataError, match=f"(?s){message}") as caught:
        both(path, kind="regression" if name == "score.tsv" else None)
    assert str(path) in str(caught.value)


def test_bad_parquet_rows(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": [1.5, None]}), path)
    with pytest.raises(DataError, match=r"row 2: the label .* is missing"):
        both(path)
    with pytest.raises(DataError, match=r"no column 'txt' \(did you mean 'text'\?\)"):
        both(path, text="txt")
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], "string"), "label": []}), path)
    with pytest.raises(DataError, match="is empty"):
        both(path)


def test_other_files_and_arguments_that_do_not_fit(write, tmp_path):
    train = write("train.csv", rows(20))
    held = write("dev.csv", "text,label\na,a\nb,bb\n")
    message = r"dev\.csv, line 3: the label 'bb' is unknown to the training split .*train\.csv \(did you mean 'b'"
    with pytest.raises(DataError, match=message):
        load_files(train, held, **COLUMNS)
    with pytest.raises(DataError, match=r"Cannot read .*trian\.csv.*did you mean 'train\.csv'"):
        load_files(tmp_path / "trian.csv", **COLUMNS)
    with pytest.raises(DataError, match="is a folder"):
        load_files(tmp_path, **COLUMNS)
    with pytest.raises(ConfigError, match="training file, a validation file, or both"):
        load_files(None, **COLUMNS)
    with pytest.raises(ConfigError, match="must differ"):
        load_files(train, text="text", label="text")


def test_a_hub_data_set_by_column_names(monkeypatch):
    stars = datasets.ClassLabel(names=["pos", "neg"])
    features = datasets.Features({"review": datasets.Value("string"), "stars": stars})
    asked = []

    def serve(path, name, split):
        asked.append((path, name, split))
        return datasets.Dataset.from_dict({"review": ["a", "b"], "stars": [0, 1]}, features=features)

    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", serve)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["train", "validation", "test"])
    data = load_files("owner/films", text="review", label="stars")
    assert asked == [("owner/films", None, "train"), ("owner/films", None, "validation")]
    assert data.task.labels == ("pos", "neg")  # the data set's own order, not the alphabet's
    assert train_of(data) == [("a", 0), ("b", 1)]
    with pytest.raises(DataError, match=r"owner/films \(split test\) has no column 'text'"):
        load_files("owner/films:test", "owner/films", **COLUMNS)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"'owner/films' is neither a file here nor .*no network"):
        load_files("owner/films", text="review", label="stars")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_optional_columns_are_read_where_they_are(ending, tmp_path):
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "more": ["1", "2"]}), path)
    elif ending == "csv":
        path.write_text("text,more\na,1\nb,2\n")
    else:
        path.write_text('{"text": "a", "more": "1"}\n{"text": "b", "more": "2"}\n')
    rows = read_texts(path, text="text", optional=("more", "none", "text"))
    assert rows.columns == {"text": ["a", "b"], "more": ["1", "2"]}


def test_texts_for_prediction(write):
    assert list(load_texts(write("a.txt", '"a\tb\r\nNA\n'))["text"]) == ['"a\tb', "NA"]
    for encoding in ("utf-16-le", "cp1252", "utf-8-sig"):  # what is UTF-8 is read as nothing else
        for text in ("café", "cafe"):
            assert list(load_texts(write("a.txt", f"{text}\n"), encoding=encoding)["text"]) == [text]
    with pytest.raises(DataError, match=r"a\.txt, line 2: the text .* is empty"):
        load_texts(write("a.txt", "a\n\nb\n"))
    split = load_texts(write("a.csv", "q,a\nwho,me\n"), text="q", text_pair="a")
    assert split[0] == {"text": "who", "text_pair": "me"}
    with pytest.raises(DataError, match="cannot hold pairs"):
        load_texts(write("a.txt", "a\n"), text_pair="b")
