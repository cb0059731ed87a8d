"""What is written where a user says: by one process at a time, through links, under any name, with nothing left over.

Kills are real: a process of its own gets SIGKILL at the moment at which a file is about to get its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_world import QUICK, codir, flags, refused, sentences, succeeded, write_csv

pytestmark = pytest.mark.skipif(os.name != "posix", reason="locks and links of POSIX")


def _child(act: Callable[[], None], name: str, arguments: tuple[object, ...]) -> int:
    """Starts `codir` in a process of its own that does something before a file gets its name; returns its number."""
    child = os.fork()
    if child:
        return child
    replace = os.replace

    def wrapped(source: object, target: object, *more: object, **settings: object) -> None:
        if os.path.basename(str(target)) == name:
            act()
        replace(source, target, *more, **settings)  # type: ignore[arg-type]

    os.replace = wrapped  # type: ignore[assignment]
    code = 99
    try:
        code = codir(*arguments).code
    finally:
        os._exit(code)


def _ended(child: int) -> int:
    """Returns how a process ended, in at most two minutes."""
    for _ in range(2400):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the process did not end")


def killed(name: str, *arguments: object) -> None:
    """Runs `codir`, which gets SIGKILL when a file is about to get its name."""
    child = _child(lambda: os.kill(os.getpid(), signal.SIGKILL), name, arguments)
    assert _ended(child) == -signal.SIGKILL


@contextlib.contextmanager
def another_writes(name: str, *arguments: object) -> Iterator[None]:
    """Runs the block while another process is about to give a file its name; then that process has to end well."""
    (there, say), (told, go_on) = os.pipe(), os.pipe()

    def wait() -> None:
        os.write(say, b"!")
        os.read(told, 1)

    child = _child(wait, name, arguments)
    os.close(say)
    try:
        assert os.read(there, 1) == b"!", "it never came so far"
        yield
    finally:
        os.write(go_on, b"!")
        code = _ended(child)
        for pipe in (there, told, go_on):
            os.close(pipe)
    assert code == 0


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".lock")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data: `train.csv`, `dev.csv`, `texts.txt`."""
    folder = tmp_path_factory.mktemp("world")
    write_csv(folder / "train.csv", sentences(16))
    write_csv(folder / "dev.csv", sentences(8, seed=1))
    (folder / "texts.txt").write_text("the good film\na bad book\n")
    return folder


@pytest.fixture(scope="module")
def training(world: Path, model: Path) -> list[object]:
    """The command of a training, without its output."""
    data = flags(train=world / "train.csv", validation=world / "dev.csv")
    return ["finetune", *flags(model=model), *data, *QUICK]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, training: list[object]) -> Path:
    """A finished run, to be looked at only."""
    output = tmp_path_factory.mktemp("trained") / "run"
    succeeded(*training, output=output)
    return output


@pytest.fixture(scope="module")
def predicting(world: Path, model: Path) -> list[object]:
    """The command of a prediction, without its output."""
    return ["predict", model, "--input", world / "texts.txt"]


# --- killed in its first moment, and in its last


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_run_killed_in_its_first_moment_can_be_started_and_resumed(
    tmp_path: Path, training: list[object], resume: list[str]
) -> None:
    output = tmp_path / "run"
    killed("run.json", *training, "--output", output)
    assert not (output / "run.json").exists()
    assert hidden(output)  # the kill left something
    succeeded(*training, "--output", output, *resume)
    assert hidden(output) == []
    assert json.loads((output / "run.json").read_text())["state"] == "finished"


def test_what_a_kill_left_in_a_run_is_swept_by_its_resumption(tmp_path: Path, training: list[object]) -> None:
    output = tmp_path / "run"
    killed("metrics.json", *training, "--output", output)
    assert hidden(output)
    succeeded(*training, "--output", output, "--resume")
    assert hidden(output) == []


def test_what_a_kill_left_beside_an_output_is_swept_and_what_is_in_use_stays(
    tmp_path: Path, predicting: list[object]
) -> None:
    killed("one.jsonl", *predicting, "--output", tmp_path / "one.jsonl")
    left = hidden(tmp_path)
    assert left
    with another_writes("two.jsonl", *predicting, "--output", tmp_path / "two.jsonl"):
        used = set(hidden(tmp_path))
        assert not used & set(left)  # the other one swept
        succeeded(*predicting, "--output", tmp_path / "three.jsonl")
        assert set(hidden(tmp_path)) == used
    assert sorted(path.name for path in tmp_path.iterdir()) == ["three.jsonl", "two.jsonl"]


