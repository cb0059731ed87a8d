"""The description of the environment: complete, plain, and free of what identifies the user."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from codir.runs.environment import environment, git_state


def test_contents_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "very-secret-token")
    monkeypatch.setattr(sys, "argv", ["/home/somebody/bin/codir", "distill", "--text", "two words"])
    found = environment(seed=3, precision="bf16", task="sst2")
    assert found["command"] == "codir distill --text 'two words'"
    assert (found["seed"], found["precision"], found["task"]) == (3, "bf16", "sst2")
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["python"] == platform.python_version()
    assert {"codir", "transformers", "accelerate", "datasets", "tokenizers", "numpy"} <= found[
        "versions"
    ].keys()
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["gpus"] == []
    text = json.dumps(found, allow_nan=False)
    assert "very-secret-token" not in text
    assert "somebody" not in text
    node = platform.node()
    assert len(node) < 4 or node not in text


def test_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state(tmp_path) is None

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    git("init", "-q")
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "one")
    state = git_state(tmp_path)
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "a").write_text("2")
    changed = git_state(tmp_path)
    assert changed is not None
    assert changed["dirty"] is True
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) is None  # no git installed
