"""From the section `training` of a configuration to the Trainer's arguments."""

from __future__ import annotations

import math
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
from codir.training.arguments import DistillationArguments, resolve_precision

_EVALUATIONS = 10  # of a training whose length is given in steps


def to_arguments(
    training: TrainingConfig,
    folder: Path,
    main_metric: str,
    examples: int = 1,
    budget: int | None = None,
    **more: Any,
) -> DistillationArguments:
    """Builds the arguments of one training, whose checkpoints go to `folder`.

    Args:
        main_metric: Name by which the best checkpoint is chosen; larger is better.
        examples: Number of training examples, from which the logging interval follows.
        budget: Number of examples of another training, of which this one gets the optimiser steps and the evaluations;
            None: its own epochs.

    Raises:
        ConfigError: a name that transformers does not know, a value it refuses, a logger that is not installed.
    """
    batch = training.per_device_train_batch_size
    steps_per_epoch = math.ceil((budget or examples) / (batch * training.gradient_accumulation_steps))
    every, steps = training.eval_steps, training.max_steps
    if steps is not None:
        every = every or math.ceil(steps / _EVALUATIONS)
    elif budget not in (None, examples):
        steps = max(1, math.ceil(training.num_train_epochs * steps_per_epoch))
        every = every or min(steps, steps_per_epoch)
    settings: dict[str, Any] = {
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": max(batch, 32),
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "num_train_epochs": training.num_train_epochs,
        "max_steps": steps or -1,
        "train_sampling_strategy": training.train_sampling_strategy,
        "load_best_model_at_end": training.load_best_model_at_end or training.early_stopping_patience is not None,
        "metric_for_best_model": f"eval_{main_metric}",
        "greater_is_better": True,
        "logging_steps": max(1, min(50, steps_per_epoch // 5)),
        "eval_strategy": "steps" if every else "epoch",
        "save_strategy": "steps" if every else "epoch",
        **({"eval_steps": every, "save_steps": every} if every else {}),
        **more,
    }
    return _arguments(training, folder, settings)


def to_pretraining_arguments(
    training: PretrainingConfig, folder: Path, processes: int, evaluate: bool, steps: int
) -> DistillationArguments:
    """Builds the arguments of a pre-training of so many optimiser steps; `evaluate`: there are held-out blocks.

    Raises:
        ConfigError: as `to_arguments`; or the batch cannot be shared out evenly.
    """
    micro, accumulation = share_out(training, processes)
    every = training.eval_steps if evaluate else None
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
        "eval_strategy": "steps" if every else "no",
        **({"eval_steps": every} if every else {}),
        "cache_teacher": False,  # the masks change in every epoch, and with them what the teacher says
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
        raise ConfigError(
            f"training.global_batch_size={batch} is {own} blocks for each of {processes} process(es), which is no "
            f"multiple of training.per_device_train_batch_size={micro}: choose per_device_train_batch_size "
            f"{fitting}, or global_batch_size {own // micro * micro * processes}."
        )
    return micro, own // micro


def _arguments(training: OptimisationConfig, folder: Path, settings: dict[str, Any]) -> DistillationArguments:
    check_more(training)
    _check_loggers(training.report_to)
    precision, more = resolve_precision(training.precision), training.more()
    if "metric_for_best_model" in more:
        settings.pop("greater_is_better", None)  # transformers knows that of a loss the smallest is the best
    same = ("learning_rate", "warmup_steps", "lr_scheduler_type", "weight_decay", "adam_beta1", "adam_beta2")
    same += ("adam_epsilon", "save_total_limit", "seed")
    settings = {
        **{name: getattr(training, name) for name in same},
        "output_dir": str(folder),
        # Nothing is as long as infinity, so nothing is clipped. At 0 transformers would not compute the norm at all: it
        # would neither be logged nor noticed when it is no number.
        "max_grad_norm": training.max_grad_norm or math.inf,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": not torch.cuda.is_available(),
        "report_to": training.report_to or "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **settings,
        **more,
    }
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
    # whatever an optimiser or a scheduler makes of its settings
    except (ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError) as e:
        said = f" ({', '.join(f'{key}={shown(value)}' for key, value in more.items())})" if more else ""
        raise ConfigError(f"transformers refuses the section training{said}: {e}") from e
    return made


def _check_loggers(names: list[str]) -> None:
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