def test_a_file_of_the_users_that_only_looks_temporary_stays(tmp_path: Path, predicting: list[object]) -> None:
    mine = [tmp_path / name for name in (".codir-notes", ".config.json.bak", ".settings", ".run.json.abcd1234")]
    for path in mine:
        path.write_text("mine")
    succeeded(*predicting, "--output", tmp_path / "out.jsonl")
    assert all(path.read_text() == "mine" for path in mine)


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_corpus_killed_in_its_first_moment_can_be_started_and_resumed(
    tmp_path: Path, model: Path, resume: list[str]
) -> None:
    text, output = tmp_path / "articles.txt", tmp_path / "corpus"
    text.write_text("the good film was not bad .\n\na cat sees a dog .\n" * 30)
    output.mkdir()
    (output / ".lock").touch()  # as far as it comes before it writes anything
    succeeded("corpus", *resume, input=text, tokenizer=model, block=16, workers=1, output=output)
    assert hidden(output) == []


# --- two processes with one output


def test_of_two_predictions_with_one_output_the_second_is_refused(tmp_path: Path, predicting: list[object]) -> None:
    output, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(output)
    with another_writes("out.jsonl", *predicting, "--output", output):
        for name in (output, link, Path(os.path.relpath(output))):
            assert "Another process is writing" in refused(*predicting, "--output", name)
            message = refused(*predicting, "--output", name, "--overwrite")
            assert "--output" in message
        succeeded(*predicting, "--output", tmp_path / "other.jsonl")
    assert len(output.read_text().splitlines()) == 2
    assert hidden(tmp_path) == []
    assert "exists already" in refused(*predicting, "--output", output)


@pytest.mark.parametrize("seen", ["report", "latency", "export"])
def test_of_two_commands_with_one_output_the_second_is_refused(
    tmp_path: Path, model: Path, trained: Path, seen: str
) -> None:
    output = tmp_path / {"report": "page.html", "latency": "times.json", "export": "exported"}[seen]
    quick = flags(rounds=1, sequences=2, batch=2, max_length=8, no_memory=True)
    command: list[object] = {
        "report": ["report", trained, "--no-models"],
        "latency": ["latency", model, *quick],
        "export": ["export", model, "--format", "torch-bf16", "--no-data"],
    }[seen]
    name = "README.md" if seen == "export" else output.name  # of an export: a file while it is made
    with another_writes(name, *command, *flags(output=output)):
        assert "Another process is writing" in refused(*command, output=output)
    assert output.exists()
    assert hidden(tmp_path) == []


# --- symbolic links


def test_a_link_to_a_file_stays_and_its_target_is_written(tmp_path: Path, predicting: list[object]) -> None:
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "out.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(target)
    succeeded(*predicting, "--output", link)  # a link to what is not there yet
    assert link.is_symlink()
    before = target.read_text()
    assert len(before.splitlines()) == 2
    target.write_text("old")
    assert "exists already" in refused(*predicting, "--output", link)
    succeeded(*predicting, "--output", link, "--overwrite")
    assert link.is_symlink()
    assert target.read_text() == before
    (tmp_path / "round").symlink_to(tmp_path / "round")
    assert "circle" in refused(*predicting, "--output", tmp_path / "round")
    assert (tmp_path / "round").is_symlink()


@pytest.mark.parametrize("there", [True, False])
def test_links_to_folders_are_followed(tmp_path: Path, training: list[object], model: Path, there: bool) -> None:
    exporting = ["export", model, "--format", "torch-bf16", "--no-data"]
    for command in (training, exporting):
        target, link = tmp_path / f"target-{command[0]}", tmp_path / f"link-{command[0]}"
        link.symlink_to(target)
        if there:
            target.mkdir()
        succeeded(*command, output=link)
        assert link.is_symlink()
        assert (target / "model.safetensors").is_file()


