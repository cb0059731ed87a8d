"""Files that are not UTF-8: the line and the flag are named, and the flag works in every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from fault_world import QUICK, refused, sentences, succeeded, write_csv
from fault_world import codir as command

import codir

TEXTS = {
    "cp1252": "it’s a good film – the café was £5",
    "cp1251": "это очень хороший фильм про войну и мир",
    "gb18030": "这部电影非常好看我很喜欢",
    "cp932": "この映画はとても良かったです",
}


def rows(text: str, count: int = 24) -> list[dict[str, str]]:
    """Returns rows that a tiny model learns, each with a text of its own in a foreign encoding."""
    return [{**row, "text": f"{row['text']} {text} {n}"} for n, row in enumerate(sentences(count, seed=3))]


def read_back(model: Path, file: Path, tmp_path: Path, *flags: str) -> list[str]:
    """Returns the texts as `codir predict` has read them."""
    output = tmp_path / "read.jsonl"
    succeeded("predict", model, "--input", file, "--output", output, "--overwrite", *flags)
    return [json.loads(line)["text"] for line in output.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("encoding", list(TEXTS))
def test_the_line_is_told_and_the_flag_that_is_named_reads_the_file(encoding: str, model: Path, tmp_path: Path) -> None:
    text = TEXTS[encoding]
    file = write_csv(tmp_path / "a.csv", [{"text": text, "id": n} for n in range(5)], encoding)
    output = tmp_path / "no.jsonl"
    message = refused("predict", model, "--input", file, "--output", output, leaves_nothing=tmp_path)
    assert f"{file}, line 2: the byte 0x" in message
    assert "--encoding" in message
    assert read_back(model, file, tmp_path, "--encoding", encoding) == [text] * 5


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        *(("utf-16", ending) for ending in ("csv", "jsonl", "txt")),
        *((name, "csv") for name in ("utf-16-le", "utf-32", "utf-8-sig")),
    ],
)
def test_files_with_a_byte_order_mark_say_it_themselves(name: str, ending: str, model: Path, tmp_path: Path) -> None:
    text = "good café – это 这部"
    content = {
        "csv": f'text,label\n"{text}",a\nplain,b\n',
        "jsonl": f'{{"text": "{text}"}}\n{{"text": "plain"}}\n',
        "txt": f"{text}\nplain\n",
    }[ending]
    mark = "\ufeff" if name.endswith(("le", "be")) else ""
    file = tmp_path / f"a.{ending}"
    file.write_bytes((mark + content).encode(name))
    assert read_back(model, file, tmp_path) == [text, "plain"]
    if name == "utf-8-sig":  # the mark is certain, whatever was said of other files
        assert read_back(model, file, tmp_path, "--encoding", "cp1252") == [text, "plain"]
    if mark:
        file.write_bytes(content.encode(name))
        message = refused("predict", model, "--input", file, "--output", tmp_path / "o.jsonl")
        assert "--encoding" in message
        assert read_back(model, file, tmp_path, "--encoding", name) == [text, "plain"]


def test_utf_8_beside_a_code_page_stays_utf_8(model: Path, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "a.csv", [{"text": "the café"}])
    assert read_back(model, file, tmp_path, "--encoding", "cp1252") == ["the café"]


def test_lines_in_two_encodings_are_no_encoding(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes("text\nthe café\n".encode() + "the café\n".encode("cp1252"))
    for flags in ((), ("--encoding", "cp1252")):
        message = refused("predict", model, "--input", file, "--output", tmp_path / "o.jsonl", *flags)
        assert "line 3 is not UTF-8, and of the 2 lines with more than ASCII 1 are" in message


def test_what_is_no_encoding_or_the_wrong_one(model: Path, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "a.csv", [{"text": "ok"}, {"text": "\x81 café"}], "latin-1")
    output = tmp_path / "o.jsonl"
    for name in ("cp125", "rot13", "base64", "no such"):
        message = refused("predict", model, "--input", file, "--output", output, "--encoding", name)
        assert f"There is no encoding '{name}'" in message
    message = refused("predict", model, "--input", file, "--output", output, "--encoding", "cp1252")
    assert f"{file}, line 3: the byte 0x81 is not cp1252" in message
    message = refused("predict", model, "--input", file, "--output", output, "--encoding", "ascii")
    assert f"{file}, line 3: the byte 0x81 is not ascii" in message
    train = ("--train", file, "--output", tmp_path / "run")
    message = refused("finetune", "--model", model, *train, "--encoding", "cp125", leaves_nothing=tmp_path)
    assert "There is no encoding 'cp125' (did you mean 'cp125" in message
    message = refused("finetune", "--model", model, "--task", "cola", "--encoding", "cp1252")
    assert "encoding can only be set with files of your own" in message


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Returns the same rows in the Windows code page with semicolons, and as plain UTF-8."""
    folder = tmp_path_factory.mktemp("files")
    made = rows("it’s – £5 café")
    return write_csv(folder / "windows.csv", made, "cp1252", ";"), write_csv(folder / "plain.csv", made)


