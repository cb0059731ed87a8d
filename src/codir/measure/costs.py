"""What a pre-training costs: models from their configs alone, counted by PyTorch, and steps timed on this machine."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForMaskedLM, PretrainedConfig

from codir.config.pretraining import PretrainConfig
from codir.data.corpus import Corpus
from codir.errors import ConfigError, ModelError
from codir.gather import processes
from codir.kinds import MASKED_LM, kind_named
from codir.losses.base import ObjectiveContext
from codir.losses.registry import build_objectives, needs_of, views_of
from codir.models.layers import chosen_layers
from codir.models.loading import count_parameters, encoder_shape, load_config, resolve
from codir.models.masked_lm import masked_lm_from_config
from codir.models.narrowing import narrow_config
from codir.models.origins import read_config
from codir.models.student import shallower_config
from codir.teacher.frozen import FrozenTeacher
from codir.training.model import DistillationModel

# Peak of 16-bit and of fp32 products of dense matrices in TFLOP/s, memory in GB, the 16-bit format; from data sheets.
DEVICES: dict[str, tuple[float, float, int, Literal["bf16", "fp16"]]] = {
    "t4": (65, 8.1, 16, "fp16"),
    "v100": (125, 15.7, 32, "fp16"),
    "a10": (125, 31.2, 24, "bf16"),
    "l4": (121, 30.3, 24, "bf16"),
    "l40s": (362, 91.6, 48, "bf16"),
    "a100": (312, 19.5, 80, "bf16"),
    "h100": (989, 67, 80, "bf16"),
    "h200": (989, 67, 141, "bf16"),
}

# Architectures that are known without a download; what is not said is transformers' default, which is BERT-base.
_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta-base": ("roberta", _ROBERTA),
    "roberta-large": ("roberta", {**_ROBERTA, **_LARGE}),
    "bert-base-uncased": ("bert", {}),
    "bert-large-uncased": ("bert", _LARGE),
    "distilbert-base-uncased": ("distilbert", {}),
}
_MOST_ROWS = 100_000  # of a bank that is timed: a step costs the same at every N
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def config_of(source: str | Path) -> PretrainedConfig:
    """Reads a model's config: of a folder, a config.json, one of `KNOWN` (also with its owner before it), a Hub id."""
    path = Path(source).expanduser()
    if not path.exists() and (known := KNOWN.get(str(source).split("/")[-1])):
        return AutoConfig.for_model(known[0], **known[1])
    return load_config(path if path.is_file() else resolve(source))


def student_config_of(
    config: PretrainConfig, teacher: PretrainedConfig | None, corpus: Corpus | None
) -> PretrainedConfig:
    """Returns the student's config: its own, or one cut out of the teacher's (without a teacher the corpus's)."""
    wanted = config.student
    if wanted.model is not None:
        return config_of(wanted.model)
    if wanted.config is not None:
        return read_config(wanted.config) if isinstance(wanted.config, Mapping) else config_of(wanted.config)
    if teacher is None and corpus is not None and corpus.config_path is not None:
        teacher = config_of(corpus.config_path)
    if teacher is None:
        raise ConfigError(
            "Nothing says what the student looks like: add --teacher MODEL (the student is cut out of it), --student "
            "MODEL, or --student-config config.json."
        )
    cut = shallower_config(teacher, chosen_layers(int(teacher.num_hidden_layers), wanted.layers, wanted.init))
    narrower = wanted.width is not None or wanted.intermediate is not None
    return narrow_config(cut, wanted.width, wanted.intermediate) if narrower else cut


class ModelCosts(NamedTuple):
    """What is counted of a masked language model."""

    parameters: int
    head_parameters: int
    flops: int  # of the encoder's forward pass over one block
    head_flops: int  # of the head at one position, the product with the vocabulary included


