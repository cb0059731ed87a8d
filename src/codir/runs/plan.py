"""What a pre-training will cost, before it starts: parameters, operations, bytes, hours, line by line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from codir.config.loading import load_pretrain
from codir.config.pretraining import PretrainConfig
from codir.corpora.corpus import Corpus, open_corpus
from codir.errors import ConfigError, DataError, ModelError
from codir.losses.negative_sources import has_bank
from codir.losses.registry import needs_of, predicts, taught_by
from codir.models.blocks import choose_blocks
from codir.models.loading import load_tokenizer
from codir.models.matching import match_blocks
from codir.models.narrowing import narrow_config
from codir.models.positions import position_limit
from codir.models.shallower import shallower_config
from codir.models.student import chosen_blocks
from codir.models.student_config import read_config
from codir.outputs import writes
from codir.printing import Console, terminal
from codir.runs import costs, footprint
from codir.runs.arguments import share_out
from codir.runs.costs import Contrast, Setting
from codir.runs.devices import Machine
from codir.runs.model_shapes import config_of, model_shape
from codir.runs.plan_table import Stage, processes_table, show_hours, show_seconds, stage_values, to_rich
from codir.runs.warmup import measure_step
from codir.storage import write_json

_NOWHERE = "-"  # stands for a corpus and an output folder, which a plan does not need
_OTHER_PROCESSES = (1, 8, 64)
_BUSY = 0.85  # below this share of a processor, a measurement says more about the others

# The paper does not name its corpus; it follows RoBERTa and speaks of BooksCorpus. With BERT's two corpora, 0.8 and 2.5
# billion words (Devlin et al., 2019, section 3.1), and about 1.3 tokens a word: 4.3 billion tokens.
PAPER_RECIPES = "mlm-pre,codir-pre"
PAPER_TEACHER = "roberta-base"
PAPER_BLOCKS, PAPER_BLOCK = 8_400_000, 512


@dataclass
class Plan:
    """The stages of a pre-training and what is assumed.

    Attributes:
        stages: in their order.
        others: the same stages on other numbers of processes.
        notes: what the numbers rest on, in sentences.
    """

    stages: list[Stage]
    others: list[list[Stage]]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values: every line of every stage by name, in bytes, operations and seconds."""
        return {
            "stages": {stage.name: stage_values(stage) for stage in self.stages},
            "hours": sum(stage.hours for stage in self.stages),
            "gpu_hours": sum(stage.gpu_hours for stage in self.stages),
            "processes": {
                str(stages[0].setting.processes): {
                    "hours": sum(stage.hours for stage in stages),
                    "gpu_hours": sum(stage.gpu_hours for stage in stages),
                }
                for stages in self.others
            },
            "notes": self.notes,
        }

    def show(self, console: Console) -> None:
        """Prints the tables and the notes."""
        console.print(to_rich(self.stages, "The plan"))
        if len(self.others) > 1:
            console.print()
            console.print(processes_table("On other numbers of GPUs", self.others))
        console.print()
        for note in self.notes:
            console.print(note, highlight=False)


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
    peak_tflops: float | None = None,
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
        device: name of the GPU; by default this machine's, or an A100.
        peak_tflops: of a device that has no name here, in the precision of the training.
        efficiency: model-FLOPs utilisation assumed.
        measured: time a few warm-up steps on this machine instead.
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
    machine = Machine.of(device, peak_tflops, efficiency, measured)
    stages, notes = [], machine.notes()
    for recipe in recipes.split(",") if recipes else [None]:
        loaded = load_pretrain(
            recipe=recipe.strip() if recipe else None,
            config=config,
            overrides=overrides,
            flags=flags,
            defaults={"corpus": _NOWHERE, "output": _NOWHERE},
        )
        stages.append(_stage(loaded, machine, gpus, blocks, block))
        if loaded.student.freeze:
            notes.append(
                f"{loaded.recipe}: student.freeze keeps {', '.join(map(str, loaded.student.freeze))} as they are. The "
                "plan counts them as trained, so memory and time are at most as said."
            )
    result = Plan(stages, _on_other_numbers(stages, machine), notes + _warnings(stages, machine))
    result.show(terminal(console))
    if json_file is not None:
        write_json(json_file, result.to_json())
    return result