AS_THEY_ARE = ("--encoding", "cp1252", "--delimiter", ";")


@pytest.fixture(scope="module")
def run(model: Path, files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "run"
    data = ("--train", files[0], "--validation", files[0], *AS_THEY_ARE)
    succeeded("finetune", "--model", model, *data, *QUICK, "--output", output)
    return output


def test_a_run_reads_its_files_again_as_it_was_told(run: Path, files: tuple[Path, Path]) -> None:
    section = yaml.safe_load((run / "codir.yaml").read_text())["data"]
    assert (section["encoding"], section["delimiter"]) == ("cp1252", ";")
    shown = succeeded("latency", run, "--rounds", 1, "--sequences", 4, "--batch", 4, "--no-memory").text
    assert f"as in {run / 'codir.yaml'}" in shown
    assert "cannot be read" not in shown


def test_every_command_reads_them_alike(
    run: Path, model: Path, mlm: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    windows, plain = files
    scores = [
        command("evaluate", run, "--validation", file, *flags).text.split("validation", 1)[1]
        for file, flags in ((windows, AS_THEY_ARE), (plain, ()))
    ]
    assert scores[0] == scores[1]
    written = []
    for name, file, flags in (("a", windows, AS_THEY_ARE), ("b", plain, ())):
        copies = tmp_path / f"{name}.jsonl"
        succeeded("augment", "--model", mlm, "--train", file, *flags, "--copies", 2, "--output", copies)
        written.append(copies.read_text(encoding="utf-8"))
    assert written[0] == written[1]
    lines = tmp_path / "more.txt"
    lines.write_bytes("\n".join(f"it’s a good – café {n}" for n in range(9)).encode("cp1252"))
    student = ("--teacher", run, "--student-layers", 1, "--recipe", "kd", *QUICK, "--no-baseline")
    data = ("--train", windows, "--validation", windows, "--unlabeled", lines, *AS_THEY_ARE)
    succeeded("distill", *student, *data, "--output", tmp_path / "student")


def test_python_says_it_as_yaml_does(run: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    codir.predict(run, files[0], output, encoding="cp1252", delimiter=";", quiet=True)
    assert json.loads(output.read_text(encoding="utf-8").splitlines()[0])["text"].endswith("it’s – £5 café 0")
    data = {"train": "a.csv", "encoding": "windows-1252", "delimiter": "tab"}
    config = codir.FinetuneConfig.model_validate({"model": "m", "data": data, "output": "o"})
    assert (config.data.encoding, config.data.delimiter) == ("cp1252", "\t")
    with pytest.raises(ValueError, match="There is no encoding 'klingon'"):
        codir.FinetuneConfig.model_validate({"model": "m", "data": {**data, "encoding": "klingon"}, "output": "o"})


@pytest.mark.parametrize(("name", "ending"), [("cp1251", ".txt"), ("cp1252", ".jsonl"), ("utf-16", ".txt")])
def test_a_corpus_names_what_it_skips_and_reads_it(tmp_path: Path, mlm: Path, name: str, ending: str) -> None:
    """The blocks are those of the same text in UTF-8, and files that are UTF-8 stay what they are."""
    lines = [f"{TEXTS.get(name, 'café')} {number}" for number in range(20)]
    if ending == ".jsonl":
        lines = [json.dumps({"text": line}, ensure_ascii=False) for line in lines]
    keys = {}
    for place, encoding in (("theirs", name), ("ours", "utf-8")):
        folder = tmp_path / place
        folder.mkdir()
        (folder / f"a{ending}").write_bytes("\r\n".join(lines).encode(encoding))
        (folder / "b.txt").write_text("la café est là\n" * 3, encoding="utf-8")
        making = ["corpus", "--input", folder, "--tokenizer", mlm, "--block", 16, "--output", folder / "made"]
        if encoding.startswith("cp"):
            message = refused(*making, leaves_nothing=folder / "made")
            assert f"a{ending}: line 1: the byte 0x" in message
            assert "--encoding" in message
            assert "is not utf-7" in refused(*making, "--encoding", "utf-7", leaves_nothing=folder / "made")
            making += ["--encoding", name]
        said = succeeded(*making).text
        assert (f"a{ending}: read as {name}" in said) == (encoding != "utf-8")
        assert "Nothing was skipped" in said
        keys[place] = json.loads((folder / "made" / "corpus.json").read_text(encoding="utf-8"))["key"]
    assert keys["theirs"] == keys["ours"]


def test_a_corpus_and_files_that_no_one_encoding_reads(tmp_path: Path, mlm: Path) -> None:
    mixed = tmp_path / "mixed.txt"
    making = ("corpus", "--tokenizer", mlm, "--output", tmp_path / "made", "--input", mixed)
    mixed.write_bytes("le café\nla forêt\n".encode() + "déjà vu\n".encode("cp1252"))
    for flags in ((), ("--encoding", "cp1252")):
        assert "no one encoding reads them all" in refused(*making, *flags)
    assert "no encoding 'nonsense'" in refused(*making, "--encoding", "nonsense")
    assert not (tmp_path / "made").exists()
