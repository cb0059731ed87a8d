"""Every rebuilding trains the same students: losses of each term and weights, against `golden.json`.

The file was written before the house was rebuilt (git tag `before-the-house`), that of
codir-pre again when its bank began to start with other random rows, with

    CODIR_WRITE_GOLDEN=1 python -m pytest tests/golden

Only the command line and public names are used. On the kind of processor and the version of PyTorch that wrote the
file the weights have to be equal bit for bit, elsewhere the losses have to agree to 1e-3 and the norms of the weights
to 1e-4: other kernels add in another order.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_world import flags, sentences, succeeded, write_csv
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, PreTrainedTokenizerFast

# The words of the corpus; `tiny_tokenizer` knows them.
_TEXT = "the a an one this that film movie book song was is cat dog bird man woman and or of in on"
WORDS = _TEXT.split()
FILE = Path(__file__).with_name("golden.json")
WRITE = bool(os.environ.get("CODIR_WRITE_GOLDEN"))
MACHINE = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}

# 80 examples, 8 a batch, 2 epochs: 20 steps, evaluated and saved after 10.
QUICK = ("--epochs", 2, "--batch-size", 8, "--learning-rate", 3e-3, "--precision", "fp32", "--seed", 3)
CONTRAST = ("--set", "objectives.crd.k=10", "--set", "objectives.crd.dim=8")
FINE_TUNING: dict[str, tuple[Any, ...]] = {
    "kd": (),
    "pkd": (),
    "sid": (),
    "distilbert": (),
    "tinybert": (),
    "mobilebert": (),
    "minilmv2": ("--set", "objectives.relations.relation_heads=4"),
    "codir-fine": CONTRAST,
    "codir-official": ("--set", "objectives.crd_official.k=10", "--set", "objectives.crd_official.dim=8"),
}
PRE_TRAINING = ("--steps", 20, "--batch-size", 8, "--micro-batch", 4, "--learning-rate", 3e-3, "--seed", 5)
PRE_TRAINING = (*PRE_TRAINING, "--precision", "fp32", "--set", "training.save_steps=10")
PRE_TRAINING = (*PRE_TRAINING, "--set", "training.neighbours=2", "--set", "objectives.crd.dim=8")


def result_of(run: Path) -> dict[str, Any]:
    """Returns the logged losses of a run, the digest of its weights and their norm."""
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [
        {key: value for key, value in entry.items() if key == "step" or key.startswith("loss")}
        for entry in entries
        if "loss" in entry
    ]
    weights = load_file(run / "model.safetensors")
    digest, square = hashlib.sha256(), 0.0
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
        square += float(weights[name].double().square().sum())
    return {"losses": losses, "weights": digest.hexdigest(), "norm": square**0.5}


def compare(name: str, run: Path) -> None:
    """Compares a run with what the file says of it, or writes the file."""
    found = result_of(run)
    assert len(found["losses"]) >= 10
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    if WRITE:
        known[name] = {"machine": MACHINE, **found}
        FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        return
    golden = known[name]
    assert [entry["step"] for entry in found["losses"]] == [entry["step"] for entry in golden["losses"]]
    for mine, theirs in zip(found["losses"], golden["losses"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5), mine["step"]
    assert found["norm"] == pytest.approx(golden["norm"], rel=1e-4)
    if golden["machine"] == MACHINE:
        assert found["weights"] == golden["weights"], "the losses agree and the weights differ in their last bits"


class World:
    """Files and models that all runs share."""

    def __init__(self, folder: Path, teacher: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast):
        self.folder = folder
        teacher.save_pretrained(folder / "teacher")
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            pad_token_id=0,
            initializer_range=0.2,
        )
        BertForMaskedLM(config).save_pretrained(folder / "language-model")
        for name in ("teacher", "language-model"):
            tokenizer.save_pretrained(folder / name)
        write_csv(folder / "train.csv", sentences(80, seed=1))
        write_csv(folder / "dev.csv", sentences(16, seed=2))
        generator = random.Random(0)
        documents = [
            " ".join(" ".join(generator.choices(WORDS, k=generator.randint(3, 9))) + "." for _ in range(8))
            for _ in range(24)
        ]
        (folder / "text.txt").write_text("\n".join(documents) + "\n", encoding="utf-8")
        succeeded(
            *("corpus", folder / "text.txt", "--tokenizer", folder / "language-model", "--block", 16),
            *("--documents", "line", "--validation", 0.1, "--workers", 1, "--output", folder / "corpus"),
        )

    def distill(self, recipe: str, output: Path) -> list[str]:
        """Returns the arguments of a distillation."""
        files = flags(train=self.folder / "train.csv", validation=self.folder / "dev.csv", max_length=32)
        models = flags(teacher=self.folder / "teacher", student_layers=2, cache_dir=self.folder / "cache")
        words = ("distill", *flags(recipe=recipe, no_baseline=True), *files, *models, *QUICK)
        return [str(word) for word in (*words, *FINE_TUNING[recipe], "--output", output)]

    def pretrain(self, output: Path) -> list[str]:
        """Returns the arguments of a pre-training with codir-pre."""
        given = flags(recipe="codir-pre", corpus=self.folder / "corpus", student_layers=2, output=output)
        words = ("pretrain", *given, *PRE_TRAINING, "--teacher", self.folder / "language-model")
        return [str(word) for word in words]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_classifier: Callable[..., BertForSequenceClassification],
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> World:
    return World(tmp_path_factory.mktemp("golden"), tiny_classifier(layers=4, width=32), tiny_tokenizer)


def killed_at_step(number: int, arguments: list[str]) -> None:
    """Runs `codir` in a child process that dies, as by kill -9, at the start of its training step `number`."""
    child = os.fork()
    if child == 0:
        try:
            import codir

            step, calls = codir.DistillationTrainer.training_step, [0]

            def dying(*args: Any, **kwargs: Any) -> Any:
                calls[0] += 1
                if calls[0] == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(*args, **kwargs)

            codir.DistillationTrainer.training_step = dying  # type: ignore[method-assign]
            succeeded(*arguments)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@pytest.mark.parametrize("recipe", FINE_TUNING)
def test_a_distillation_is_what_it_was(world: World, tmp_path: Path, recipe: str) -> None:
    succeeded(*world.distill(recipe, tmp_path / "run"))
    compare(recipe, tmp_path / "run")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("recipe", ["codir-fine", "tinybert"])
def test_a_killed_distillation_is_what_it_was(world: World, tmp_path: Path, recipe: str) -> None:
    killed_at_step(14, world.distill(recipe, tmp_path / "run"))
    succeeded(*world.distill(recipe, tmp_path / "run"), "--resume")
    compare(recipe, tmp_path / "run")


def test_a_pre_training_is_what_it_was(world: World, tmp_path: Path) -> None:
    succeeded(*world.pretrain(tmp_path / "run"))
    compare("codir-pre", tmp_path / "run")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_pre_training_is_what_it_was(world: World, tmp_path: Path) -> None:
    killed_at_step(2 * 13, world.pretrain(tmp_path / "run"))  # two micro-batches a step
    succeeded(*world.pretrain(tmp_path / "run"), "--resume")
    compare("codir-pre", tmp_path / "run")


def test_a_pre_training_by_two_processes_is_what_it_was(world: World, tmp_path: Path) -> None:
    launcher = ["torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d"]
    launcher += ["--rdzv-endpoint", "localhost:0", "-m", "codir"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *world.pretrain(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    compare("codir-pre in two processes", tmp_path / "run")
