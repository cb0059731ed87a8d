"""From a corpus, and a pre-trained teacher, to a smaller pre-trained model that fine-tunes like any other."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalPrediction

from codir.config.loading import load
from codir.config.pretraining import PretrainConfig
from codir.data.corpus import Corpus, open_corpus
from codir.errors import DataError
from codir.files import read_json, write_json, write_text
from codir.gather import processes
from codir.kinds import MASKED_LM
from codir.losses.registry import predicts
from codir.measure.masked_scores import MaskedTable, block_metrics, described, predict_masked
from codir.models.config_file import position_limit
from codir.models.masked_lm import load_masked_lm
from codir.printing import Console, pairs, progress_bar, silent, terminal
from codir.record.card import run_card
from codir.record.fingerprint import Part, begin, config_part, model_part, opened, require_same
from codir.record.runfolder import RunFolder
from codir.runs.arguments import to_pretraining_arguments
from codir.runs.students import PretrainingModels, pretraining_models
from codir.runs.train import Cost, train_and_publish, trained_before
from codir.teacher.frozen import FrozenTeacher
from codir.training.callbacks import LogFile
from codir.training.collators import MaskedBlockCollator
from codir.training.masking import TokenMasking
from codir.training.processes import barrier, is_main, launched
from codir.training.samplers import NeighbourSampler, neighbours_warning
from codir.training.trainer import DistillationTrainer

CORPUS_FILE = "corpus.json"  # in the run folder: which corpus, and how often the student has been over it


@dataclass
class PretrainResult:
    """What a pre-training gave."""

    output: Path  # the run folder; `AutoModelForMaskedLM.from_pretrained(output)` is the student
    table: MaskedTable  # held-out scores of the teacher and of the student before and after
    cost: Cost  # what the training took


def pretrain(
    config: PretrainConfig | None = None, *, console: Console | None = None, **settings: Any
) -> PretrainResult:
    """Pre-trains a student on a corpus, with or without a teacher, in as many processes as torchrun started.

    Args:
        config: The whole configuration; or give its sections as keywords, on top of a recipe:
            `pretrain(recipe="codir-pre", corpus="corpora/wiki", teacher="roberta-base", output="runs/codir-pre")`.
        console: Where to print; the terminal by default.
        settings: `recipe`, `corpus`, `teacher`, `student`, `objectives`, `masking`, `training`, `output`, `resume`.

    Returns:
        The result, also written to the run folder.

    Raises:
        CodirError: bad input, a run in the way, an interrupted or diverged training.
    """
    if config is None:
        recipe = settings.pop("recipe", None)
        config = load(PretrainConfig, recipe=recipe, flags={key: (key, value) for key, value in settings.items()})
    if launched() > 1:
        # What the Trainer does later; here so that the processes can agree before anything is loaded.
        PartialState(cpu=not torch.cuda.is_available())
    console = terminal(console) if is_main() else silent()
    with opened(config, lambda: _begun_with(config, open_corpus(config.corpus)), console) as run:
        if run.finished:
            result = run.results(lambda content: _read(run, content))
        else:
            _pretrain(config, run, console)
            barrier()
            result = _read(run, read_json(run.metrics))
    console.print(result.table.to_rich())
    console.print(
        f"The student is in {result.output}; "
        f"`codir finetune --model {shlex.quote(str(result.output))} --task TASK --output DIR` "
        "fine-tunes it.",
        highlight=False,
    )
    return result


def _read(run: RunFolder, content: Any) -> PretrainResult:
    return PretrainResult(run.path, MaskedTable.from_json(content["scores"]), Cost(**content["cost"]))


def _begun_with(config: PretrainConfig, corpus: Corpus) -> dict[str, Part]:
    """Describes what the run reads: the corpus, and the models that it starts from."""
    parts: dict[str, Part] = {"corpus": {"from": str(corpus.path), "content": corpus.key}}
    named = {"teacher": config.teacher, "student's model": config.student.model}
    parts |= {name: model_part(each) for name, each in named.items() if each is not None}
    if isinstance(config.student.config, Path):
        parts["student's config"] = config_part(config.student.config)
    return parts


def _pretrain(config: PretrainConfig, run: RunFolder, console: Console) -> None:
    corpus, training = open_corpus(config.corpus), config.training
    blocks, batch = len(corpus.train), training.global_batch_size
    steps = training.steps_for(blocks)
    args = to_pretraining_arguments(training, run.checkpoints, processes(), len(corpus.validation) > 0, steps)
    require_same(run, _begun_with(config, corpus))
    models = pretraining_models(config, corpus)
    student, tokenizer, lines = models.student
    if blocks < batch:
        raise DataError(
            f"{corpus.path} has {blocks:,} blocks to train on, fewer than one batch of {batch:,}: add text, or set "
            f"--batch-size to at most {blocks:,}."
        )
    passes, first_epoch = steps / (blocks // batch), _epochs_before(config, corpus)
    masking = config.masking
    collator = MaskedBlockCollator(
        tokenizer,
        TokenMasking(tokenizer, masking.probability, masking.masked, masking.random, seed=training.seed),
        max_length=position_limit(student.config),
        pad_to_multiple_of=8 if args.device.type == "cuda" else None,
        first_epoch=first_epoch,
    )
    cost, trainer = trained_before(run, training, console, config.recipe), None
    if cost is None:
        autocast = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        trainer = DistillationTrainer(
            student,
            config.objectives,
            args,
            train_dataset=_numbered(corpus.train),
            eval_dataset=_numbered(corpus.validation) if len(corpus.validation) else None,
            processing_class=tokenizer,
            teacher=FrozenTeacher(models.teacher, autocast=autocast) if models.teacher is not None else None,
            compute_metrics=_metrics,
            callbacks=[LogFile(run.log)],
            data_collator=collator,
            train_sampler=NeighbourSampler(
                np.asarray(corpus.train["document"]),
                training.neighbours,
                training.seed,
                batch_size=batch,
                first_epoch=first_epoch,
            ),
            kind=MASKED_LM,
            label=config.recipe,
        )
    barrier()
    about = {"path": str(corpus.path), "key": corpus.key, "blocks": blocks}
    if is_main():
        begin(run, config, _begun_with(config, corpus))
        epochs = first_epoch + math.ceil(passes)
        write_json(run.path / CORPUS_FILE, about | {"epochs": epochs})
    after = f", after {first_epoch} of the student's earlier training" if first_epoch else ""
    lines += [
        ("corpus", f"{corpus.path} ({blocks:,} blocks of up to {corpus.block} tokens)"),
        ("steps", f"{steps:,} of {batch:,} blocks: {passes:.1f} passes{after}"),
    ]
    console.print(pairs("Before training", lines))
    if warning := neighbours_warning(batch, training.neighbours):
        console.print(warning, highlight=False)
    if trainer is not None:
        label = f"pre-training ({config.recipe})"
        cost = train_and_publish(run, trainer, training, tokenizer, console, label)
    if not is_main():
        return
    assert cost is not None
    start = pretraining_models(config, corpus).student.model
    compared = {"teacher": models.teacher, "student before": start, "student": load_masked_lm(run.path)}
    table = _scores(config, corpus, models, compared, collator, args.device, args.per_device_eval_batch_size)
    content = {
        "recipe": config.recipe,
        "corpus": about | {"block": corpus.block},
        "teacher": config.teacher,
        "seed": training.seed,
        "scores": table.to_json(),
        "cost": asdict(cost),
        "tokens_per_step": batch * corpus.block,
    }
    write_json(run.metrics, content)
    write_text(run.path / "table.md", table.to_markdown())
    write_text(run.card, run_card(run.path))


def _epochs_before(config: PretrainConfig, corpus: Corpus) -> int:
    """How often the student has been over this corpus: with one seed a second stage would see the same masks again."""
    path = Path(config.student.model or "") / CORPUS_FILE
    if config.student.model is None or not path.is_file():
        return 0
    before = read_json(path)
    return int(before["epochs"]) if before["key"] == corpus.key else 0


def _numbered(blocks: Dataset) -> Dataset:
    return blocks.add_column("example_id", np.arange(len(blocks)))  # type: ignore[call-arg]


def _metrics(prediction: EvalPrediction) -> dict[str, float]:
    return block_metrics(np.asarray(prediction.predictions))


def _scores(
    config: PretrainConfig,
    corpus: Corpus,
    models: PretrainingModels,
    compared: dict[str, PreTrainedModel | None],
    collator: MaskedBlockCollator,
    device: torch.device,
    batch: int,
) -> MaskedTable:
    """Scores the teacher, the student before and the student after on the same masked tokens, in fp32."""
    held_out = _numbered(corpus.validation)
    table = MaskedTable([], 0, len(held_out), predicts(config.objectives))
    of_teacher = None
    for name, model in compared.items():
        if model is None:
            continue
        row = described(name, model)
        table.rows.append(row)
        if not len(held_out) or (name == "teacher" and not models.teacher_predicts):
            continue
        cast(torch.nn.Module, model).to(device)
        with progress_bar(f"{name} on the held-out blocks", len(held_out)) as move:
            found = predict_masked(model, held_out, collator, batch, progress=move)
        table.positions = len(found.expected)
        of_teacher = found if name == "teacher" else of_teacher
        found.fill(row, of_teacher)
    return table
