"""What a pre-training costs, before it starts: parameters, operations, memory, and time (measured, or estimated)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from codir.config.loading import load_pretrain
from codir.config.pretraining import PretrainConfig
from codir.data.corpus import Corpus, open_corpus
from codir.errors import ConfigError, nearest
from codir.files import human_bytes, write_json, writes
from codir.losses.registry import needs_of, predicts, taught_by
from codir.measure.model_costs import DEVICES, ModelCosts, config_of, require_fit, student_config_of
from codir.measure.step_time import measure_step
from codir.printing import Console, terminal
from codir.runs.arguments import share_out
from codir.table import Column, Table, Tabular
from codir.training.precision import resolve_precision

EFFICIENCY = 0.35
"""Share of a device's peak that is reached, where no time is measured."""
_NOWHERE = "-"  # stands for a corpus and an output folder, which a plan does not need

# The paper does not name its corpus; it follows RoBERTa and speaks of BooksCorpus. With BERT's two corpora, 0.8 and 2.5
# billion words (Devlin et al., 2019, section 3.1), and about 1.3 tokens a word: 4.3 billion tokens.
PAPER_RECIPES, PAPER_TEACHER = "mlm-pre,codir-pre", "roberta-base"
PAPER_BLOCKS, PAPER_BLOCK = 8_400_000, 512


@dataclass(frozen=True)
class Stage:
    """One stage of a pre-training, planned; operations are those of an optimiser step over all processes.

    Attributes:
        student_parameters, teacher_parameters: all of them; None without a teacher.
        flops_student: forward and backward pass, head at the predicted positions included.
        flops_teacher_forward: the teacher's pass; 0 without one.
        flops_total: both. Norms, activations, the contrastive term and the optimiser are left out: below 1 %.
        memory_bytes: of a process at its fullest moment: measured on a GPU, else an estimate.
        bank_bytes: of the memory bank, part of `memory_bytes`.
        steps, tokens: optimiser steps, and tokens of each.
        epochs: passes over the corpus.
        micro_batches: those that a process computes one after the other in a step.
        precision: of the matrix products.
        seconds_per_step, hours, gpu_hours: measured or estimated; the network is not in them.
    """

    student_parameters: int
    teacher_parameters: int | None
    flops_student: int
    flops_teacher_forward: int
    flops_total: int
    memory_bytes: int
    bank_bytes: int
    steps: int
    tokens: int
    epochs: float
    micro_batches: int
    precision: str
    seconds_per_step: float
    hours: float
    gpu_hours: float


@dataclass(frozen=True)
class Plan(Tabular):
    """The stages of a pre-training by their recipes' names, in order, and what the numbers rest on, in sentences."""

    stages: dict[str, Stage]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values: each stage's fields, and the sums."""
        return {
            "stages": {name: asdict(stage) for name, stage in self.stages.items()},
            "hours": sum(stage.hours for stage in self.stages.values()),
            "gpu_hours": sum(stage.gpu_hours for stage in self.stages.values()),
            "notes": self.notes,
        }

    def table(self) -> Table:
        """Returns one line for each quantity and one column for each stage."""
        lines: dict[str, Callable[[Stage], str]] = {
            "student, parameters": lambda s: f"{s.student_parameters / 1e6:,.1f} M",
            "teacher, parameters": lambda s: f"{(s.teacher_parameters or 0) / 1e6:,.1f} M",
            "student, operations of a step": lambda s: f"{s.flops_student / 1e12:,.2f} TFLOP",
            "teacher, operations of a step": lambda s: f"{s.flops_teacher_forward / 1e12:,.2f} TFLOP",
            "memory of a process": lambda s: human_bytes(s.memory_bytes),
            "the bank's part of it": lambda s: human_bytes(s.bank_bytes),
            "steps": lambda s: f"{s.steps:,}",
            "tokens of a step": lambda s: f"{s.tokens:,}",
            "passes over the corpus": lambda s: f"{s.epochs:,.1f}",
            "micro-batches of a process": lambda s: f"{s.micro_batches:,}",
            "seconds of a step": lambda s: f"{s.seconds_per_step:,.3g}",
            "hours": lambda s: f"{s.hours:,.1f}",
            "GPU-hours": lambda s: f"{s.gpu_hours:,.1f}",
        }
        columns = (Column("", left=True), *(Column(name) for name in self.stages))
        rows = [(label, *map(value, self.stages.values())) for label, value in lines.items()]
        return Table("The plan", columns, rows, note=" ".join(self.notes))


