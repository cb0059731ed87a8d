"""From a corpus, and a pre-trained teacher, to a smaller pre-trained model that fine-tunes like any other."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalPrediction

from codir.config.loading import load_pretrain, resolved_yaml
from codir.config.pretraining import PretrainConfig
from codir.data.corpus import Corpus, open_corpus
from codir.errors import DataError
from codir.files import read_json, write_json, write_text
from codir.gather import processes
from codir.kinds import MASKED_LM, kind_named
from codir.losses.registry import predicts
from codir.measure.masked_scores import MaskedTable, block_metrics, described, predict_masked
from codir.models.config_file import position_limit
from codir.models.loading import encoder_shape
from codir.models.masked_lm import load_masked_lm
from codir.printing import Console, Table, pairs, progress_bar, terminal
from codir.record.card import run_card
from codir.record.environment import environment
from codir.record.fingerprint import (
    CORPUS,
    CORPUS_FILE,
    Part,
    begin,
    config_part,
    model_part,
    require_same,
    require_same_still,
)
from codir.record.runfolder import RunFolder
from codir.runs.arguments import check_arguments, to_pretraining_arguments
from codir.runs.pretrain_models import PretrainingModels, load_models
from codir.runs.several import join, run_folder
from codir.runs.student_run import Cost, train_and_publish, trained_before
from codir.teacher.frozen import FrozenTeacher
from codir.training.arguments import DistillationArguments
from codir.training.callbacks import LogFile
from codir.training.collators import MaskedBlockCollator
from codir.training.masking import TokenMasking
from codir.training.precision import resolve_precision
from codir.training.processes import barrier, first_says, is_main
from codir.training.samplers import NeighbourSampler, neighbours_warning
from codir.training.trainer import DistillationTrainer


@dataclass
class PretrainResult:
    """What a pre-training gave.

    Attributes:
        output: the run folder; `AutoModelForMaskedLM.from_pretrained(output)` is the student.
        table: held-out scores of the teacher and of the student before and after.
        cost: what the training took.
    """

    output: Path
    table: MaskedTable
    cost: Cost


def pretrain(
    config: PretrainConfig | None = None, *, console: Console | None = None, **settings: Any
) -> PretrainResult:
    """Pre-trains a student on a corpus, with or without a teacher.

    Args:
        config: the whole configuration; or give its sections as keywords, on top of a recipe:
            `pretrain(recipe="codir-pre", corpus="corpora/wiki", teacher="roberta-base", output="runs/codir-pre")`.
        console: where to print; the terminal by default.
        settings: `recipe`, `corpus`, `teacher`, `student`, `objectives`, `masking`, `training`, `output`, `resume`.

    Returns:
        The result, also written to the run folder.

    Raises:
        CodirError: bad input, a run in the way, an interrupted or diverged training.
    """
    if config is None:
        recipe = settings.pop("recipe", None)
        config = load_pretrain(recipe=recipe, flags={key: (key, value) for key, value in settings.items()})
    console = join(terminal(console))
    check_arguments(config.training)
    with run_folder(config.output, config.resume) as run:
        if first_says("finished" if run.finished else ""):
            if is_main():
                require_same_still(
                    run, resolved_yaml(config), lambda: _begun_with(config, open_corpus(config.corpus))
                )
            result = run.results(lambda content: _read(run, content))
            console.print(f"{run.path} is finished; nothing to resume.", highlight=False)
        else:
            if run.reopened:
                console.print(run.reopened, highlight=False)
            run.check_same(resolved_yaml(config))
            result = _pretrain(config, run, console)
    console.print(result.table.to_rich())
    console.print(
        f"The student is in {result.output}; "
        f"`codir finetune --model {shlex.quote(str(result.output))} --task TASK --output DIR` "
        "fine-tunes it.",
        highlight=False,
    )
    return result


def _pretrain(config: PretrainConfig, run: RunFolder, console: Console) -> PretrainResult:
    corpus = open_corpus(config.corpus)
    args = to_pretraining_arguments(
        config.training, run.checkpoints, processes(), len(corpus.validation) > 0, _steps(config, corpus)
    )
    require_same(run, _begun_with(config, corpus))
    models = load_models(config, corpus)
    _enough_blocks(config, corpus)
    first_epoch = _epochs_before(config, corpus)
    collator = _collator(config, models, args, first_epoch)
    autocast = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    cost = trained_before(run, config.training, console, config.recipe)
    trainer = _trainer(config, corpus, models, args, collator, autocast, run) if cost is None else None
    barrier()
    if is_main():
        # Only now is it a run: a refusal above leaves the folder free for the next attempt.
        _begin(run, config, corpus, first_epoch)
    console.print(_before(config, corpus, models))
    if warning := neighbours_warning(config.training.global_batch_size, config.training.neighbours):
        console.print(warning, highlight=False)
    if trainer is not None:
        cost = train_and_publish(
            run, trainer, config.training, models.tokenizer, console, f"pre-training ({config.recipe})"
        )
    assert cost is not None
    if is_main():
        table = _judge(config, corpus, models, run, collator, args)
        _write(run, PretrainResult(run.path, table, cost), config, corpus)
    barrier()
    return _read(run, read_json(run.metrics))


def _begin(run: RunFolder, config: PretrainConfig, corpus: Corpus, first_epoch: int) -> None:
    begin(run, resolved_yaml(config), _begun_with(config, corpus))
    write_json(
        run.environment, environment(config.training.seed, resolve_precision(config.training.precision))
    )
    epochs = first_epoch + math.ceil(_passes(config, corpus))
    write_json(
        run.path / CORPUS_FILE,
        {"path": str(corpus.path), "key": corpus.key, "blocks": len(corpus.train), "epochs": epochs},
    )


def _epochs_before(config: PretrainConfig, corpus: Corpus) -> int:
    """How often the student has been over this corpus: with one seed a second stage would see the same masks again."""
    path = Path(config.student.model or "") / CORPUS_FILE
    if config.student.model is None or not path.is_file():
        return 0
    before = read_json(path)
    return int(before["epochs"]) if before["key"] == corpus.key else 0


def _collator(
    config: PretrainConfig, models: PretrainingModels, args: DistillationArguments, first_epoch: int
) -> MaskedBlockCollator:
    masking = TokenMasking(
        models.tokenizer,
        config.masking.probability,
        config.masking.masked,
        config.masking.random,
        seed=config.training.seed,
    )
    return MaskedBlockCollator(
        models.tokenizer,
        masking,
        max_length=position_limit(models.student.config),
        pad_to_multiple_of=8 if args.device.type == "cuda" else None,
        first_epoch=first_epoch,
    )


def _trainer(
    config: PretrainConfig,
    corpus: Corpus,
    models: PretrainingModels,
    args: DistillationArguments,
    collator: MaskedBlockCollator,
    autocast: torch.dtype | None,
    run: RunFolder,
) -> DistillationTrainer:
    args.cache_teacher = False  # the masks change in every epoch, and with them what the teacher says
    sampler = NeighbourSampler(
        np.asarray(corpus.train["document"]),
        config.training.neighbours,
        config.training.seed,
        batch_size=config.training.global_batch_size,
        first_epoch=collator.first_epoch,
    )

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        return block_metrics(np.asarray(prediction.predictions))

    return DistillationTrainer(
        models.student,
        config.objectives,
        args,
        train_dataset=_numbered(corpus.train),
        eval_dataset=_numbered(corpus.validation) if len(corpus.validation) else None,
        processing_class=models.tokenizer,
        teacher=FrozenTeacher(models.teacher, autocast=autocast) if models.teacher is not None else None,
        compute_metrics=metrics,
        callbacks=[LogFile(run.log)],
        data_collator=collator,
        train_sampler=sampler,
        kind=kind_named(MASKED_LM),
        label=config.recipe,
    )


def _numbered(blocks: Dataset) -> Dataset:
    return blocks.add_column("example_id", np.arange(len(blocks)))  # type: ignore[call-arg]


def _enough_blocks(config: PretrainConfig, corpus: Corpus) -> None:
    blocks = len(corpus.train)
    if blocks < config.training.global_batch_size:
        raise DataError(
            f"{corpus.path} has {blocks:,} blocks to train on, fewer than one batch of "
            f"{config.training.global_batch_size:,}: add text, or set --batch-size to at most {blocks:,}."
        )


def _begun_with(config: PretrainConfig, corpus: Corpus) -> dict[str, Part]:
    """Describes what the run reads: the corpus, and the models that it starts from."""
    parts: dict[str, Part] = {CORPUS: {"from": str(corpus.path), "content": corpus.key}}
    if config.teacher is not None:
        parts["teacher"] = model_part(config.teacher)
    if config.student.model is not None:
        parts["student's model"] = model_part(config.student.model)
    if isinstance(config.student.config, Path):
        parts["student's config"] = config_part(config.student.config)
    return parts


def _before(config: PretrainConfig, corpus: Corpus, models: PretrainingModels) -> Table:
    rows: list[tuple[str, str]] = []
    if models.teacher is not None:
        shape = encoder_shape(models.teacher)
        rows.append(("teacher", f"{config.teacher} ({shape.layers} layers, {shape.width} wide)"))
    shape = encoder_shape(models.student)
    rows.append(("student", f"{shape.layers} layers, {shape.width} wide"))
    rows += models.origin
    training, blocks = config.training, len(corpus.train)
    rows.append(("corpus", f"{corpus.path} ({blocks:,} blocks of up to {corpus.block} tokens)"))
    passes = f"{_passes(config, corpus):.1f} passes"
    if before := _epochs_before(config, corpus):
        passes += f", after {before} of the student's earlier training"
    rows.append(("steps", f"{_steps(config, corpus):,} of {training.global_batch_size:,} blocks: {passes}"))
    return pairs("Before training", rows)


def _passes(config: PretrainConfig, corpus: Corpus) -> float:
    whole = len(corpus.train) // config.training.global_batch_size  # batches of an epoch
    return _steps(config, corpus) / whole


def _steps(config: PretrainConfig, corpus: Corpus) -> int:
    return config.training.steps_for(len(corpus.train))


def _judge(
    config: PretrainConfig,
    corpus: Corpus,
    models: PretrainingModels,
    run: RunFolder,
    collator: MaskedBlockCollator,
    args: DistillationArguments,
) -> MaskedTable:
    """Scores the teacher, the student before and the student after on the same masked tokens, in fp32."""
    held_out = _numbered(corpus.validation)
    start = load_models(config, corpus).student
    table = MaskedTable([], 0, len(held_out), predicts(config.objectives))
    of_teacher = None
    candidates: list[tuple[str, PreTrainedModel | None]] = [
        ("teacher", models.teacher),
        ("student before", start),
        ("student", load_masked_lm(run.path)),
    ]
    for name, model in candidates:
        if model is None:
            continue
        row = described(name, model)
        table.rows.append(row)
        if not len(held_out) or (name == "teacher" and not models.teacher_predicts):
            continue
        cast(torch.nn.Module, model).to(args.device)
        with progress_bar(f"{name} on the held-out blocks", len(held_out)) as move:
            found = predict_masked(model, held_out, collator, args.per_device_eval_batch_size, progress=move)
        table.positions = len(found.expected)
        if name == "teacher":
            of_teacher = found
        found.fill(row, of_teacher)
    return table


def _write(run: RunFolder, result: PretrainResult, config: PretrainConfig, corpus: Corpus) -> None:
    content = {
        "recipe": config.recipe,
        "corpus": {
            "path": str(corpus.path),
            "key": corpus.key,
            "blocks": len(corpus.train),
            "block": corpus.block,
        },
        "teacher": config.teacher,
        "seed": config.training.seed,
        "scores": result.table.to_json(),
        "cost": asdict(result.cost),
        "tokens_per_step": config.training.global_batch_size * corpus.block,
    }
    write_json(run.metrics, content)
    write_text(run.path / "table.md", result.table.to_markdown())
    write_text(run.card, run_card(run.path))


def _read(run: RunFolder, content: Any) -> PretrainResult:
    return PretrainResult(run.path, MaskedTable.from_json(content["scores"]), Cost(**content["cost"]))
