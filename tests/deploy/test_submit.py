"""`codir submit` on small GLUE folders (test sets of 6 rows), and on the real test files where they are at hand."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from codir.cli.main import app
from codir.data.glue import GLUE
from codir.deploy.submission import FILES, ROWS, find_test_file, read_test_file
from codir.deploy.submit import choose_models, submit
from codir.errors import ConfigError, DataError, ModelError, RunError

N = 6
TEXTS = ["a cat", 'the "dog" is', "good film", "bad film was awful", "a man sees a cat", "no"]
PAIRS = [(text, TEXTS[-1 - number]) for number, text in enumerate(TEXTS)]
HEADERS = {
    "CoLA/test.tsv": ("index", "sentence"),
    "SST-2/test.tsv": ("index", "sentence"),
    "MRPC/test.tsv": ("index", "#1 ID", "#2 ID", "#1 String", "#2 String"),
    "STS-B/test.tsv": ("index", "genre", "sentence1", "sentence2"),
    "QQP/test.tsv": ("id", "question1", "question2"),
    "MNLI/test_matched.tsv": ("index", "promptID", "pairID", "genre", "sentence1", "sentence2"),
    "MNLI/test_mismatched.tsv": ("index", "promptID", "pairID", "genre", "sentence1", "sentence2"),
    "QNLI/test.tsv": ("index", "question", "sentence"),
    "RTE/test.tsv": ("index", "sentence1", "sentence2"),
    "WNLI/test.tsv": ("index", "sentence1", "sentence2"),
    "diagnostic/diagnostic.tsv": ("index", "sentence1", "sentence2"),
}


def write_test(path: Path, rows: int = N) -> None:
    header = HEADERS[f"{path.parent.name}/{path.name}"]
    width = 1 if header[-1] == "sentence" and len(header) == 2 else 2
    lines = ["\t".join(header)]
    for row in range(rows):
        texts = PAIRS[row % len(PAIRS)][:width]
        lines.append("\t".join([str(row), *["x"] * (len(header) - 1 - width), *texts]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def glue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GLUE folder with all test files, of 6 rows each."""
    for name in ROWS:
        monkeypatch.setitem(ROWS, name, N)
    folder = tmp_path / "glue"
    for name in HEADERS:
        write_test(folder / name)
    return folder


@pytest.fixture
def model(tiny_model_dir: Callable[..., Path]) -> Callable[..., Path]:
    """Returns a factory of tiny models for a task, with the task's class names or others."""

    def make(task: str, labels: tuple[str, ...] | None = None, **settings: object) -> Path:
        known = GLUE[task].task.labels
        settings = {"layers": 1, **settings}
        if known is None and labels is None:
            return tiny_model_dir(regression=True, **settings)
        return tiny_model_dir(labels=labels or known, **settings)

    return make


def as_run(folder: Path, task: str, command: str = "finetune", score: float = 0.5, state: str = "finished", **data):
    """Makes a model folder look like the folder of a run."""
    (folder / "codir.yaml").write_text(yaml.safe_dump({"command": command, "data": {"task": task, **data}}))
    (folder / "run.json").write_text(json.dumps({"state": state}))
    (folder / "trained.json").write_text(json.dumps({"best_score": score}))
    return folder


def written(archive: Path) -> dict[str, list[str]]:
    with zipfile.ZipFile(archive) as opened:
        return {
            name: [line.split("\t")[1] for line in opened.read(name).decode().splitlines()[1:]]
            for name in opened.namelist()
        }


def logits(folder: Path, texts: list[tuple[str, ...]], **settings: object) -> torch.Tensor:
    """What transformers alone gives, one text at a time."""
    classifier = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return torch.cat([classifier(**tokenizer(*t, return_tensors="pt", **settings)).logits for t in texts])


SINGLE = [(text,) for text in TEXTS]


# --- the archive --------------------------------------------------------------------------------------------------


def test_every_task_predicts_its_files(tmp_path: Path, glue: Path, model: Callable[..., Path]) -> None:
    folders = {task: model(task, seed=number) for number, task in enumerate(GLUE)}
    entries = ",".join(f"{task}={folder}" for task, folder in folders.items())
    result = submit([entries], glue, tmp_path / "s.zip", batch_size=4, quiet=True)
    assert result.filled == []
    found = written(tmp_path / "s.zip")
    for name, file in FILES.items():
        expected = logits(folders[file.task], PAIRS if GLUE[file.task].task.pairs else SINGLE)
        if not file.words:
            scores = [float(word) for word in found[name]]
            assert scores == pytest.approx(expected[:, 0].clamp(0, 5).tolist(), abs=2e-6)
        else:
            assert found[name] == [file.words[int(number)] for number in expected.argmax(1)]