@writes("json_file", option="--json")
def plan(
    *,
    recipes: str | None = None,
    config: str | Path | None = None,
    overrides: Iterable[str] = (),
    flags: Mapping[str, tuple[str, Any]] | None = None,
    blocks: int | None = None,
    block: int | None = None,
    gpus: int = 1,
    device: str | None = None,
    efficiency: float | None = None,
    measured: bool = False,
    paper: bool = False,
    json_file: str | Path | None = None,
    console: Console | None = None,
) -> Plan:
    """Plans one stage of a pre-training or several, one after the other.

    Args:
        recipes: a recipe, or several with commas between them; each is a stage with the same settings otherwise.
        config, overrides, flags: as `codir.config.loading.load_pretrain` takes them; corpus and output may be missing.
        blocks: N, where there is no corpus yet.
        block: L, likewise (512).
        gpus: processes.
        device: name of a GPU in `DEVICES`; an A100 by default.
        efficiency: share of the device's peak that is reached (0.35).
        measured: time a few steps on this machine instead.
        paper: the paper's own setting, as far as nothing else is said.
        json_file: where the numbers go as well.
        console: where to print; the terminal by default.

    Raises:
        ConfigError: a name that is not known, a batch that cannot be shared out, something missing.
        DataError: the corpus cannot be opened or was made with another tokenizer.
        ModelError: a config cannot be read.
    """
    flags = dict(flags or {})
    if paper:
        recipes = recipes or PAPER_RECIPES
        flags.setdefault("teacher", ("--paper", PAPER_TEACHER))
        if "corpus" not in flags:
            blocks, block = blocks or PAPER_BLOCKS, block or PAPER_BLOCK
    device = _device(device, efficiency, measured)
    stages, notes = {}, []
    for recipe in recipes.split(",") if recipes else [None]:
        loaded = load_pretrain(
            recipe=recipe.strip() if recipe else None,
            config=config,
            overrides=overrides,
            flags=flags,
            defaults={"corpus": _NOWHERE, "output": _NOWHERE},
        )
        stages[loaded.recipe] = _stage(loaded, device, efficiency or EFFICIENCY, gpus, blocks, block, notes)
    if device is not None:
        notes.append(
            f"Times are estimates from {efficiency or EFFICIENCY:.0%} of the peak of one {device.upper()} a process "
            f"(16 bits: {DEVICES[device][0]:g} TFLOP/s); --measure times this machine instead."
        )
    notes.append(
        "Blocks count as full, the network's time is not in it. Weights, gradients and Adam are fp32; memory is an "
        "estimate unless measured on a GPU."
    )
    result = Plan(stages, notes)
    terminal(console).print(result.to_rich())
    if json_file is not None:
        write_json(json_file, result.to_json())
    return result


def _device(name: str | None, efficiency: float | None, measured: bool) -> str | None:
    """Returns the device to estimate for; None to measure here."""
    if measured and (name or efficiency):
        raise ConfigError("--measure times this machine: leave out --device and --efficiency.")
    if efficiency is not None and not 0 < efficiency <= 1:
        raise ConfigError(
            f"--efficiency {efficiency:g} is no share of the peak: give one above 0, at most 1."
        )
    if measured:
        return None
    name = (name or "a100").strip().lower()
    if name not in DEVICES:
        raise ConfigError(
            f"--device {name} is not known{nearest(name, DEVICES)}: choose {', '.join(DEVICES)}, or time any other "
            "machine on itself with --measure."
        )
    return name


