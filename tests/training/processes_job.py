"""A small training for tests that start it in one process and in several, to compare the two.

python processes_job.py FOLDER MODELS ACTION [key=value ...]
torchrun --nproc_per_node 2 processes_job.py FOLDER MODELS ACTION [key=value ...]
together(2, FOLDER, MODELS, ACTION, key=value, ...)     the same without torchrun, in forks that need import nothing
    ACTION: none | kill:RANK:STEP (SIGKILL) | term:RANK:STEP (SIGTERM) | nan:RANK:STEP (its weights become NaN)
    examples=N  labelled=N (the others are not)  kind=classification|masked-lm  crd={...}  dropout=true|false
    resume=true|false; the rest are arguments
    of the Trainer

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
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset
from torch import nn
from training_job import examples
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

from codir.errors import CodirError
from codir.training import processes
from codir.training.arguments import DistillationArguments
from codir.training.collators import MaskedBlockCollator
from codir.training.masking import TokenMasking
from codir.training.samplers import NeighbourSampler
from codir.training.trainer import DistillationTrainer

CRD = {"weight": 0.5, "k": "all", "dim": 8}


class Act(TrainerCallback):
    """Does something to one process at the end of a step."""

    def __init__(self, action: str):
        self.what, rank, step = action.split(":")
        self.here, self.step = int(rank) == processes.rank(), int(step)
        self.trainer: DistillationTrainer | None = None

    def on_step_end(self, args, state, control, **kwargs):
        """As in transformers."""
        if not self.here or state.global_step != self.step:
            return
        if self.what == "nan":
            with torch.no_grad():  # only in this process: the others' weights stay as they are
                next(self.trainer.distillation.parameters()).fill_(torch.nan)
        else:
            os.kill(os.getpid(), signal.SIGKILL if self.what == "kill" else signal.SIGTERM)


def blocks(count: int) -> Dataset:
    """Blocks of a corpus of 7 documents."""
    rows = examples(count).remove_columns("labels").to_list()
    return Dataset.from_list([{**row, "document": number // 9} for number, row in enumerate(rows)])


def train(folder: Path, models: Path, action: str, **settings) -> int:
    """Trains and returns the exit code: 3 after an error of codir's own, which is printed."""
    torch.set_num_threads(1)
    dropout = settings.pop("dropout", False)
    count, kind = settings.pop("examples", 60), settings.pop("kind", "classification")
    labelled = settings.pop("labelled", None)
    crd, resume = {**CRD, **settings.pop("crd", {})}, settings.pop("resume", False)
    arguments = {
        "output_dir": str(folder),
        "use_cpu": True,
        "max_steps": 10,
        "logging_steps": 2,
        "save_strategy": "no",
        "learning_rate": 1e-3,
        "cache_teacher": kind != "masked-lm",
        "cache_folder": str(models / "cache"),
        "save_total_limit": 3,
        "disable_tqdm": True,
        "seed": 5,
        "adam_epsilon": 1e-5,  # or rounding decides where a gradient is zero (biases of attention keys)
        **settings,
    }
    tokenizer = AutoTokenizer.from_pretrained(models / "tokenizer")
    act = Act(action) if action != "none" else None
    callbacks = [act] if act else []
    args = DistillationArguments(**arguments)
    if kind == "masked-lm":
        data = blocks(count)
        trainer = DistillationTrainer(
            AutoModelForMaskedLM.from_pretrained(models / "mlm-student"),
            {"mlm": {"weight": 1.0}, "kd": {"weight": 1.0}, "crd": {"negatives": "in-batch-bank", **crd}},
            args,
            train_dataset=data,
            processing_class=tokenizer,
            teacher=AutoModelForMaskedLM.from_pretrained(models / "mlm-teacher"),
            callbacks=callbacks,
            data_collator=MaskedBlockCollator(tokenizer, TokenMasking(tokenizer, seed=1)),
            train_sampler=NeighbourSampler(data["document"][:], 4, seed=2),
            kind="masked-lm",
        )
    else:
        data = examples(count, labelled)
        trainer = DistillationTrainer(
            AutoModelForSequenceClassification.from_pretrained(models / "student"),
            {"task": {}, "kd": {"weight": 0.7}, "crd": crd},
            args,
            train_dataset=data,
            eval_dataset=data.select(range(min(count, 21))),
            processing_class=tokenizer,
            teacher=AutoModelForSequenceClassification.from_pretrained(models / "teacher"),
            callbacks=callbacks,
        )
    if act:
        act.trainer = trainer
    for module in trainer.distillation.modules():
        if isinstance(module, nn.Dropout) and not dropout:
            module.p = 0.0
    try:
        trainer.train(resume_from_checkpoint=resume)
    except CodirError as error:
        print(f"[{processes.rank()}] {type(error).__name__}: {error}", flush=True)
        return 3
    state = {f"model.{k}": v for k, v in trainer.distillation.state_dict().items()}
    if (bank := state.get("model.objectives.crd.bank.data")) is not None:
        state["bank"] = bank
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / f"final-{processes.rank()}.pt")
    if processes.is_main():
        (folder / "log.json").write_text(json.dumps(trainer.state.log_history))
    return 0


@dataclass
class Ended:
    """How one process ended.

    Attributes:
        code: exit code, negative for a signal.
        output: what it wrote to standard output and error.
    """

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
    return [
        Ended(child.exitcode, output.read_text()) for child, output in zip(children, outputs, strict=True)
    ]


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
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world),
            LOCAL_WORLD_SIZE=str(world),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    try:
        code = train(folder, models, action, **settings)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    pairs = (pair.split("=", 1) for pair in sys.argv[4:])
    values = {key: yaml.safe_load(value) for key, value in pairs}
    sys.exit(train(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], **values))
