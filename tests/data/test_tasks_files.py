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


def test_csv_quotes_delimiters_and_line_ends_inside_fields(write):
    path = write("a.csv", 'text,label\r\n"a, ""b""\tc\nd",x\r\nplain,y\r\n')
    assert train_of(both(path)) == [('a, "b"\tc\nd', 0), ("plain", 1)]


@pytest.mark.parametrize("value", ["NA", "null", "NaN", "None", "nan"])
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


def test_a_byte_order_mark_is_no_part_of_the_first_column(write):
    assert train_of(both(write("a.csv", b"\xef\xbb\xbftext,label\na,x\nb,y\n"))) == [("a", 0), ("b", 1)]


def test_tabs_with_quoting_from_a_spreadsheet(write):
    path = write("a.tsv", 'text\tlabel\n"say ""yes""\tnow"\tx\n"two\nlines"\ty\n')
    assert train_of(both(path)) == [('say "yes"\tnow', 0), ("two\nlines", 1)]
    path = write("b.tsv", 'text\tlabel\n"say ""yes"""\tx\nplain "words"\ty\n')
    assert train_of(both(path)) == [('say "yes"', 0), ('plain "words"', 1)]


def test_tabs_without_quoting_a_leading_quote_swallows_no_rows(write):
    path = write("a.tsv", 'label\ttext\nx\t" one .\ny\ttwo\nx\tthree "\ny\t"four"\n')
    assert [text for text, _ in train_of(both(path))] == ['" one .', "two", 'three "', '"four"']


def test_pairs_and_other_columns(write):
    path = write("a.csv", "id,q,a,stars\n1,who,me,0\n2,how,so,1\n")
    data = load_files(path, path, text="q", text_pair="a", label="stars")
    assert data.train is not None
    assert data.train.column_names == ["text", "text_pair", "label"]
    assert train_of(data) == [("who", "me", 0), ("how", "so", 1)]
    assert data.task.text == ("q", "a")
    assert (data.task.name, data.task.labels) == ("a", ("0", "1"))


def test_plain_numbers_are_sorted_by_value_other_labels_as_text(write):
    path = write("a.csv", "text,label\na,10\nb,9\nc,-1\nd,9\n")
    assert both(path).task.labels == ("-1", "9", "10")
    assert [label for _, label in train_of(both(path))] == [2, 1, 0, 1]
    assert both(write("b.csv", "text,label\na,z\nb, b \nc,b\n")).task.labels == ("b", "z")
    assert both(write("c.jsonl", '{"text":"a","label":true}\n{"text":"b","label":false}\n')).task.labels == (
        "false",
        "true",
    )
    assert both(write("d.csv", "text,label\na,09\nb,9\nc,10\n")).task.labels == ("09", "10", "9")
    assert both(write("e.csv", "text,label\na,1.0\nb,2.0\n")).task.labels == ("1.0", "2.0")
    assert both(write("f.jsonl", '{"text":"a","label":1.0}\n{"text":"b","label":2}\n')).task.labels == (
        "1",
        "2",
    )


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
    with pytest.raises(DataError, match="9 training rows are too few"):
        load_files(write("few.csv", rows(9)), **COLUMNS)


def test_a_hold_out_is_never_empty(write):
    path = write("a.csv", rows(12, lambda i: f"c{i % 4}"))
    assert len(load_files(path, **COLUMNS).validation["validation"]) == 1


def test_validation_alone_with_the_models_classes(write):
    path = write("a.csv", "text,label\na,y\nb,y\n")
    data = load_files(None, path, **COLUMNS, labels=["y", "x"])
    assert data.train is None
    assert list(data.validation["validation"]["label"]) == [0, 0]
    with pytest.raises(ConfigError, match="class names"):
        load_files(None, path, **COLUMNS)
    with pytest.raises(
        DataError, match=r"line 2: the label 'y' is unknown to the given class names\. It has 'a', 'b'"
    ):
        load_files(None, path, **COLUMNS, labels=["a", "b"])