def _stage(
    config: PretrainConfig, machine: Machine, gpus: int, blocks: int | None, block: int | None
) -> Stage:
    if gpus < 1:
        raise ConfigError(f"--gpus {gpus}: give at least one.")
    corpus = _corpus(config, blocks, block)
    needs = needs_of(config.objectives)
    taught = taught_by(config.objectives)
    if taught and config.teacher is None:
        raise ConfigError(
            f"The recipe {config.recipe!r} distils a teacher ({', '.join(taught)}) and none is named: add "
            "--teacher MODEL, for example --teacher roberta-base, or plan --recipe mlm-pre, which needs none."
        )
    teacher_config = config_of(config.teacher) if config.teacher is not None else None
    student_config = _student_config(config, teacher_config, corpus)
    length = corpus.block if corpus is not None else (block or PAPER_BLOCK)
    for whose, each in (("teacher", teacher_config), ("student", student_config)):
        limit = position_limit(each) if each is not None else None
        if limit is not None and length > limit:
            raise ModelError(
                f"The {whose} has positions for {limit} tokens, and blocks of {length} are planned: use --block "
                f"{limit}, or prepare the corpus so."
            )
    if corpus is not None:
        _same_tokenizer(config, corpus, teacher_config, student_config)
    student = model_shape(student_config)
    teacher = model_shape(teacher_config) if teacher_config is not None and taught else None
    if teacher is not None and needs.teacher_logits and teacher.vocabulary != student.vocabulary:
        raise ConfigError(
            f"The teacher's vocabulary has {teacher.vocabulary:,} tokens and the student's {student.vocabulary:,}, so "
            "KD over tokens is impossible: plan --recipe mlm-pre, or a student of the teacher's family."
        )
    training = config.training
    micro_batch, _ = share_out(training, gpus)
    precision = machine.precision(training.precision)
    dropout = float(getattr(student_config, "attention_probs_dropout_prob", 0.0) or 0.0)
    count = len(corpus.train) if corpus is not None else _required(blocks)
    setting = Setting(
        student=student,
        teacher=teacher,
        block=length,
        blocks=count,
        batch=training.batch_size,
        micro_batch=micro_batch,
        processes=gpus,
        steps=training.steps_for(count),
        masked=1.0 if _everywhere(config) else config.masking.probability,
        precision=precision,
        tokens_predicted=predicts(config.objectives),
        teacher_logits=needs.teacher_logits,
        pooled=bool(needs.pooled),
        contrast=_contrast(config, student.blocks, student.width, teacher, micro_batch * gpus),
        recompute=bool(training.arguments.get("gradient_checkpointing", False)),
        cpu=machine.cpu,
        stored_attention=machine.cpu and dropout > 0,
        head_only=config.trained == "head",
        kept=training.save_total_limit,
        save_every=training.save_every,
    )
    peak = machine.peak_in(precision)
    if machine.measured:
        used = teacher_config if teacher is not None else None
        found = measure_step(setting, config.objectives, student_config, used)
        seconds = found.seconds_per_step(setting)
        return Stage(config.recipe, setting, machine.memory, peak, seconds, found)
    assert peak is not None
    return Stage(
        config.recipe,
        setting,
        machine.memory,
        peak,
        costs.seconds_per_step(setting, peak, machine.efficiency),
    )


def _everywhere(config: PretrainConfig) -> bool:
    """Whether a term compares predictions at all tokens, and not at the masked ones alone."""
    return any(settings.get("positions") == "all" for settings in config.objectives.values())


def _corpus(config: PretrainConfig, blocks: int | None, block: int | None) -> Corpus | None:
    if str(config.corpus) == _NOWHERE:
        _required(blocks)
        return None
    if blocks is not None or block is not None:
        raise ConfigError(
            f"--blocks and --block describe a corpus that does not exist yet, and {config.corpus} is named as well: "
            "leave out one of the two."
        )
    return open_corpus(config.corpus, digests=False)


def _required(blocks: int | None) -> int:
    if blocks is None:
        raise ConfigError(
            "There is no corpus: name its folder with --corpus, or say how many blocks it will have with --blocks "
            "(tokens / block; --block 512 says how long they are)."
        )
    if blocks < 1:
        raise ConfigError(f"--blocks {blocks}: give at least one.")
    return blocks


def _student_config(
    config: PretrainConfig, teacher: PretrainedConfig | None, corpus: Corpus | None
) -> PretrainedConfig:
    wanted = config.student
    if wanted.model is not None:
        return config_of(wanted.model)
    if wanted.config is not None:
        if isinstance(wanted.config, Mapping):
            return read_config(wanted.config)
        return config_of(wanted.config)
    if teacher is None and corpus is not None and corpus.config_path is not None:
        teacher = config_of(corpus.config_path)
    if teacher is None:
        raise ConfigError(
            "Nothing says what the student looks like: add --teacher MODEL (the student is cut out of it), --student "
            "MODEL, or --student-config config.json."
        )
    cut = shallower_config(teacher, chosen_blocks(int(teacher.num_hidden_layers), wanted.layers, wanted.init))
    if wanted.width is None and wanted.intermediate is None:
        return cut
    return narrow_config(cut, wanted.width, wanted.intermediate)


