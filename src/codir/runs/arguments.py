"""From the section `training` of a configuration to the Trainer's arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Trainer, get_scheduler
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from codir.config.loading import shown
from codir.config.pretraining import PretrainingConfig
from codir.config.trainer_arguments import check_more
from codir.config.training_config import OptimisationConfig, TrainingConfig
from codir.errors import ConfigError, nearest
from codir.training.arguments import DistillationArguments
from codir.training.precision import resolve_precision

_EVALUATIONS = 10  # of a training whose length is given in steps


def to_arguments(
    training: TrainingConfig, folder: Path, main_metric: str, examples: int, budget: int | None = None
) -> DistillationArguments:
    """Builds the arguments of one training.

    Args:
        training: what was asked for.
        folder: where the checkpoints go.
        main_metric: name by which the best checkpoint is chosen; larger is better.
        examples: number of training examples, from which the logging interval follows.
        budget: number of examples of another training, of which this one gets the optimiser steps and the evaluations;
            None: its own epochs.

    Raises:
        ConfigError: the section names something transformers does not know, or a value it refuses; a logger
            that is unknown or not installed.
    """
    every: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch"}
    if training.eval_steps is not None:
        steps = training.eval_steps
        every = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": steps, "save_steps": steps}
    steps_per_epoch = math.ceil(
        (budget or examples) / (training.per_device_train_batch_size * training.gradient_accumulation_steps)
    )
    counted = training.max_steps is not None or (budget is not None and budget != examples)
    if counted:
        steps = training.max_steps or max(1, math.ceil(training.num_train_epochs * steps_per_epoch))
        often = (
            math.ceil(steps / _EVALUATIONS) if training.max_steps is not None else min(steps, steps_per_epoch)
        )
        every |= {"max_steps": steps}
        if training.eval_steps is None:
            every |= {
                "eval_strategy": "steps",
                "save_strategy": "steps",
                "eval_steps": often,
                "save_steps": often,
            }
    settings: dict[str, Any] = {
        "per_device_train_batch_size": training.per_device_train_batch_size,
        "per_device_eval_batch_size": max(training.per_device_train_batch_size, 32),
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "num_train_epochs": training.num_train_epochs,
        "train_sampling_strategy": training.train_sampling_strategy,
        "load_best_model_at_end": training.load_best_model_at_end
        or training.early_stopping_patience is not None,
        "metric_for_best_model": f"eval_{main_metric}",
        "greater_is_better": True,
        "logging_steps": max(1, min(50, steps_per_epoch // 5)),
        **every,
    }
    return _arguments(training, folder, settings)


def to_pretraining_arguments(
    training: PretrainingConfig, folder: Path, processes: int, evaluate: bool, steps: int
) -> DistillationArguments:
    """Builds the arguments of a pre-training.

    Args:
        training: what was asked for.
        folder: where the checkpoints go.
        processes: how many train together.
        evaluate: there are held-out blocks.
        steps: optimiser steps.

    Raises:
        ConfigError: as `to_arguments`; or the batch cannot be shared out evenly.
    """
    micro, accumulation = share_out(training, processes)
    every: dict[str, Any] = {"eval_strategy": "no"}
    if training.eval_steps is not None and evaluate:
        every = {"eval_strategy": "steps", "eval_steps": training.eval_steps}
    settings: dict[str, Any] = {
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "max_steps": steps,
        # the mean over the mini-batch is the mean over its parts only if they are equally large
        "dataloader_drop_last": True,
        "save_strategy": "steps",
        "save_steps": training.save_steps,
        "load_best_model_at_end": False,
        "logging_steps": max(1, min(50, steps // 20)),
        **every,
    }
    return _arguments(training, folder, settings)


def share_out(training: PretrainingConfig, processes: int) -> tuple[int, int]:
    """Returns how many blocks a process computes at a time, and how many times for one step.

    Raises:
        ConfigError: the batch is no multiple of what all processes compute at a time; names batches that are.
    """
    batch = training.global_batch_size
    if batch % processes:
        near = max(processes, batch // processes * processes)
        raise ConfigError(
            f"training.global_batch_size={batch} cannot be shared out to {processes} processes: choose a multiple of "
            f"{processes}, for example {near}."
        )
    own = batch // processes
    micro = min(training.per_device_train_batch_size, own)
    if own % micro:
        fitting = max(size for size in range(1, micro + 1) if own % size == 0)
        below = own // micro * micro * processes
        raise ConfigError(
            f"training.global_batch_size={batch} is {own} blocks for each of {processes} process(es), which is no "
            f"multiple of training.per_device_train_batch_size={micro}: choose per_device_train_batch_size "
            f"{fitting}, or global_batch_size {below}."
        )
    return micro, own // micro


def _arguments(training: OptimisationConfig, folder: Path, settings: dict[str, Any]) -> DistillationArguments:
    check_more(training)
    _check_loggers(training.report_to)
    precision = resolve_precision(training.precision)
    settings = {
        "output_dir": str(folder),
        "learning_rate": training.learning_rate,
        "warmup_steps": training.warmup_steps,
        "lr_scheduler_type": training.lr_scheduler_type,
        "weight_decay": training.weight_decay,
        "adam_beta1": training.adam_beta1,
        "adam_beta2": training.adam_beta2,
        "adam_epsilon": training.adam_epsilon,
        # Nothing is as long as infinity, so nothing is clipped. At 0 transformers would not compute the norm at all: it
        # would neither be logged nor noticed when it is no number.
        "max_grad_norm": training.max_grad_norm or math.inf,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": not torch.cuda.is_available(),
        "save_total_limit": training.save_total_limit,
        "seed": training.seed,
        "report_to": training.report_to or "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **settings,
        **training.more(),
    }
    if "metric_for_best_model" in training.more() and "greater_is_better" not in training.more():
        settings.pop("greater_is_better", None)  # transformers knows that of a loss the smallest is the best
    try:
        made = DistillationArguments(**settings)
        # what the Trainer would find only once the teacher has been computed
        Trainer.get_optimizer_cls_and_kwargs(made)
        get_scheduler(
            made.lr_scheduler_type,
            torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0),
            num_warmup_steps=1,
            num_training_steps=10,
            scheduler_specific_kwargs=cast(dict[str, Any] | None, made.lr_scheduler_kwargs),
        )
    except (
        ValueError,
        TypeError,
        KeyError,
        OverflowError,
        ImportError,
        RuntimeError,
        AttributeError,
    ) as error:
        said = f" ({', '.join(f'{key}={shown(value)}' for key, value in training.more().items())})"
        raise ConfigError(
            f"transformers refuses the section training{said if training.more() else ''}: {error}"
        ) from error
    return made


def check_arguments(training: OptimisationConfig) -> None:
    """Builds the arguments once, so that a wrong one is refused before data and models are read.

    Raises:
        ConfigError: as `to_arguments`.
    """
    if training.more() or training.report_to:
        _arguments(training, Path("."), {})


def _check_loggers(names: Sequence[str]) -> None:
    for name in names:
        if name in ("all", "none"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise ConfigError(
                f"training.report_to names {name!r}, which is no logger{nearest(name, INTEGRATION_TO_CALLBACK)}. "
                f"There are {', '.join(INTEGRATION_TO_CALLBACK)}."
            )
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError, ValueError) as error:
            raise ConfigError(f"training.report_to names {name!r}: {error}") from error
