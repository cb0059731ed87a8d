"""What a pre-training costs, before it starts: parameters, operations, memory, and time (measured, or estimated)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codir.config.loading import load
from codir.config.pretraining import PretrainConfig
from codir.data.corpus import open_corpus
from codir.errors import ConfigError, DataError, ModelError, nearest
from codir.files import human_bytes, write_json, writes
from codir.losses.registry import needs_of, predicts, taught_by
from codir.measure.costs import DEVICES, config_of, costs_of, measure_step, student_config_of
from codir.models.config_file import position_limit
from codir.printing import Console, terminal
from codir.runs.arguments import share_out
from codir.table import Column, Table, Tabular
from codir.training.arguments import resolve_precision

EFFICIENCY = 0.35  # share of a device's peak that is reached, where no time is measured
_NOWHERE = "-"  # stands for a corpus and an output folder, which a plan does not need

# The paper does not name its corpus; it follows RoBERTa and speaks of BooksCorpus. With BERT's two corpora, 0.8 and 2.5
# billion words (Devlin et al., 2019, section 3.1), and about 1.3 tokens a word: 4.3 billion tokens.
PAPER_RECIPES, PAPER_TEACHER = "mlm-pre,codir-pre", "roberta-base"
PAPER_BLOCKS, PAPER_BLOCK = 8_400_000, 512


@dataclass(frozen=True)
class Stage:
    """One stage of a pre-training; operations are those of an optimiser step over all processes."""

    student_parameters: int
    teacher_parameters: int | None  # None without a teacher
    flops_student: int  # forward and backward pass, head at the predicted positions included
    flops_teacher_forward: int
    flops_total: int  # without norms, activations, the contrastive term and the optimiser: below 1 %
    memory_bytes: int  # of a process at its fullest moment: measured on a GPU, else an estimate
    bank_bytes: int  # part of it
    steps: int
    tokens: int  # of a step
    epochs: float  # passes over the corpus
    micro_batches: int  # that a process computes one after the other in a step
    precision: str
    seconds_per_step: float  # measured or estimated, as the hours; the network is not in them
    hours: float
    gpu_hours: float


@dataclass(frozen=True)
class Plan(Tabular):
    """The stages of a pre-training by their recipes' names, in order, and what the numbers rest on, in sentences."""

    stages: dict[str, Stage]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values: each stage's fields, and the sums."""
        sums = {key: sum(getattr(stage, key) for stage in self.stages.values()) for key in ("hours", "gpu_hours")}
        return {**asdict(self), **sums}

    def table(self) -> Table:
        """Returns one line for each quantity and one column for each stage."""
        lines = {
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
        config, overrides, flags: as `codir.config.loading.load` takes them; corpus and output may be missing.
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
        DataError: the corpus cannot be opened, or has more tokens than a model.
        ModelError: a config cannot be read, or has too few positions.
    """
    flags = dict(flags or {})
    if paper:
        recipes = recipes or PAPER_RECIPES
        flags.setdefault("teacher", ("--paper", PAPER_TEACHER))
        if "corpus" not in flags:
            blocks, block = blocks or PAPER_BLOCKS, block or PAPER_BLOCK
    if measured and (device or efficiency):
        raise ConfigError("--measure times this machine: leave out --device and --efficiency.")
    device, efficiency = (device or "a100").strip().lower(), efficiency or EFFICIENCY
    if device not in DEVICES:
        raise ConfigError(
            f"--device {device} is not known{nearest(device, DEVICES)}: choose {', '.join(DEVICES)}, or time any other "
            "machine on itself with --measure."
        )
    if not 0 < efficiency <= 1:
        raise ConfigError(f"--efficiency {efficiency:g} is no share of the peak: give one above 0, at most 1.")
    stages, notes = {}, []
    for recipe in recipes.split(",") if recipes else [None]:
        loaded = load(
            PretrainConfig,
            recipe=recipe.strip() if recipe else None,
            config=config,
            overrides=overrides,
            flags=flags,
            defaults={"corpus": _NOWHERE, "output": _NOWHERE},
        )
        stages[loaded.recipe] = _stage(loaded, None if measured else device, efficiency, gpus, blocks, block, notes)
    if not measured:
        notes.append(
            f"Times are estimates from {efficiency:.0%} of the peak of one {device.upper()} a process (16 bits: "
            f"{DEVICES[device][0]:g} TFLOP/s); --measure times this machine instead."
        )
    notes.append(
        "Blocks count as full, all layers as trained, the network's time is not in it. Weights, gradients and Adam are "
        "fp32; memory is an estimate unless measured on a GPU."
    )
    result = Plan(stages, notes)
    terminal(console).print(result.to_rich())
    if json_file is not None:
        write_json(json_file, result.to_json())
    return result


def _stage(
    config: PretrainConfig,
    device: str | None,
    efficiency: float,
    gpus: int,
    blocks: int | None,
    block: int | None,
    notes: list[str],
) -> Stage:
    """Plans one stage for a device; None measures here. Adds to the notes what the numbers rest on."""
    needs, taught, training = needs_of(config.objectives), taught_by(config.objectives), config.training
    corpus = None if str(config.corpus) == _NOWHERE else open_corpus(config.corpus, digests=False)
    if (corpus is None) == (blocks is None) or (corpus is not None and block is not None):
        raise ConfigError(
            "How large is the corpus? Name its folder with --corpus, or say how many blocks it will have with --blocks "
            "(--block says how long they are): leave out one of the two."
        )
    if taught and config.teacher is None:
        raise ConfigError(
            f"The recipe {config.recipe!r} distils a teacher ({', '.join(taught)}) and none is named: add "
            "--teacher MODEL, for example --teacher roberta-base, or plan --recipe mlm-pre, which needs none."
        )
    teacher_config = config_of(config.teacher) if config.teacher is not None else None
    student_config = student_config_of(config, teacher_config, corpus)
    length = corpus.block if corpus is not None else (block or PAPER_BLOCK)
    count = len(corpus.train) if corpus is not None else int(blocks or 0)
    for whose, each in (("teacher", teacher_config), ("student", student_config)):
        if each is not None and length > (position_limit(each) or length):
            raise ModelError(
                f"The {whose} has positions for {position_limit(each)} tokens, and blocks of {length} are planned: use "
                f"--block {position_limit(each)}, or prepare the corpus so."
            )
        if each is not None and corpus is not None and int(each.vocab_size) < corpus.vocab_size:
            raise DataError(
                f"The corpus {corpus.path} was prepared with a tokenizer of {corpus.vocab_size:,} tokens, and the "
                f"{whose} has {int(each.vocab_size):,}: prepare one for it with `codir corpus --tokenizer`."
            )
    teacher_config = teacher_config if taught else None
    student = costs_of(student_config, length)
    teacher = costs_of(teacher_config, length) if teacher_config is not None else None
    micro_batch, accumulation = share_out(training, gpus)
    precision = training.precision
    if device is None:
        precision = resolve_precision(precision)
    elif precision == "auto":
        precision = DEVICES[device][3]
    elif precision == "bf16" and DEVICES[device][3] != "bf16":
        raise ConfigError(f"The {device.upper()} has no bf16: use --precision fp16, fp32 or auto.")
    head_only = config.trained == "head"
    recompute = bool(training.more().get("gradient_checkpointing", False))
    everywhere = any(settings.get("positions") == "all" for settings in config.objectives.values())
    masked = 1.0 if everywhere else config.masking.probability

    batch = training.global_batch_size
    heads = round(masked * batch * length) if predicts(config.objectives) else 0
    # a backward pass is twice its forward; if the head alone is trained, its input has no gradient
    flops_student = (1 if head_only else 3) * batch * student.flops
    flops_student += (2 if head_only else 3) * heads * student.head_flops
    flops_teacher = 0
    if teacher is not None:
        flops_teacher = batch * teacher.flops + (heads * teacher.head_flops if needs.teacher_logits else 0)
    crd = config.objectives.get("crd")
    bank = 0
    if crd is not None and crd["negatives"] != "in-batch":
        bank = count * crd["dim"] * (2 if crd["bank_dtype"] == "float16" else 4)
    trained = student.head_parameters if head_only else student.parameters
    memory = 4 * (student.parameters + (teacher.parameters if teacher else 0)) + 12 * trained + bank
    if not head_only:
        # kept of a token for the backward pass, about, in layers as BERT's with fused attention; with gradient
        # checkpointing it is one layer's, and 4 d of each
        width, layers = int(student_config.hidden_size), int(student_config.num_hidden_layers)
        inner = int(getattr(student_config, "intermediate_size", 0) or 4 * width)
        layer = 34 * width + 8 * inner if precision == "fp32" else 30 * width + 4 * inner
        memory += micro_batch * length * (layer + 4 * width * layers if recompute else layer * layers)

    if device is None:
        found = measure_step(
            config.objectives,
            student_config,
            teacher_config,
            block=length,
            batch=batch,
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
        tokens=batch * length,
        epochs=steps * batch / count,
        micro_batches=accumulation,
        precision=precision,
        seconds_per_step=seconds,
        hours=steps * seconds / 3600,
        gpu_hours=steps * seconds * gpus / 3600,
    )