def test_missing_tasks_are_filled_and_it_is_said(tmp_path: Path, glue: Path, model: Callable[..., Path]) -> None:
    out = io.StringIO()
    result = submit([f"mrpc={model('mrpc')}"], glue, tmp_path / "s.zip", console=Console(file=out, width=160))
    assert result.filled == [name for name in FILES if name != "MRPC.tsv"]
    found = written(tmp_path / "s.zip")
    assert found["CoLA.tsv"] == ["1"] * N
    assert found["WNLI.tsv"] == ["0"] * N
    assert found["STS-B.tsv"] == ["2.0", "3.0"] * 3  # a constant has no correlation
    assert found["AX.tsv"] == ["entailment"] * N
    manifest = (tmp_path / "s.md").read_text()
    for said in (out.getvalue(), manifest):
        assert "10 of 11 files have no model's predictions in them (CoLA.tsv, SST-2.tsv, STS-B.tsv," in said
        assert "filled in: 2.0 and 3.0" in said
        assert "no result of yours" in said
    assert "| MRPC.tsv |" in manifest
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert archive.namelist() == list(FILES)  # the manifest lies beside the archive, not in it
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_diagnostic_data_may_be_missing_or_elsewhere(tmp_path: Path, glue: Path, model: Callable[..., Path]) -> None:
    entry = [f"mnli={model('mnli')}"]
    file = FILES["AX.tsv"]
    assert find_test_file(file, glue) == glue / "diagnostic/diagnostic.tsv"
    (glue / "AX").mkdir()
    shutil.move(glue / "diagnostic/diagnostic.tsv", glue / "AX/AX.tsv")
    assert find_test_file(file, glue) == glue / "AX/AX.tsv"
    shutil.rmtree(glue / "AX")
    result = submit(entry, glue, tmp_path / "c.zip", quiet=True)
    assert "AX.tsv" in result.filled
    assert any("although there is a model" in note for note in result.notes)
    with pytest.raises(ConfigError, match=r"no test data, for CoLA.*AX\.tsv"):
        submit(entry, glue, tmp_path / "d.zip", fill=False)


def test_classes_are_matched_by_name(tmp_path: Path, glue: Path, model: Callable[..., Path]) -> None:
    swapped = model("mnli", labels=("CONTRADICTION", "neutral", "Entailment"))
    result = submit([f"mnli={swapped}"], glue, tmp_path / "s.zip", quiet=True)
    words = ["contradiction", "neutral", "entailment"]
    expected = [words[int(number)] for number in logits(swapped, PAIRS).argmax(1)]
    assert written(tmp_path / "s.zip")["MNLI-m.tsv"] == expected
    assert len(set(expected)) > 1
    assert not any("order" in note for note in result.notes)


def test_other_classes_are_refused(tmp_path: Path, glue: Path, model: Callable[..., Path]) -> None:
    for task, other, message in (
        ("sst2", "cola", r"negative.*positive"),
        ("stsb", "mnli", "3 outputs"),
        ("mrpc", "stsb", "output"),
    ):
        with pytest.raises((DataError, ModelError), match=message):
            submit([f"{task}={model(other)}"], glue, tmp_path / "s.zip", quiet=True)
    assert not (tmp_path / "s.zip").exists()


def test_scores_are_clipped_and_it_is_said(tmp_path: Path, glue: Path, tiny_classifier, tiny_tokenizer) -> None:
    folder, wide = tmp_path / "m", tiny_classifier(regression=True)
    wide.classifier.weight.data.mul_(100)
    wide.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    result = submit([f"sts-b={folder}"], glue, tmp_path / "s.zip", quiet=True)
    raw = logits(folder, PAIRS)[:, 0]
    outside = int(((raw < 0) | (raw > 5)).sum())
    assert outside
    assert f"STS-B.tsv: {outside} scores were outside of 0 to 5 and were clipped." in result.notes
    found = [float(word) for word in written(tmp_path / "s.zip")["STS-B.tsv"]]
    assert found == pytest.approx(raw.clamp(0, 5).tolist(), abs=1e-5)


def test_texts_are_cut_where_training_cut_them(tmp_path: Path, glue: Path, model: Callable[..., Path]) -> None:
    folder = as_run(model("cola"), "cola", max_length=4)
    result = submit([str(folder)], glue, tmp_path / "s.zip", quiet=True)
    expected = logits(folder, SINGLE, truncation=True, max_length=4).argmax(1)
    assert written(tmp_path / "s.zip")["CoLA.tsv"] == [str(int(number)) for number in expected]
    assert any("longer than 4 tokens and were cut" in note for note in result.notes)
    result = submit([str(folder)], glue, tmp_path / "t.zip", max_length=64, quiet=True)
    assert not any("were cut" in note for note in result.notes)


