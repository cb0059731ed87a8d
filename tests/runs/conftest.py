"""The fine-tuned teacher that the tests of whole workflows share, and its exports."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_world import TRAINING, World, quiet, sentences, write_table
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="package")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_classifier: Callable[..., Any],
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> World:
    """Returns data files and two fine-tuned tiny teachers, made once."""
    from codir import finetune

    folder = tmp_path_factory.mktemp("world")
    train = write_table(folder / "train.csv", sentences(96, seed=1, pairs=True))
    dev = write_table(folder / "dev.csv", sentences(40, seed=2, pairs=True))
    encoder = folder / "encoder"
    tiny_classifier(layers=4, seed=7).base_model.save_pretrained(encoder)
    tiny_tokenizer.save_pretrained(encoder)
    made = World(folder, train, dev, folder / "teacher", folder / "regression", folder / "cache")
    training = {**TRAINING, "num_train_epochs": 6}
    finetune(model=str(encoder), data=made.data(), training=training, output=made.teacher, console=quiet())
    finetune(
        model=str(encoder),
        data=made.data(label="score"),
        training={**training, "num_train_epochs": 15},
        output=made.regression,
        console=quiet(),
    )
    return made


# In a process of its own, without pytest: NNCF sends nothing where it sees pytest.
_OFFLINE = """
import socket, sys
def refuse(*a, **k):
    print("NETWORK", a, file=sys.stderr); raise OSError("no network")
socket.socket.connect = refuse; socket.getaddrinfo = refuse; socket.create_connection = refuse
from codir.cli.main import run
run()
"""


class Exports(dict[str, Path]):
    """Exports of the teacher in five formats, with its data, and of the regression teacher on pairs, made when asked.

    OpenVINO's int8 is made by the command, in a process without a network; what it prints is in `int8.txt`.
    """

    def __init__(self, world: World):
        super().__init__()
        self.world = world

    def __missing__(self, name: str) -> Path:
        from codir import export

        world, folder = self.world, self.world.folder / "deploy" / name
        if name == "openvino-int8":
            flags = [f"--{key.replace('_', '-')}={value}" for key, value in world.data().items()]
            words = ["export", str(world.teacher), "--format", "openvino", "--quantize", "int8", *flags]
            command = [sys.executable, "-c", _OFFLINE, *words, "--calibration", "64", "--output", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            (world.folder / "int8.txt").write_text(done.stdout + done.stderr)
        elif name == "regression":
            # without its codir.yaml, which says that it was trained on single texts
            yaml = shutil.ignore_patterns("codir.yaml")
            plain = shutil.copytree(world.regression, world.folder / "plain", ignore=yaml)
            data = world.data(label="score", text_pair="reply", train=None)
            export(plain, folder, "openvino", precision="fp32", data=data, quiet=True)
        else:
            format, quantize = name.removesuffix("-int8"), "int8" if name.endswith("-int8") else None
            format = "openvino" if name == "openvino-bf16" else format
            export(world.teacher, folder, format, quantize=quantize, data=world.data(), quiet=True)
        self[name] = folder
        return folder


@pytest.fixture(scope="package")
def exports(world: World) -> Exports:
    """Returns the exports that tests share."""
    return Exports(world)