def costs_of(config: PretrainedConfig, length: int) -> ModelCosts:
    """Counts a model that is built without memory for its weights (device `meta`), for blocks of so many tokens."""
    try:
        with torch.device("meta"):
            model = AutoModelForMaskedLM.from_config(config, attn_implementation="eager").eval()
            inputs = {"input_ids": torch.zeros(1, length, dtype=torch.long)}
            # others ask a mask for its values, which are not there
            if config.model_type.startswith("deberta"):
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            with FlopCounterMode(display=False) as counted, torch.no_grad():
                model(**inputs)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(f"A {config.model_type} model cannot be counted: {error}") from error
    of_module = counted.get_flop_counts()
    flops = sum(of_module[f"{type(model).__name__}.{model.base_model_prefix}"].values())
    shared = set(model.base_model.parameters())
    head = sum(each.numel() for each in model.parameters() if each not in shared)
    return ModelCosts(count_parameters(model)[0], head, flops, (counted.get_total_flops() - flops) // length)


class StepTime(NamedTuple):
    """What a few steps took in one process."""

    # seconds of the forward and backward pass of one micro-batch, teacher included; the median
    micro_batch: float
    optimiser: float  # seconds of clipping, optimiser and bank; the median
    peak_memory: int | None  # the most bytes allocated on the GPU; None on a CPU
    device: str  # where it was measured, in words


def measure_step(
    objectives: Mapping[str, Mapping[str, Any]],
    student_config: PretrainedConfig,
    teacher_config: PretrainedConfig | None,
    *,
    block: int,
    batch: int,
    micro_batch: int,
    masked: float,
    precision: str,
    recompute: bool = False,
    head_only: bool = False,
) -> StepTime:
    """Runs a few steps of a pre-training on this machine's GPU, or on its CPU where there is none.

    A matrix product takes as long with random numbers as with others. No corpus is read, no network is used.

    Args:
        objectives: the recipe's terms.
        student_config, teacher_config: the architectures.
        block: tokens of a block.
        batch: blocks of an optimiser step.
        micro_batch: blocks computed at a time.
        masked: share of the positions that are predicted.
        precision: format of the matrix products.
        recompute: gradient checkpointing.
        head_only: whether the encoder stays as it is.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    student = masked_lm_from_config(student_config)
    if recompute:
        student.gradient_checkpointing_enable()
    if head_only:
        student.base_model.requires_grad_(False)
    autocast = _AUTOCAST.get(precision)
    teacher = None
    if teacher_config is not None:
        teacher = FrozenTeacher(masked_lm_from_config(teacher_config), autocast=autocast).to(device)
    vocabulary = int(student.config.vocab_size)
    context = ObjectiveContext(
        student=encoder_shape(student),
        teacher=teacher.shape if teacher else None,
        examples=max(batch, _MOST_ROWS),
        labels=None,
        kind=kind_named(MASKED_LM),
        num_classes=vocabulary,
        device=device,
        batch=batch,
        micro_batch=micro_batch * processes(),
    )
    needs, views = needs_of(objectives), views_of(objectives, context.student, context.teacher)
    built = build_objectives(objectives, context)
    model = DistillationModel(student, built, needs.pooled, views.student).to(device).train()
    trained = [each for each in model.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    batch_ids = torch.arange(batch, device=device)

    def compute() -> None:
        ids = torch.randint(5, vocabulary, (micro_batch, block), device=device)
        chosen = torch.rand(ids.shape, device=device).argsort(dim=1)[:, : max(1, round(masked * block))]
        labels = torch.full_like(ids, -100).scatter_(1, chosen, ids.gather(1, chosen))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        taught = None
        if teacher is not None:
            positions = model.chosen_positions(inputs, labels, 0.0)
            taught = teacher.represent(inputs, needs.pooled, positions, views.teacher)
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            outputs = model(inputs, labels, batch_ids[:micro_batch], taught, batch_ids)
        outputs["loss"].backward()

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        model.after_step(stepped=True)

    def median(action: Callable[[], None], times: int) -> float:
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            action()
            if cuda:
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    compute()
    step()  # makes Adam's moments
    compute()
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    return StepTime(
        micro_batch=median(compute, 4),
        optimiser=median(step, 2),
        peak_memory=torch.cuda.max_memory_allocated(device) if cuda else None,
        device=torch.cuda.get_device_name(device)
        if cuda
        else f"{platform.machine()}, {torch.get_num_threads()} threads",
    )