BAD = {
    "misspelt column": (
        "a.csv",
        "txet,label\na,x\n",
        r"a\.csv has no column 'text'.*'txet'.*It has 'txet', 'label'",
    ),
    "missing column": ("a.csv", "text,stars\na,x\n", r"a\.csv has no column 'label'. It has 'text', 'stars'"),
    "semicolons": ("a.csv", "text;label\na;x\n", "separated by ';'"),
    "column twice": (
        "a.csv",
        "text,label,text\na,x,b\n",
        r"line 1: the header names \['text'\] more than once",
    ),
    "empty file": ("a.csv", "", r"a\.csv is empty"),
    "only a byte order mark": ("a.csv", b"\xef\xbb\xbf\n", r"a\.csv is empty"),
    "only a header": ("a.csv", "text,label\n", r"a\.csv is empty: it has no rows"),
    "empty text": (
        "a.csv",
        'text,label\na,x\n"b\nc",y\n  ,y\n',
        r"line 5: the text in column 'text' is empty",
    ),
    "missing label": (
        "a.csv",
        "text,label\na,x\nb,\nc,y\n",
        r"line 3: the label in column 'label' is missing or NaN",
    ),
    "nan label": (
        "a.csv",
        "text,label\na,0.5\nb,nan\nc,nan\n",
        r"line 3: the label .*NaN \(and 1 more rows\)",
    ),
    "NA beside numbers": ("a.csv", "text,label\na,1\nb,NA\nc,0\n", r"line 3: the label .* is missing or NaN"),
    "infinite score": (
        "a.csv",
        "text,label\na,1.5\nb,inf\n",
        r"line 3: the label 'inf' is not a finite number",
    ),
    "latin-1": ("a.csv", b"text,label\na,x\ncaf\xe9,y\n", r"line 3: the byte 0xe9 is not UTF-8"),
    "utf-16 without a mark": (
        "a.csv",
        "text,label\na,x\n".encode("utf-16-le"),
        r"line 1: a zero byte.*--encoding utf-16-le",
    ),
    "short row": ("a.csv", "text,label\na,x\nb\n", r"line 3: 1 fields, but the header has 2 columns"),
    "comma in a text": ("a.csv", "text,label\na,x\nb,c,y\n", r"line 3: 3 fields, but the header has 2"),
    "open quote": (
        "a.csv",
        'text,label\na,x\n"b,y\nc,x\n',
        r"line 3: the record that starts here is not well-formed",
    ),
    "single quote in quotes": ("a.csv", 'text,label\n"a" b,x\n', r"line 2: .*not well-formed"),
    "one class": ("a.csv", "text,label\na,x\nb,x\n", r"all 2 rows have the label 'x'"),
    "unlike classes": ("a.csv", rows(40, str), r"40 different values in 40 rows.*--kind regression"),
    "broken json": ("a.jsonl", '{"text":"a","label":1}\n{"text":\n', r"line 2: not valid JSON"),
    "not an object": ("a.jsonl", '{"text":"a","label":1}\n[1]\n', r"line 2: expected a JSON object"),
    "null text": (
        "a.jsonl",
        '{"text":"a","label":1}\n\n{"text":null,"label":0}\n',
        r"line 3: .*'text' is missing",
    ),
    "number as text": (
        "a.jsonl",
        '{"text":"a","label":1}\n{"text":7,"label":0}\n',
        r"line 2: .* is not a text but 7",
    ),
    "half a surrogate": (
        "a.jsonl",
        '{"text":"a\\ud800","label":1}\n',
        r"line 1: the text .* is not valid Unicode",
    ),
    "short row of tabs": ("a.tsv", 'label\ttext\nx\t" one\ny\nx\ttwo "\ny\tb\n', r"line 3: 1 fields"),
    "key left out": ("a.jsonl", '{"text":"a","label":1}\n{"text":"b"}\n', r"line 2: the label .* is missing"),
    "json nan": ("a.jsonl", '{"text":"a","label":1}\n{"text":"b","label":NaN}\n', r"line 2: the label .*NaN"),
    "list as label": (
        "a.jsonl",
        '{"text":"a","label":[1]}\n',
        r"line 1: the label \[1\].* not a single value",
    ),
    "json array": (
        "a.json",
        '[\n{"text":"a","label":1},\n{"text":"","label":0}\n]',
        r"row 2: the text .* is empty",
    ),
    "broken array": ("a.json", '[\n{"text":"a","label":1}\n{"text":""}]', r"line 3: not valid JSON"),
    "open array": ("a.json", '[\n{"text":"a","label":1},\n', r"not valid JSON"),
    "broken parquet": ("a.parquet", "no parquet", r"a\.parquet is not a readable Parquet file"),
    "plain text": ("a.txt", "a\n", "plain text file has no columns"),
    "strange ending": ("a.xlsx", "a", r"the ending '\.xlsx' is not one codir can read"),
    "score not a number": (
        "a.tsv",
        "text\tlabel\na\t1.5\nb\thigh\n",
        r"line 3: the label 'high' is not a finite",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_names_the_place(write, name):
    file, content, message = BAD[name]
    path = write(file, content)
    with pytest.raises(DataError, match=f"(?s){message}") as caught:
        both(path, kind="regression" if name == "score not a number" else None)
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


def test_a_validation_label_that_training_lacks_names_its_line(write):
    train = write("train.csv", "text,label\na,good\nb,bad\n")
    held = write("dev.csv", "text,label\na,good\nb,god\n")
    message = r"dev\.csv, line 3: the label 'god' is unknown to the training split .*train\.csv \(did you mean 'good'"
    with pytest.raises(DataError, match=message):
        load_files(train, held, **COLUMNS)


def test_a_missing_file_names_its_neighbour(write, tmp_path):
    write("train.csv", rows(20))
    with pytest.raises(DataError, match=r"Cannot read .*trian\.csv.*did you mean 'train\.csv'"):
        load_files(tmp_path / "trian.csv", **COLUMNS)
    with pytest.raises(DataError, match="is a folder"):
        load_files(tmp_path, **COLUMNS)


def test_arguments_that_do_not_fit_are_refused(write):
    path = write("a.csv", rows(20))
    with pytest.raises(ConfigError, match="training file, a validation file, or both"):
        load_files(None, **COLUMNS)
    with pytest.raises(ConfigError, match="must differ"):
        load_files(path, text="text", label="text")


def test_a_long_field_is_read_whole(write):
    path = write("a.csv", f"text,label\n{'w ' * 100_000},x\nb,y\n")
    assert len(train_of(both(path))[0][0]) == 200_000


def test_a_hub_data_set_by_column_names(monkeypatch):
    features = datasets.Features(
        {"review": datasets.Value("string"), "stars": datasets.ClassLabel(names=["pos", "neg"])}
    )
    asked = []

    def serve(path, name, split):
        asked.append((path, name, split))
        return datasets.Dataset.from_dict({"review": ["a", "b"], "stars": [0, 1]}, features=features)

    monkeypatch.setattr(datasets, "load_dataset", serve)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["train", "validation", "test"])
    data = load_files("owner/films", text="review", label="stars")
    assert asked == [("owner/films", None, "train"), ("owner/films", None, "validation")]
    assert data.task.labels == ("pos", "neg")  # the data set's own order, not the alphabet's
    assert train_of(data) == [("a", 0), ("b", 1)]
    with pytest.raises(DataError, match=r"owner/films \(split test\) has no column 'text'"):
        load_files("owner/films:test", "owner/films", text="text", label="stars")


def test_no_file_and_no_hub(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

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
    with pytest.raises(DataError, match=r"a\.txt, line 2: the text .* is empty"):
        load_texts(write("a.txt", "a\n\nb\n"))
    split = load_texts(write("a.csv", "q,a\nwho,me\n"), text="q", text_pair="a")
    assert split[0] == {"text": "who", "text_pair": "me"}
    with pytest.raises(DataError, match="cannot hold pairs"):
        load_texts(write("a.txt", "a\n"), text_pair="b")