def test_nan_leaves_nothing(tmp_path: Path, glue: Path, tiny_classifier, tiny_tokenizer) -> None:
    broken = tiny_classifier(labels=GLUE["cola"].task.labels)
    word = tiny_tokenizer.convert_tokens_to_ids("dog")
    broken.bert.embeddings.word_embeddings.weight.data[word] = float("nan")
    broken.save_pretrained(tmp_path / "m")
    tiny_tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match=r"NaN or infinity for row 2 of .*CoLA/test\.tsv"):
        submit([f"cola={tmp_path / 'm'}"], glue, tmp_path / "s.zip", quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == {"glue", "m"}


def test_the_command_and_what_it_does_not_overwrite(tmp_path: Path, glue: Path, model: Callable[..., Path]) -> None:
    out, environment = tmp_path / "s.zip", {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}

    def run(*flags: str, output: Path = out) -> tuple[int, str]:
        given = ["submit", *models, "--data-dir", str(glue), "--output", str(output), *flags]
        ended = CliRunner(env=environment).invoke(app, given)
        return ended.exit_code, ended.output

    models = ["--models", f"mrpc={model('mrpc')},cola={model('cola')}", "--models", f"rte={model('rte')}"]
    code, text = run()
    assert code == 0, text
    assert "8 of 11 files have no model's predictions" in text
    assert "gluebenchmark.com/submit" in text
    first = out.read_bytes()
    for flags, output, message in (
        ((), tmp_path / "s.tar", "ends in .zip"),
        ((), out, "s.zip exists already"),
        (("--overwrite", "--no-fill"), out, "leave out --no-fill"),
    ):
        code, text = run(*flags, output=output)
        assert (code, message in text) == (2, True)
    assert out.read_bytes() == first
    out.unlink()
    assert "s.md exists already" in run()[1]
    assert run("--overwrite")[0] == 0
    assert out.read_bytes() == first  # the same predictions give the same bytes


# --- the test files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("MRPC/test.tsv", lambda text: text[: text.rindex("5\t")], r"has 5 rows, but the official.*has 6.*part of"),
        ("MRPC/test.tsv", lambda text: text.replace("\n3\t", "\n7\t"), r"line 5: the index is '7', expected 3"),
        ("MRPC/test.tsv", lambda text: text.replace("#2 String", "#2 Strings"), r"mean '#2 Strings'"),
        ("MRPC/test.tsv", lambda text: text.replace("\n2\tx\t", "\n2\t"), "line 4: 4 fields, expected 5"),
        ("MRPC/test.tsv", lambda text: "", "is empty"),
        ("MRPC/test.tsv", None, r"not the official test file \(test\.tsv\).*leave out the model"),
        ("CoLA/test.tsv", lambda text: "gj04\t1\t\ta cat\n" * (N + 1), "no column 'index'"),  # like dev.tsv
        ("RTE/test.tsv", lambda text: text.replace("sentence2\n", "sentence2\tlabel\n", 1), "has labels"),
    ],
)
def test_test_files_other_than_the_official_ones_are_refused(
    tmp_path: Path, glue: Path, name: str, change: Callable[[str], str] | None, message: str
) -> None:
    path = glue / name
    if change is None:
        path.unlink()
    else:
        path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        submit([f"{name.partition('/')[0].lower()}=no/such/model"], glue, tmp_path / "s.zip")
    assert not (tmp_path / "s.zip").exists()


def test_broken_rows_of_qqp_get_a_prediction(glue: Path) -> None:
    path = glue / "QQP/test.tsv"
    lines = path.read_text().split("\n")
    lines[3] = "2\ta cat"
    path.write_text("\n".join(lines))
    texts, notes = read_test_file(FILES["QQP.tsv"], path)
    assert len(texts) == N
    assert texts[2] == {"text": "a cat", "text_pair": ""}
    assert "1 rows have a wrong number of fields" in notes[0]


def test_test_files_are_read_as_they_are(tmp_path: Path, glue: Path) -> None:
    texts, _ = read_test_file(FILES["SST-2.tsv"], glue / "SST-2/test.tsv")
    assert texts["text"][:] == TEXTS  # a quote is a character like any other
    assert "text_pair" not in texts.column_names
    path = glue / "MRPC/test.tsv"
    # as the official file was once
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    texts, _ = read_test_file(FILES["MRPC.tsv"], path)
    # the task's own folder will do, and nothing outside of it is read
    (glue / "MNLI/dev_matched.tsv").write_text("x\n")
    assert find_test_file(FILES["MNLI-mm.tsv"], glue / "MNLI") == glue / "MNLI/test_mismatched.tsv"
    assert find_test_file(FILES["AX.tsv"], glue / "MNLI") is None
    assert list(zip(texts["text"], texts["text_pair"], strict=True)) == PAIRS


