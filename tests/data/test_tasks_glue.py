from __future__ import annotations

import os
from pathlib import Path

import datasets
import pytest

from codir.data.glue import GLUE, glue_task, load_glue
from codir.errors import ConfigError, DataError

SHARED = Path(os.environ.get("CODIR_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data") / "glue"

_PAIR = "sentence1\tsentence2"
_PARSES = "sentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
# task: (header or None, row of the training file, what is read from it: texts and label)
OFFICIAL: dict[str, tuple] = {
    "cola": ("CoLA", None, 'gj04\t0\t*\t"Hm, they went.', ['"Hm, they went.'], 0),
    "sst2": ("SST-2", "sentence\tlabel", '"a film \t1', ['"a film '], 1),
    "mrpc": (
        *("MRPC", "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"),
        *('1\t7\t8\t" One .\tTwo .', ['" One .', "Two ."], 1),
    ),
    "stsb": (
        *("STS-B", f"index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\t{_PAIR}\tscore"),
        *("0\tg\tf\t2012\t1\tn\tn\tA b.\tC d.\t3.800", ["A b.", "C d."], 3.8),
    ),
    "qqp": (
        *("QQP", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"),
        *("1\t2\t3\tA?\tB?\t1", ["A?", "B?"], 1),
    ),
    "mnli": (
        *("MNLI", f"index\tpromptID\tpairID\tgenre\t{_PARSES}\t{_PAIR}\tlabel1\tgold_label"),
        *("0\t1\t1n\tfiction\t( a )\t( b )\t(R a)\t(R b)\tA.\tB.\tneutral\tcontradiction", ["A.", "B."], 2),
    ),
    "qnli": ("QNLI", "index\tquestion\tsentence\tlabel", "0\tA?\tB.\tnot_entailment", ["A?", "B."], 1),
    "rte": ("RTE", f"index\t{_PAIR}\tlabel", "0\tA.\tB.\tentailment", ["A.", "B."], 0),
    "wnli": ("WNLI", f"index\t{_PAIR}\tlabel", "0\tA.\tB.\t1", ["A.", "B."], 1),
}


def write(folder: Path, header: str | None, rows: list[str], names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(("\n".join([*([header] if header else []), *rows]) + "\n").encode())


def splits(name: str) -> tuple[str, ...]:
    return ("train.tsv", *(("dev_matched.tsv", "dev_mismatched.tsv") if name == "mnli" else ("dev.tsv",)))


@pytest.mark.parametrize("name", list(OFFICIAL))
def test_official_formats_are_read_from_either_folder(tmp_path, name):
    folder, header, row, texts, label = OFFICIAL[name]
    write(tmp_path / folder, header, [row, row], splits(name))
    for place in (tmp_path, tmp_path / folder):
        data = load_glue(name, place)
        assert data.train is not None
        first = data.train[0]
        assert [first[column] for column in ("text", "text_pair")[: len(texts)]] == texts
        assert first["label"] == label
        assert data.train.column_names == ["text", *(["text_pair"] if len(texts) == 2 else []), "label"]
        assert [len(split) for split in (data.train, *data.validation.values())] == [2] * len(splits(name))
    assert load_glue(name, tmp_path, train=False).train is None


def test_names_and_aliases():
    assert set(OFFICIAL) == set(GLUE)
    assert glue_task("SST-2") is glue_task("sst2") is not None
    assert glue_task("sts-b") is glue_task("STSB") is not None
    assert glue_task("ax") is None
    with pytest.raises(ConfigError, match=r"did you mean 'mnli'.*wnli"):
        load_glue("mnlii")


def test_main_metrics():
    mains = {
        "cola": "matthews",
        "mrpc": "f1",
        "qqp": "accuracy",
        "stsb": "pearson_spearman",
        "mnli": "accuracy",
    }
    assert {name: GLUE[name].task.main_metric for name in mains} == mains


def test_mnli_main_split_is_the_matched_one_and_mismatched_may_be_missing(tmp_path):
    folder, header, row, *_ = OFFICIAL["mnli"]
    write(tmp_path / folder, header, [row], splits("mnli"))
    data = load_glue("mnli", tmp_path)
    assert list(data.validation) == ["validation_matched", "validation_mismatched"]
    assert data.main_split == "validation_matched"
    (tmp_path / folder / "dev_mismatched.tsv").unlink()
    assert list(load_glue("mnli", tmp_path).validation) == ["validation_matched"]


def test_the_samples_with_fewer_columns_are_read_too(tmp_path):
    rows = ["5\tA.\tB.\tneutral"]
    write(tmp_path / "mnli", "index\tsentence1\tsentence2\tgold_label", rows, splits("mnli"))
    data = load_glue("mnli", tmp_path)
    assert data.train is not None
    assert data.train[0] == {"text": "A.", "text_pair": "B.", "label": 1}


def test_quotes_and_unicode_line_separators_swallow_or_split_no_rows(tmp_path):
    rows = ['"one \t1', "two\u2028still two \x85 \t0", 'three" \t1', '"four" \t0']
    write(tmp_path, "sentence\tlabel", rows, splits("sst2"))
    data = load_glue("sst2", tmp_path)
    assert data.train is not None
    assert list(data.train["text"]) == [row.split("\t")[0] for row in rows]


def test_a_row_with_a_missing_field_names_file_and_line(tmp_path):
    rows = ["0\ta\tb\tentailment", "1\ta\tentailment"]
    write(tmp_path, f"index\t{_PAIR}\tlabel", rows, splits("rte"))
    with pytest.raises(DataError, match=r"train\.tsv, line 3: 3 fields, expected 4"):
        load_glue("rte", tmp_path)


def test_broken_rows_of_qqp_are_left_out_and_counted(tmp_path):
    folder, header, row, *_ = OFFICIAL["qqp"]
    write(tmp_path / folder, header, [row, "9\t1", row, "1\t2\t3\tA?\t\t1"], splits("qqp"))
    data = load_glue("qqp", tmp_path)
    assert data.train is not None
    assert len(data.train) == 3
    assert any("train.tsv: 1 rows with a wrong number of fields" in note for note in data.notes)
    assert any("1 rows have an empty text and were kept" in note for note in data.notes)


def test_a_bad_class_or_score_names_its_line(tmp_path):
    for label, message in (("2", "label '2' is none"), ("", "label '' is none"), ("yes", "'yes'")):
        write(tmp_path, None, ["s\t1\t\tFine.", f"s\t{label}\t\tFine."], splits("cola"))
        with pytest.raises(DataError, match=f"line 2.*{message}"):
            load_glue("cola", tmp_path)
    folder, header, row, *_ = OFFICIAL["stsb"]
    for score in ("nan", "", "inf", "high"):
        write(tmp_path / folder, header, [row, row.replace("3.800", score)], splits("stsb"))
        with pytest.raises(DataError, match=r"train\.tsv, line 3.*not a finite number"):
            load_glue("stsb", tmp_path / folder)


def test_bytes_that_are_not_utf8_name_their_line(tmp_path):
    (tmp_path / "train.tsv").write_bytes(b"sentence\tlabel\nfine\t1\ncaf\xe9\t0\n")
    with pytest.raises(DataError, match=r"train\.tsv, line 3.*0xe9 is not UTF-8"):
        load_glue("sst2", tmp_path)


def test_empty_files_and_missing_folders(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_glue("sst2", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"neither a folder SST-2 nor .*It holds: nothing"):
        load_glue("sst2", tmp_path)
    for content, message in (
        ("", r"train\.tsv is empty"),
        ("sentence\tlabel\n", r"train\.tsv is empty: it has no rows"),
        ("sentence\tlabel\nfine\t1\n", r"Cannot read .*dev\.tsv"),
    ):
        (tmp_path / "train.tsv").write_text(content)
        with pytest.raises(DataError, match=message):
            load_glue("sst2", tmp_path)


def test_another_tasks_folder_or_header_is_noticed(tmp_path):
    write(tmp_path / "QNLI", "index\tquestion\tsentence\tlabel", ["0\tA?\tB.\tentailment"], splits("qnli"))
    with pytest.raises(DataError, match="holds qnli, but the task is cola"):
        load_glue("cola", tmp_path / "QNLI")
    write(tmp_path / "mine", "index\tquestion\tsentence\tlabel", ["0\tA?\tB.\tentailment"], splits("qnli"))
    with pytest.raises(DataError, match=r"no column 'sentence1' \(did you mean 'sentence'\?\)"):
        load_glue("rte", tmp_path / "mine")


def test_the_hubs_columns_and_classes(monkeypatch):
    names = ["entailment", "neutral", "contradiction"]
    asked = []

    def serve(path, name, split):
        asked.append((path, name, split))
        text = datasets.Value("string")
        features = {"premise": text, "hypothesis": text, "label": datasets.ClassLabel(names=names)}
        columns = {"premise": ["a"], "hypothesis": ["b"], "label": [2]}
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))

    monkeypatch.setattr(datasets, "load_dataset", serve)
    data = load_glue("mnli")
    assert data.train is not None
    assert data.train[0] == {"text": "a", "text_pair": "b", "label": 2}
    assert [split for *_, split in asked] == ["train", "validation_matched", "validation_mismatched"]
    assert asked[0][:2] == ("nyu-mll/glue", "mnli")
    names.reverse()
    with pytest.raises(DataError, match="classes"):
        load_glue("mnli")

    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"nyu-mll/glue.*no network.*--data-dir"):
        load_glue("sst2")


REAL = {
    "cola": (8551, [1043]),
    "sst2": (67349, [872]),
    "mrpc": (3668, [408]),
    "stsb": (5749, [1500]),
    "wnli": (635, [71]),
    "qnli": (2000, [5463]),
    "qqp": (11946, [24024]),
    "mnli": (12906, [9815, 8839]),
}


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real GLUE data here")
@pytest.mark.parametrize("name", list(REAL))
def test_real_files_have_the_rows_they_should(name):
    data = load_glue(name, SHARED)
    assert data.train is not None
    assert (len(data.train), [len(split) for split in data.validation.values()]) == REAL[name]
    assert data.notes == []
    found = set(data.train["label"])
    assert found == set(range(len(data.task.labels))) if data.task.labels else (min(found), max(found)) == (0, 5)
