"""The Trainer: one student, a frozen teacher or its cache, and a weighted sum of losses."""

from __future__ import annotations

import functools
import logging
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, cast

import torch
from accelerate.data_loader import SeedableRandomSampler, prepare_data_loader
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from transformers.trainer_utils import EvalPrediction, TrainOutput, seed_worker

from codir.gather import processes
from codir.kinds import kind_named
from codir.kinds.base import Kind
from codir.losses.registry import build_objectives
from codir.models.check import behaviour, settle_side
from codir.models.classes import require_one_answer
from codir.models.config_file import settle_switches
from codir.printing import progress_bar
from codir.teacher.frozen import FrozenTeacher
from codir.training.arguments import DistillationArguments
from codir.training.callbacks import ProgressLine
from codir.training.collators import DistillationCollator, teacher_of
from codir.training.model import DistillationModel
from codir.training.processes import Part, ProcessBatches, plan_step, rank, total
from codir.training.resumable import ResumableTrainer
from codir.training.samplers import LengthGroupedSampler
from codir.training.setup import Objectives, match_by_name, require_objects, set_up

logger = logging.getLogger(__name__)


class DistillationTrainer(ResumableTrainer):
    """Trains a student with any mix of losses; without a teacher it is plain fine-tuning.

    Everything of transformers' Trainer works. On top: every loss term, the contrastive accuracy and the agreement with
    the teacher are logged; checkpoints are whole or ignored, hold the bank and resume bit for bit; a loss that stops
    being finite ends the run with the term's name; Ctrl-C and SIGTERM save a checkpoint first.

    Args:
        student: the model to train; after training it is the result (with `load_best_model_at_end`, the best one).
        objectives: settings by the name of the loss, for example `{"task": {}, "kd": {"weight": 0.7}}`.
        args: see `DistillationArguments`.
        train_dataset: encoded examples (`codir.data.encoding.encode`). One without a label has -100, or NaN as a score:
            the loss `task` leaves it out, and where negatives are chosen by class it has the teacher's. Where the
            labels know their names (a ClassLabel), student and teacher are matched with them by name; else they are the
            student's class ids.
        processing_class: the student's tokenizer.
        eval_dataset: the same for evaluation, or several by name.
        teacher: a fine-tuned model or `FrozenTeacher`, or None. It is computed into the cache first, or run live if
            `args.cache_teacher` is off or single tokens' vectors take more than `args.cache_tokens_gb`.
        teacher_tokenizer: the teacher's, where it differs from the student's.
        compute_metrics: as in transformers' Trainer, as `callbacks`.
        callbacks: see above.
        data_collator: makes the batches instead of `DistillationCollator`; see `MaskedBlockCollator` for `set_epoch`
            and `evaluation`, which are called if it has them.
        train_sampler: the order of the examples instead of `args.train_sampling_strategy`. It must be a function of the
            epoch alone, which `set_epoch` is told, or a resume is not exact.
        kind: `masked-lm` for blocks of a corpus, whose collator makes the labels; by default what the labels say.
        label: what the progress line calls this training.
        report: is told what the teacher's cache takes, and what was damaged there.

    Raises:
        ConfigError: losses that do not fit with the data or the models, before anything is computed.
    """

    # Stock models accept **kwargs, from which the Trainer concludes that they scale their loss for accumulation.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        student: PreTrainedModel,
        objectives: Objectives,
        args: DistillationArguments,
        train_dataset: Dataset,
        processing_class: PreTrainedTokenizerBase,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        teacher: PreTrainedModel | FrozenTeacher | None = None,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        data_collator: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
        train_sampler: Sampler[int] | None = None,
        kind: Kind | str | None = None,
        label: str = "training",
        report: Callable[[str], None] = logger.info,
    ):
        require_objects(student, teacher, train_dataset, data_collator)
        settle_switches(student.config)
        if isinstance(teacher, PreTrainedModel):
            teacher = FrozenTeacher(teacher)
        kind = kind_named(kind) if isinstance(kind, str) else kind
        if kind is None or not kind.per_token:
            require_one_answer(student.config, "the student")
            if teacher is not None:
                require_one_answer(teacher.model.config, "the teacher")
            teacher, train_dataset, eval_dataset = match_by_name(student, teacher, train_dataset, eval_dataset)
        if behaviour(student, processing_class.pad_token_id).side == "left":
            settle_side(processing_class, "left")

        # Everything is checked before the teacher computes anything.
        setup = set_up(objectives, student, teacher, train_dataset, args.cache, args, kind)
        self._views, self._source = setup.views, setup.source
        teachers = teacher_tokenizer or processing_class
        with args.main_process_first(desc="teacher's cache"):
            self._source.open(train_dataset, teachers, args.device, report, functools.partial(progress_bar, "teacher"))
        built = build_objectives(objectives, setup.with_teacher(train_dataset, teachers))
        self.objective_notes = [line for objective in built.values() for line in objective.describe()]
        if self._source.why_live:
            self.objective_notes.insert(0, f"teacher: {self._source.why_live}")
        self.distillation = DistillationModel(student, built, setup.poolings, setup.views.student)

        self._sums: dict[str, Tensor | float] = defaultdict(float)
        self._counts: dict[str, float] = defaultdict(float)  # optimiser steps that went into the sums
        self._parts: deque[Part] = deque()  # what the next batches are in their optimiser step
        self._given_sampler = train_sampler
        self._sampler: Sampler | None = None
        super().__init__(
            model=self.distillation,
            args=args,
            data_collator=data_collator
            or DistillationCollator(
                processing_class, teacher_tokenizer, self._source.outputs, self._source.live is not None
            ),
            train_dataset=train_dataset,
            eval_dataset=cast(Any, eval_dataset),
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
        )
        self.model_accepts_loss_kwargs = False
        self.add_callback(_AfterStep(self))
        self._progress = ProgressLine(label)
        if args.disable_tqdm:
            self.remove_callback(PrinterCallback)
            self.add_callback(self._progress)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As `ResumableTrainer.train`; the progress line ends however the training does."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self._progress.stop()

    # ---- the step ----------------------------------------------------------------------------------------------

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Tensor | int | None]:
        """As transformers' Trainer; also finds out what all processes will accumulate in this step."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        self._parts = deque(plan_step(batches))
        return batches, items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Computes the weighted sum of one batch; in training the terms are checked and added to the log."""
        teacher = teacher_of(inputs)
        if teacher is None and self._source.live is not None and model.training:
            teacher = self._source.live.represent(
                inputs.get("teacher_inputs", inputs["inputs"]),
                self.distillation.poolings,
                self.distillation.chosen_positions(inputs["inputs"], inputs.get("labels"), self._done()),
                tokens=self._views.teacher,
            )
        given = {"inputs": inputs["inputs"], "labels": inputs.get("labels"), "progress": self._done()}
        # Which part of its optimiser step the batch is; outside of `train` it is all there is.
        part = self._parts.popleft() if model.training and self._parts else None
        if part is not None:
            given |= {"batch_ids": part.batch_ids, "positions": part.positions, "labelled": part.labelled}
        outputs = model(**given, example_id=inputs.get("example_id"), teacher=teacher)
        loss = outputs["loss"]
        if part is not None and part.weight != 1.0:
            loss = loss * part.weight
        if model.training:
            self._watch(outputs, part)
        return (loss, outputs) if return_outputs else loss

    def _done(self) -> float:
        """Returns the share of the optimiser steps that are done."""
        return self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As transformers' Trainer; what is frozen at this moment of a progressive transfer loses its gradient."""
        loss = super().training_step(*args, **kwargs)
        for parameter in self.distillation.frozen_parameters(self._done()):
            parameter.grad = None  # and not zero: Adam would still decay the weight and move by its momentum
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        # With a gradient scaler an infinite norm is expected now and then, and that step is skipped.
        scaled = getattr(self.accelerator, "scaler", None) is not None
        if norm is not None and not scaled and not torch.isfinite(torch.as_tensor(norm)):
            self._bad_norm = f"the gradient's norm is {float(norm)}"
        return norm

    # ---- the log -----------------------------------------------------------------------------------------------

    def _watch(self, outputs: dict[str, Any], part: Part | None) -> None:
        for name, term in outputs["terms"].items():
            if term.empty:
                continue
            metrics = {f"{name}_{metric}": value for metric, value in term.metrics.items()}
            for key, value in {f"loss_{name}": term.loss, **metrics}.items():
                self._sums[key] = self._sums[key] + value.detach().float() * (part.share if part else 1.0)
                self._counts[key] += 1 / part.accumulated if part else 1.0
        if not torch.isfinite(outputs["loss"]) and not self._bad:
            bad = [name for name, term in outputs["terms"].items() if not torch.isfinite(term.loss)]
            self._bad = f"the loss term {' and '.join(map(repr, bad)) or 'sum'} is {outputs['loss'].item()}"

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of every term and metric since the last log to the Trainer's own entry."""
        if "loss" in logs:
            if self._sums:
                sums = total(torch.stack([torch.as_tensor(value).float() for value in self._sums.values()]))
                for name, value in zip(self._sums, sums.tolist(), strict=True):
                    logs[name] = value / self._counts[name]
            self._sums.clear()
            self._counts.clear()
        if self._resumed:
            # transformers divides the loss since the resume by all steps: a number that means nothing
            logs.pop("train_loss", None)
        super().log(logs, start_time)

    # ---- the order of the examples -----------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        if self._given_sampler is not None:
            self._sampler = self._given_sampler
        elif self.args.train_sampling_strategy == "group_by_length" and isinstance(dataset, Dataset):
            lengths = [len(ids) for ids in dataset["input_ids"]]
            # By whole optimiser steps: the order may not depend on the number of processes.
            self._sampler = LengthGroupedSampler(lengths, self.get_total_train_batch_size(self.args), seed)
        elif processes() > 1 and self.args.train_sampling_strategy == "random":
            self._sampler = SeedableRandomSampler(dataset, data_seed=seed)  # what accelerate makes in one process
        else:
            self._sampler = super()._get_train_sampler(train_dataset)
        return self._sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        # In order: predictions are compared row by row with the teacher's.
        return SequentialSampler(eval_dataset)

    def get_train_dataloader(self) -> DataLoader:
        """As transformers' Trainer; in several processes each gets its part of the global batch."""
        if processes() == 1:
            return super().get_train_dataloader()
        dataset: Any = self.train_dataset
        args, order = self.args, cast(Any, self._get_train_sampler(self.train_dataset))
        loader = DataLoader(
            dataset,
            batch_sampler=ProcessBatches(order, self._train_batch_size, processes(), rank(), args.dataloader_drop_last),
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            prefetch_factor=args.dataloader_prefetch_factor,
            in_order=args.dataloader_in_order,
            worker_init_fn=functools.partial(seed_worker, num_workers=args.dataloader_num_workers, rank=rank()),
        )
        # accelerate would shard it once more, and fill up the last batches with examples of the first.
        settings = {"put_on_device": True, "non_blocking": cast(Any, args.accelerator_config).non_blocking}
        return prepare_data_loader(loader, self.accelerator.device, num_processes=1, process_index=0, **settings)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # A training that was stopped after its last step has none left; transformers would make one more.
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        # Explicitly, since what transformers and accelerate do by themselves misses collators, and samplers that are
        # wrapped twice: by skipped batches and by the share of a process.
        for part in (self._sampler, self.data_collator):
            if hasattr(part, "set_epoch"):
                cast(Any, part).set_epoch(kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)

    # ---- evaluation --------------------------------------------------------------------------------------------

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        collator = self.data_collator
        if not kwargs.get("is_training", False):
            if hasattr(collator, "evaluation"):
                self.data_collator = cast(Any, collator).evaluation()
            if not behaviour(self.student).padded:
                kwargs["batch_size"] = 1  # the answers of this one change with padding
        try:
            return super()._get_dataloader(*args, **kwargs)
        finally:
            self.data_collator = collator

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As transformers' Trainer; leaves the random state as it was, whether it runs before or after a checkpoint."""
        # Merely starting a data loader draws from torch's generator, and a resumed run does not evaluate again.
        with torch.random.fork_rng():
            return super().evaluate(*args, **kwargs)


class _AfterStep(TrainerCallback):
    """Lets the losses write their banks once the optimiser has stepped, before any checkpoint of that step."""

    def __init__(self, trainer: DistillationTrainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._agree_on_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.distillation.after_step(not self.trainer.accelerator.optimizer_step_was_skipped)