def _stage(
    config: PretrainConfig,
    device: str | None,
    efficiency: float,
    gpus: int,
    blocks: int | None,
    block: int | None,
    notes: list[str],
) -> Stage:
    if gpus < 1:
        raise ConfigError(f"--gpus {gpus}: give at least one.")
    needs, taught, training = needs_of(config.objectives), taught_by(config.objectives), config.training
    corpus = _corpus(config, blocks, block)
    if taught and config.teacher is None:
        raise ConfigError(
            f"The recipe {config.recipe!r} distils a teacher ({', '.join(taught)}) and none is named: add "
            "--teacher MODEL, for example --teacher roberta-base, or plan --recipe mlm-pre, which needs none."
        )
    teacher_config = config_of(config.teacher) if config.teacher is not None else None
    student_config = student_config_of(config, teacher_config, corpus)
    length = corpus.block if corpus is not None else (block or PAPER_BLOCK)
    count = len(corpus.train) if corpus is not None else int(blocks or 0)
    require_fit(config, corpus, length, teacher_config, student_config)
    if not taught:
        teacher_config = None
    student = ModelCosts.of(student_config)
    teacher = ModelCosts.of(teacher_config) if teacher_config is not None else None
    if teacher is not None and needs.teacher_logits and teacher.vocabulary != student.vocabulary:
        raise ConfigError(
            f"The teacher's vocabulary has {teacher.vocabulary:,} tokens and the student's {student.vocabulary:,}, so "
            "KD over tokens is impossible: plan --recipe mlm-pre, or a student of the teacher's family."
        )
    micro_batch, accumulation = share_out(training, gpus)
    precision = _precision(training.precision, device)
    head_only = config.trained == "head"
    recompute = bool(training.more().get("gradient_checkpointing", False))
    everywhere = any(settings.get("positions") == "all" for settings in config.objectives.values())
    masked = 1.0 if everywhere else config.masking.probability

    tokens = training.global_batch_size * length
    heads = round(masked * tokens) if predicts(config.objectives) else 0
    # a backward pass is twice its forward; if the head alone is trained, its input has no gradient
    flops_student = (1 if head_only else 3) * tokens * student.flops_of_token(length)
    flops_student += (2 if head_only else 3) * heads * student.head_flops
    flops_teacher = 0
    if teacher is not None:
        flops_teacher = tokens * teacher.flops_of_token(length)
        flops_teacher += heads * teacher.head_flops if needs.teacher_logits else 0
    bank = _bank_bytes(config, count)
    trained = student.head_parameters if head_only else student.parameters
    memory = 4 * (student.parameters + (teacher.parameters if teacher else 0)) + 12 * trained + bank
    if not head_only:
        memory += micro_batch * length * student.kept_for_backward(precision, recompute)

    if device is None:
        found = measure_step(
            config.objectives,
            student_config,
            teacher_config,
            block=length,
            batch=training.global_batch_size,
            micro_batch=micro_batch,
            masked=masked,
            precision=precision,
            recompute=recompute,
            head_only=head_only,
        )
        seconds = accumulation * found.micro_batch + found.optimiser
        memory = found.peak_memory or memory
        notes.append(
            f"{config.recipe}, measured on {found.device}: {found.micro_batch:.3g} s for {micro_batch} blocks, "
            f"{found.optimiser:.3g} s for the optimiser."
        )
    else:
        half, single, gigabytes, _ = DEVICES[device]
        peak = 1e12 * (single if precision == "fp32" else half)
        seconds = (flops_student + flops_teacher) / (gpus * peak * efficiency)
        if memory > 0.95e9 * gigabytes:
            notes.append(
                f"{config.recipe} does not fit into {gigabytes} GB: use --micro-batch with a smaller number, or --set "
                "training.gradient_checkpointing=true."
            )
    if config.student.freeze:
        notes.append(f"{config.recipe}: what student.freeze keeps as it is counts as trained here.")
    steps = training.steps_for(count)
    return Stage(
        student_parameters=student.parameters,
        teacher_parameters=teacher.parameters if teacher else None,
        flops_student=flops_student,
        flops_teacher_forward=flops_teacher,
        flops_total=flops_student + flops_teacher,
        memory_bytes=memory,
        bank_bytes=bank,
        steps=steps,
        tokens=tokens,
        epochs=steps * training.global_batch_size / count,
        micro_batches=accumulation,
        precision=precision,
        seconds_per_step=seconds,
        hours=steps * seconds / 3600,
        gpu_hours=steps * seconds * gpus / 3600,
    )


def _bank_bytes(config: PretrainConfig, count: int) -> int:
    crd = config.objectives.get("crd")
    if crd is None or crd["negatives"] == "in-batch":
        return 0
    return count * crd["dim"] * (2 if crd["bank_dtype"] == "float16" else 4)


def _precision(
    asked: Literal["auto", "fp32", "bf16", "fp16"], device: str | None
) -> Literal["fp32", "bf16", "fp16"]:
    if device is None:
        return resolve_precision(asked)
    narrow = DEVICES[device][3]
    if asked == "bf16" and narrow != "bf16":
        raise ConfigError(
            f"The {device.upper()} has no bf16: use --precision fp16, fp32 or auto, or another --device."
        )
    return narrow if asked == "auto" else asked


def _corpus(config: PretrainConfig, blocks: int | None, block: int | None) -> Corpus | None:
    if str(config.corpus) != _NOWHERE:
        if blocks is not None or block is not None:
            raise ConfigError(
                f"--blocks and --block describe a corpus that does not exist yet, and {config.corpus} is named as "
                "well: leave out one of the two."
            )
        return open_corpus(config.corpus, digests=False)
    if blocks is None:
        raise ConfigError(
            "There is no corpus: name its folder with --corpus, or say how many blocks it will have with --blocks "
            "(tokens / block; --block 512 says how long they are)."
        )
    if blocks < 1:
        raise ConfigError(f"--blocks {blocks}: give at least one.")
    return None