# --- which model --------------------------------------------------------------------------------------------------


def test_models_are_named_one_by_one(tmp_path: Path) -> None:
    chosen = choose_models(["SST-2=runs/a, cola=owner/model", "sts-b=b=c"])
    models = {"cola": "owner/model", "sst2": "runs/a", "stsb": "b=c"}
    assert {task: choice.model for task, choice in chosen.items()} == models
    for entries, message in (
        (["mrcp=a"], r"no task 'mrcp' \(did you mean 'mrpc'"),
        (["mnli-mm=a"], "mnli's model predicts MNLI-m"),
        (["cola=a", "CoLA=b"], "two models for cola: a and b"),
        ([" , "], "There is no model"),
        ([str(tmp_path / "none")], "does not exist"),
    ):
        with pytest.raises(ConfigError, match=message):
            choose_models(entries)


def test_a_model_folder_says_its_task_or_must_be_told(model: Callable[..., Path]) -> None:
    folder = model("qnli")
    with pytest.raises(ConfigError, match="does not say which GLUE task"):
        choose_models([str(folder)])
    as_run(folder, "QNLI", max_length=77)
    assert choose_models([str(folder)])["qnli"] == ("qnli", str(folder), 77, ())
    chosen = choose_models([f"rte={folder}"])["rte"]  # same classes, so only the configuration knows
    assert "was trained on qnli, not on rte" in chosen.notes[0]
    (folder / "codir.yaml").write_text("a: [")
    with pytest.raises(RunError, match=r"codir\.yaml is damaged"):
        choose_models([str(folder)])


def test_a_folder_of_runs_gives_the_best_of_each_task(tmp_path: Path) -> None:
    def run(name: str, task: str, command: str, score: float, state: str = "finished") -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        return as_run(folder, task, command, score, state)

    run("teachers/mrpc", "mrpc", "finetune", 0.99)
    run("trials/mrpc/kd/1", "mrpc", "distill", 0.7)
    best = run("trials/mrpc/kd/2", "mrpc", "distill", 0.8)
    run("trials/mrpc/kd/3", "mrpc", "distill", 0.9, state="running")
    run("trials/mrpc/kd/2/comparison/kd", "mrpc", "distill", 0.95)  # part of a run, not one of its own
    teacher = run("teachers/cola", "cola", "finetune", 0.3)
    run(".hidden", "rte", "finetune", 1.0)
    chosen = choose_models([str(tmp_path / "runs")])
    assert {task: choice.model for task, choice in chosen.items()} == {"cola": str(teacher), "mrpc": str(best)}
    with pytest.raises(ConfigError, match="no finished run of a GLUE task"):
        choose_models([str(run("late/mrpc", "mrpc", "distill", 1.0, state="failed").parent)])


# --- the format ---------------------------------------------------------------------------------------------------


def test_official_numbers_of_rows() -> None:
    # `wc -l` of a submission that the server took, as printed in the README of BERT on STILTs, headers included
    lines = (
        "1105 AX 1064 CoLA 9848 MNLI-mm 9797 MNLI-m 1726 MRPC 5464 QNLI 390966 QQP 3001 RTE 1822 SST-2 1380 STS-B "
        "147 WNLI"
    )
    words = lines.split()
    assert {f"{name}.tsv": int(count) - 1 for count, name in zip(words[::2], words[1::2], strict=True)} == ROWS
    assert list(ROWS) == list(FILES)


def test_words_stand_for_the_classes_of_the_task() -> None:
    for file in FILES.values():
        labels = GLUE[file.task].task.labels or ()
        assert file.words in (labels, ("0", "1")[: len(labels)])
        assert not file.words or set(file.fill) <= set(file.words)
    assert {file.task for file in FILES.values()} == set(GLUE)


# --- the real test files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "STS-B.tsv", "QNLI.tsv", "WNLI.tsv"])
def test_official_test_files_have_the_official_rows(shared_data: Path, name: str) -> None:
    path = find_test_file(FILES[name], shared_data / "glue")
    if path is None:
        pytest.skip(f"no test file of {name} on this machine")
    texts, notes = read_test_file(FILES[name], path)
    assert len(texts) == ROWS[name]
    assert notes == []
