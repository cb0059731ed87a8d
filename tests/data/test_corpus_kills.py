"""`codir corpus` in processes of their own: killed in the middle and resumed, two at once, a worker that dies."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_texts import articles

from codir import build_corpus, open_corpus
from codir.cli.main import app
from codir.data import corpus_build
from codir.data.packing import Packing
from codir.errors import DataError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and looks into /proc")

pack = Packing.__call__


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_build, "PORTION_BYTES", 10_000)
    monkeypatch.setattr(corpus_build, "_WORTH_A_PROCESS", 100)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "articles.txt"
    path.write_text("\n".join(articles(200)))
    return path


class Process:
    """`codir corpus` in a forked process; every batch takes a while, so that a signal meets the middle."""

    def __init__(self, texts: Path, tokenizer: Path, output: Path, *flags: str, seconds: float = 0.1, fatal: int = 0):
        self.log = output.parent / f"log-{time.monotonic_ns()}"
        command = ["corpus", "--input", str(texts), "--tokenizer", str(tokenizer), "--output", str(output)]
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            handle = os.open(self.log, os.O_WRONLY | os.O_CREAT)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.stdout = os.fdopen(1, "w")
            sys.stderr = sys.__stderr__ = os.fdopen(2, "w")

            calls = []

            def slow(self: Packing, batch: Any) -> Any:
                calls.append(1)
                time.sleep(seconds)
                if len(calls) == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                return pack(self, batch)

            Packing.__call__ = slow  # type: ignore[method-assign]
            signal.signal(signal.SIGINT, signal.default_int_handler)
            app([*command, "--block", "16", *flags])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)

    def end(self) -> tuple[int, str]:
        """Waits; returns the exit code and what was printed."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status), self.log.read_text()
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError("the process did not end")

    def children(self) -> list[int]:
        return [int(each) for each in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


def packed(output: Path) -> dict[str, int]:
    """Returns when each packed portion, or a worker's share of one, was written."""
    return {path.name: path.stat().st_mtime_ns for path in (output / ".building").glob("*.arrow")}


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("count", [1, 2])
def test_kill_and_resume(texts: Path, tokenizer_dir: Path, tmp_path: Path, count: int) -> None:
    whole = build_corpus([str(texts)], str(tokenizer_dir), tmp_path / "whole", block=16, workers=1)
    output = tmp_path / "corpus"
    process = Process(texts, tokenizer_dir, output, "--workers", str(count))
    wait_for(lambda: len(packed(output)) >= 2 * count and (count == 1 or len(process.children()) > count))
    offspring = process.children()
    assert len(offspring) == (0 if count == 1 else count + 1)  # the workers, and who hands on what they say
    os.kill(process.pid, signal.SIGKILL)
    assert process.end()[0] == -signal.SIGKILL
    # nobody lives on
    wait_for(lambda: not any(Path(f"/proc/{child}/exe").exists() for child in offspring), 10)
    before = packed(output)
    again = Process(texts, tokenizer_dir, output, "--workers", "1", "--resume", fatal=3)
    assert again.end()[0] == -signal.SIGKILL  # and once more
    after = packed(output)
    assert len(after) > len(before)
    assert {name: after[name] for name in before} == before
    with pytest.raises(DataError, match="unfinished"):
        open_corpus(output)
    code, printed = Process(texts, tokenizer_dir, output, "--workers", "2", "--resume", seconds=0).end()
    assert code == 0, printed
    corpus = open_corpus(output)
    assert corpus.key == whole.key
    assert corpus.manifest["files"] == whole.manifest["files"]
    for name in whole.manifest["files"]:
        assert (output / name).read_bytes() == (whole.path / name).read_bytes()


def test_two_processes_on_one_output(texts: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "corpus"
    first = Process(texts, tokenizer_dir, output, "--workers", "1", seconds=30)
    try:
        wait_for(lambda: (output / ".building" / "plan.json").is_file())
        code, printed = Process(texts, tokenizer_dir, output, "--resume").end()
        assert code == 2
        assert "Another process is working in" in printed
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.end()


def test_a_worker_that_is_killed(texts: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "corpus"
    code, printed = Process(texts, tokenizer_dir, output, "--workers", "2", fatal=1).end()
    assert code == 2
    assert "A worker process was killed" in printed
    code, printed = Process(texts, tokenizer_dir, output, "--workers", "2", "--resume", seconds=0).end()
    assert code == 0, printed


@pytest.mark.parametrize("count", [1, 2])
def test_ctrl_c(texts: Path, tokenizer_dir: Path, tmp_path: Path, count: int) -> None:
    output = tmp_path / "corpus"
    process = Process(texts, tokenizer_dir, output, "--workers", str(count))
    wait_for(lambda: len(packed(output)) >= 2)
    os.kill(process.pid, signal.SIGINT)
    code, printed = process.end()
    assert code == 130, printed
    assert "--resume" in printed
    assert "Traceback" not in printed
