"""Arguments of a training run, on top of transformers' own, and the number format it uses."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import TrainingArguments

from codir.errors import ConfigError
from codir.teacher.cache import CacheSettings
from codir.training.processes import launch_advice

logger = logging.getLogger(__name__)

# What transformers' Trainer does in places that distillation replaces: better refused than silently left out.
_UNSUPPORTED = {
    "label_smoothing_factor": "the task's loss is an objective of its own and would not see it",
    "neftune_noise_alpha": "the student is wrapped together with the objectives, where it would find no embeddings",
    "save_only_model": "checkpoints without optimiser and bank could not be resumed",
    "auto_find_batch_size": "a second attempt would start from the bank and the weights of the first",
    "push_to_hub": "codir sends nothing while it trains; `codir publish` sends the finished run",
    "prediction_loss_only": "the evaluations need the predictions",
    "include_for_metrics": "the metrics are those of predictions and labels",
    "batch_eval_metrics": "the metrics are those of the whole validation data",
    "ignore_data_skip": "a resumed run would see other data than the run it goes on with",
    "dataloader_persistent_workers": "a resumed run would draw other dropout than the run it goes on with",
}


@dataclass
class DistillationArguments(TrainingArguments):
    """`TrainingArguments` with the defaults that distillation needs and the settings of the teacher's cache.

    Every field of transformers' `TrainingArguments` keeps its name and meaning; what codir does not support is refused
    with a `ConfigError`.
    """

    average_tokens_across_devices: bool = field(
        default=False,
        metadata={"help": "Must stay off: it would multiply a mean over the batch by the number of processes."},
    )
    remove_unused_columns: bool = field(
        default=False,
        metadata={"help": "Must stay off: objectives read example ids and the teacher's columns."},
    )
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Checkpoints to keep (the best one comes on top); at least 2 is safe."}
    )
    ddp_broadcast_buffers: bool | None = field(
        default=False, metadata={"help": "Buffers of encoders are constants; sending them costs time."}
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run keeps counting the patience of early stopping."}
    )
    cache_teacher: bool = field(
        default=True,
        metadata={"help": "Compute the teacher once and read it from disk in every step, instead of running it live."},
    )
    cache_folder: str | None = field(
        default=None,
        metadata={"help": "Where the teacher's cache lies; default: CODIR_CACHE or ~/.cache/codir."},
    )
    cache_tokens_gb: float = field(
        default=20.0,
        metadata={
            "help": "Largest size, in GB, of the teacher's vectors of single tokens on disk; where the objectives need "
            "more, the teacher runs live."
        },
    )

    @property
    def cache(self) -> CacheSettings:
        """Returns the settings of the teacher's cache."""
        return CacheSettings(self.cache_teacher, self.cache_folder, self.cache_tokens_gb)

    def __post_init__(self) -> None:
        if self.average_tokens_across_devices:
            raise ConfigError("average_tokens_across_devices must be False: it would scale the loss a second time.")
        if self.remove_unused_columns:
            raise ConfigError("remove_unused_columns must be False: it would drop the example ids.")
        for name, why in _UNSUPPORTED.items():
            if getattr(self, name):
                raise ConfigError(f"{name} is not supported: {why}.")
        if self.fsdp or self.deepspeed:
            raise ConfigError("fsdp and deepspeed are not supported: start data-parallel training with torchrun.")
        if not self.eval_do_concat_batches:
            raise ConfigError("eval_do_concat_batches must be True: the metrics are those of the whole data.")
        self.label_names = ["labels"]
        super().__post_init__()
        if advice := launch_advice(self.n_gpu):
            logger.warning(advice)
        # Several GPUs in one process would become nn.DataParallel, whose replicas cannot share a bank.
        self._n_gpu = min(self.n_gpu, 1)


Precision = Literal["auto", "fp32", "bf16", "fp16"]


def resolve_precision(asked: Precision) -> Literal["fp32", "bf16", "fp16"]:
    """Turns `auto` into bf16 where the GPU, or the CPU (AMX, AVX512-BF16), computes it natively, and fp32 elsewhere.

    Weights, gradients and optimiser stay in fp32 in each case; bf16 and fp16 mean autocast.

    Raises:
        ConfigError: fp16 was asked for without a GPU.
    """
    cuda = torch.cuda.is_available()
    if asked == "fp16" and not cuda:
        raise ConfigError("precision fp16 needs a GPU; on this machine use bf16, fp32 or auto.")
    if asked != "auto":
        return asked
    if cuda:
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return "bf16" if any(getattr(torch.cpu, probe, lambda: False)() for probe in probes) else "fp32"