def test_devices_and_pipes_are_not_replaced(tmp_path: Path, predicting: list[object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for overwrite in ([], ["--overwrite"]):
        message = refused(*predicting, "--output", tmp_path / "pipe", *overwrite)
        assert "pipe" in message
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    assert "pipe" in refused(*predicting, "--output", tmp_path / "link", "--overwrite")
    assert (tmp_path / "pipe").is_fifo()


# --- names as long as the file system takes


@pytest.mark.parametrize("sign", ["x", "é", "🦔"])
def test_names_at_the_limit_of_the_file_system_work(tmp_path: Path, predicting: list[object], sign: str) -> None:
    output = tmp_path / (sign * (249 // len(sign.encode())) + ".jsonl")
    succeeded(*predicting, output=output)
    assert len(output.read_text().splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_folders_with_names_at_the_limit_work(tmp_path: Path, training: list[object]) -> None:
    run, exported = tmp_path / ("ह" * 85), tmp_path / ("x" * 255)
    succeeded(*training, output=run)
    succeeded("export", run, "--no-data", format="torch-bf16", output=exported)
    assert (exported / "deployment.json").is_file()
    succeeded("report", run, "--no-models", output=tmp_path / ("r" * 250 + ".html"))


def test_names_that_cannot_be_are_refused_before_anything_is_computed(
    tmp_path: Path, training: list[object], predicting: list[object], model: Path
) -> None:
    deep = tmp_path
    while len(os.fsencode(deep)) < 3900:
        deep = deep / ("d" * 200)
    commands = (
        (training, ""),
        (predicting, ".jsonl"),
        (["export", model, "--format", "torch-bf16", "--no-data"], ""),
        (["corpus", "--input", model / "config.json", "--tokenizer", model], ""),
        (["latency", model], ".json"),
    )
    for command, ending in commands:
        for path in (
            tmp_path / ("n" * 256 + ending),
            tmp_path / ("ह" * 90 + ending),
            deep / "x" / ("y" * 250),
        ):
            started = time.monotonic()
            message = refused(*command, "--output", path, leaves_nothing=tmp_path)
            assert "bytes" in message
            assert time.monotonic() - started < 5
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_inner_names_do_not_fit_is_refused(tmp_path: Path, training: list[object]) -> None:
    place = tmp_path
    while len(os.fsencode(place)) < 3800:
        place = place / ("d" * 200)
    os.makedirs(place)
    try:
        place = place / ("e" * (4090 - len(os.fsencode(place)) - 1))
        message = refused(*training, "--output", place, leaves_nothing=tmp_path)
        assert "inside" in message
    finally:
        shutil.rmtree(tmp_path / ("d" * 200))


# --- the lock of a folder is that of the folder that is there now


def test_a_refused_run_leaves_an_empty_folder_empty(tmp_path: Path, training: list[object]) -> None:
    (tmp_path / "run").mkdir()
    wrong = [*training]
    wrong[2] = tmp_path / "none"
    refused(*wrong, "--output", tmp_path / "run", leaves_nothing=tmp_path / "run")


def test_a_refused_run_and_a_new_one_do_not_share_a_folder(tmp_path: Path, training: list[object]) -> None:
    """Many starts and refusals at the same moment: at most one works at a time, none ends in a traceback."""
    output = tmp_path / "run"
    wrong = [*training]
    wrong[2] = tmp_path / "none"
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            done = [codir(*wrong, "--output", output) for _ in range(3)]
            os._exit(0 if all(each.code == 2 and "Traceback" not in each.text for each in done) else 1)
        children.append(child)
    assert [_ended(child) for child in children] == [0, 0, 0]
    assert not output.exists() or [path.name for path in output.iterdir()] == [".lock"]
    succeeded(*training, "--output", output)


def test_a_tilde_is_the_users_folder_and_no_name(
    tmp_path: Path, world: Path, training: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    shutil.copytree(world, home / "data")
    paths = [str(each).replace(str(world), "~/data") for each in training]
    assert any(path.startswith("~/data/") for path in paths)
    succeeded(*paths, "--output", "~/run", cwd=here)
    texts = next(each for each in paths if each.startswith("~/data/"))
    succeeded("predict", "~/run", "--input", texts, "--output", "~/scores.jsonl", cwd=here)
    assert (home / "run" / "config.json").is_file()
    assert (home / "scores.jsonl").is_file()
    assert not list(here.iterdir())


@pytest.mark.parametrize("command", ["predict", "export", "finetune", "distill", "a config"])
def test_names_of_inputs_that_cannot_be_are_refused(command: str, tmp_path: Path, world: Path, model: Path) -> None:
    long, file = "m" * 300, world / "train.csv"
    data = flags(train=file, validation=file)
    arguments = {
        "predict": ["predict", long, *flags(input=file)],
        "export": ["export", long, *flags(format="torch-bf16")],
        "finetune": ["finetune", *data, *flags(model=long)],
        "distill": ["distill", *data, *flags(teacher=long)],
        "a config": ["distill", *data, *flags(teacher=model, student_config=long)],
    }[command]
    message = refused(*arguments, output=tmp_path / "out", leaves_nothing=tmp_path)
    assert "longer than a name can be" in message
    assert long in message


def test_weights_that_may_not_be_read_are_not_called_damaged(
    tmp_path: Path, world: Path, own_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, allowed = own_model / "model.safetensors", os.access
    monkeypatch.setattr(
        os, "access", lambda path, *mode, **more: Path(path) != weights and allowed(path, *mode, **more)
    )
    weights.write_bytes(b"")  # root may read everything
    message = refused("predict", own_model, input=world / "texts.txt", output=tmp_path / "scores.jsonl")
    assert "permission denied" in message
    assert "damaged" not in message
