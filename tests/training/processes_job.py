"""A small training for tests that start it in one process and in several, to compare the two.

ACTION: none | kill:RANK:STEP (SIGKILL) | term:RANK:STEP (SIGTERM) | nan:RANK:STEP (its weights become NaN).
Every process writes FOLDER/final-RANK.pt: weights, heads, banks; the first one also the log.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset
from torch import nn
from training_job import examples, make_trainer
from transformers import AutoModelForMaskedLM, AutoTokenizer, TrainerCallback

from codir.errors import CodirError
from codir.training import processes
from codir.training.arguments import DistillationArguments
from codir.training.collators import MaskedBlockCollator
from codir.training.masking import TokenMasking
from codir.training.samplers import NeighbourSampler
from codir.training.trainer import DistillationTrainer


class Act(TrainerCallback):
    """Does something to one process at the end of a step."""

    trainer: DistillationTrainer

    def __init__(self, action: str):
        self.what, rank, step = action.split(":")
        self.here, self.step = int(rank) == processes.rank(), int(step)

    def on_step_end(self, args, state, control, **kwargs):
        """As in transformers."""
        if not self.here or state.global_step != self.step:
            return
        if self.what == "nan":
            with torch.no_grad():  # only in this process: the others' weights stay as they are
                next(self.trainer.distillation.parameters()).fill_(torch.nan)
        else:
            os.kill(os.getpid(), signal.SIGKILL if self.what == "kill" else signal.SIGTERM)


def masked_trainer(folder: Path, models: Path, crd, callbacks, examples_count: int, **settings):
    """A pre-training on blocks of a corpus of 7 documents."""
    rows = examples(examples_count).remove_columns("labels").to_list()
    data = Dataset.from_list([{**row, "document": number // 9} for number, row in enumerate(rows)])
    tokenizer = AutoTokenizer.from_pretrained(models / "tokenizer")
    return DistillationTrainer(
        AutoModelForMaskedLM.from_pretrained(models / "mlm-student"),
        {"mlm": {"weight": 1.0}, "kd": {"weight": 1.0}, "crd": {"negatives": "in-batch-bank", **crd}},
        DistillationArguments(str(folder), use_cpu=True, disable_tqdm=True, seed=5, cache_teacher=False, **settings),
        train_dataset=data,
        processing_class=tokenizer,
        teacher=AutoModelForMaskedLM.from_pretrained(models / "mlm-teacher"),
        callbacks=callbacks,
        data_collator=MaskedBlockCollator(tokenizer, TokenMasking(tokenizer, seed=1)),
        train_sampler=NeighbourSampler(data["document"][:], 4, seed=2),
        kind="masked-lm",
    )


def train(
    folder: Path,
    models: Path,
    action: str,
    *,
    count: int = 60,
    kind: str = "classification",
    crd=None,
    dropout: bool = False,
    resume: bool = False,
    **settings,
) -> int:
    """Trains and returns the exit code: 3 after an error of codir's own, which is printed."""
    torch.set_num_threads(1)
    callbacks = [Act(action)] if action != "none" else []
    crd = {"weight": 0.5, "k": "all", "dim": 8, **(crd or {})}
    settings = {
        "max_steps": 10,
        "logging_steps": 2,
        "save_strategy": "no",
        "learning_rate": 1e-3,
        "adam_epsilon": 1e-5,  # or rounding decides where a gradient is zero (biases of attention keys)
        **settings,
    }
    if kind == "masked-lm":
        trainer = masked_trainer(folder, models, crd, callbacks, count, **settings)
    else:
        usual = {"eval_strategy": "no", "train_sampling_strategy": "random", "warmup_steps": 0}
        objectives = {"task": {}, "kd": {"weight": 0.7}, "crd": crd}
        trainer = make_trainer(folder, models, objectives, callbacks, count=count, **{**usual, **settings})
    for act in callbacks:
        act.trainer = trainer
    for module in trainer.distillation.modules():
        if isinstance(module, nn.Dropout) and not dropout:
            module.p = 0.0
    try:
        trainer.train(resume_from_checkpoint=resume)
    except CodirError as error:
        print(f"[{processes.rank()}] {type(error).__name__}: {error}", flush=True)
        return 3
    folder.mkdir(exist_ok=True)
    torch.save(trainer.distillation.state_dict(), folder / f"final-{processes.rank()}.pt")
    if processes.is_main():
        (folder / "log.json").write_text(json.dumps(trainer.state.log_history))
    return 0


class Ended(NamedTuple):
    """How one process ended: its exit code, negative for a signal, and what it wrote to standard output and error."""

    code: int
    output: str


def together(world: int, folder: Path, models: Path, action: str = "none", **settings) -> list[Ended]:
    """Trains in `world` processes and returns how each of them ended."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    outputs = [folder / f"output-{rank}.txt" for rank in range(world)]
    children = [
        fork.Process(target=_child, args=(rank, world, port, outputs[rank], folder, models, action, settings))
        for rank in range(world)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(100)
        if child.is_alive():
            child.kill()
            child.join()
    return [Ended(child.exitcode, output.read_text()) for child, output in zip(children, outputs, strict=True)]


def _child(rank: int, world: int, port: int, output: Path, folder, models, action, settings) -> None:
    with open(output, "w") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    logging.basicConfig(force=True, stream=sys.stderr, format="%(message)s")  # not into pytest's hands
    signal.signal(signal.SIGINT, signal.default_int_handler)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    if world > 1:
        ranks = {name: str(rank) for name in ("RANK", "LOCAL_RANK")}
        worlds = {name: str(world) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
        os.environ.update(ranks | worlds | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    try:
        code = train(folder, models, action, **settings)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