def _same_tokenizer(
    config: PretrainConfig,
    corpus: Corpus,
    teacher: PretrainedConfig | None,
    student: PretrainedConfig,
) -> None:
    """Compares tokenizers where they lie in a folder here, and the sizes of the vocabularies in any case."""
    for whose, source, each in (
        ("teacher", config.teacher, teacher),
        ("student", config.student.model, student),
    ):
        if each is None:
            continue
        if source is not None and Path(source).expanduser().is_dir():
            corpus.check_tokenizer(load_tokenizer(source), f"the {whose} {source}")
        if int(each.vocab_size) < corpus.vocab_size:
            raise DataError(
                f"The corpus {corpus.path} was prepared with a tokenizer of {corpus.vocab_size:,} tokens, and the "
                f"{whose} has a vocabulary of {int(each.vocab_size):,}: prepare one for it with `codir corpus "
                "--tokenizer`."
            )


def _contrast(
    config: PretrainConfig, student_blocks: int, student_width: int, teacher: Any, together: int
) -> Contrast | None:
    settings = config.objectives.get("crd")
    if settings is None or teacher is None:
        return None
    name = "in-batch-bank" if settings["negatives"] == "auto" else settings["negatives"]
    if name == "in-batch-bank":
        compared = config.training.batch_size
    elif name == "in-batch":
        compared = together
    elif name == "queue":
        compared = settings["queue_size"]
    else:
        compared = 500 if settings["k"] in ("auto", "all") else int(settings["k"])
    bank = has_bank(name)
    if settings["contrast"] == "blocks":
        pairs = of_teacher = of_student = len(
            match_blocks(settings["matching"], student_blocks, teacher.blocks)
        )
    else:
        pairs = 1
        of_teacher = len(choose_blocks(settings["teacher_blocks"], teacher.blocks))
        of_student = len(choose_blocks(settings["student_blocks"], student_blocks))
    return Contrast(
        dim=settings["dim"],
        teacher_inputs=of_teacher * teacher.width,
        student_inputs=of_student * student_width,
        compared=compared,
        through_negatives=bool(settings["negatives_gradient"]),
        bank_item=(2 if settings["bank_dtype"] == "float16" else 4) if bank else 0,
        bank_storage=settings["bank_storage"],
        queue=settings["queue_size"] if name == "queue" else 0,
        pairs=pairs,
    )


def _on_other_numbers(stages: Sequence[Stage], machine: Machine) -> list[list[Stage]]:
    """The same stages on 1, 8, 64 and the number asked for, where the batch can be shared out to them."""
    asked = stages[0].setting.processes
    if machine.measured and not torch.cuda.is_available():
        return [list(stages)]
    rows = []
    for number in sorted({*_OTHER_PROCESSES, asked}):
        row = []
        for stage in stages:
            own, rest = divmod(stage.setting.batch, number)
            if rest or own % min(stage.setting.micro_batch, max(own, 1)):
                break
            micro_batch = min(stage.setting.micro_batch, own)
            setting = replace(stage.setting, processes=number, micro_batch=micro_batch)
            if stage.measured is not None:
                seconds = stage.measured.seconds_per_step(setting)
            else:
                assert stage.peak is not None
                seconds = costs.seconds_per_step(setting, stage.peak, machine.efficiency)
            row.append(replace(stage, setting=setting, seconds_per_step=seconds))
        if len(row) == len(stages):
            rows.append(row)
    return rows


def _warnings(stages: Sequence[Stage], machine: Machine) -> list[str]:
    notes = [
        "Blocks count as full. The network's time is not in it: several processes take at least as long as said."
    ]
    formats = sorted({stage.setting.precision for stage in stages})
    notes.append(f"Matrix products run in {' and '.join(formats)}; weights, gradients and Adam are fp32.")
    for stage in stages:
        if (found := stage.measured) is not None:
            where = (
                found.device
                if found.peak_memory is not None
                else f"{found.device}, {found.threads} thread(s)"
            )
            notes.append(
                f"{stage.name}, measured on {where}: {show_seconds(found.micro_batch_seconds)} for "
                f"{stage.setting.micro_batch} blocks (median of {found.micro_batches}), "
                f"{show_seconds(found.optimiser_seconds)} for the optimiser."
            )
            alone = found.alone_per_step(stage.setting)
            if alone is not None and alone < _BUSY * stage.seconds_per_step:
                notes.append(
                    f"The machine is busy. By its processor time a step of {stage.name} would take about "
                    f"{show_seconds(alone)} alone, all steps {show_hours(alone * stage.setting.steps / 3600)}."
                )
        needed = footprint.memory_bytes(stage.setting, stage.gpu_memory)
        if stage.gpu_memory is not None and needed > 0.95 * stage.gpu_memory:
            recompute = replace(stage.setting, recompute=True)
            helps = footprint.memory_bytes(recompute, stage.gpu_memory) <= 0.95 * stage.gpu_memory
            way_out = "--micro-batch with a smaller number" + (
                ", or --set training.arguments.gradient_checkpointing=true" if helps else ""
            )
            notes.append(f"{stage.name} does not fit into {stage.gpu_memory / 1e9:.0f} GB: use {way_out}.")
    return notes
