"""The Trainer: one student, a frozen teacher or its cache, and a weighted sum of objectives."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from datasets import Dataset
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_utils import EvalPrediction, TrainOutput, rotate_checkpoints

from codir.errors import ConfigError, InterruptedRunError, RunError, TrainingDivergedError
from codir.models.inference import forward_dataset
from codir.models.loading import encoder_shape
from codir.models.representations import EncoderShape
from codir.objectives.base import ObjectiveContext
from codir.objectives.registry import build_objectives, needs_of, prefill_needs_of
from codir.storage import human_bytes
from codir.teacher.cache import TeacherOutputs, open_cache
from codir.teacher.frozen import FrozenTeacher
from codir.training import checkpoints
from codir.training.arguments import DistillationArguments
from codir.training.callbacks import ProgressLine
from codir.training.collator import DistillationCollator, teacher_of
from codir.training.model import DistillationModel
from codir.training.samplers import LengthGroupedSampler

logger = logging.getLogger(__name__)

OBJECTIVES_FILE = "objectives.safetensors"
EXTRA_STATE_FILE = "objectives_state.safetensors"


class DistillationTrainer(Trainer):
    """Trains a student with any mix of objectives; without a teacher it is plain fine-tuning.

    Everything of transformers' Trainer works (mixed precision, accumulation, loggers, schedulers, early stopping).
    On top: every loss term, the contrastive accuracy and the agreement with the teacher are logged; checkpoints are
    whole or ignored, hold the bank and resume bit for bit; a loss that stops being finite ends the run with the term's
    name; Ctrl-C and SIGTERM save a checkpoint first.

    Args:
        student: the model to train, any Hugging Face sequence classifier; after training it is the result (with
            `load_best_model_at_end`, the best one).
        objectives: settings by objective name, for example `{"task": {}, "kd": {"weight": 0.7}}`.
        args: see `DistillationArguments`.
        train_dataset: encoded examples with the columns `input_ids`, `attention_mask`, `labels`, `example_id`
            (see `codir.tasks.encoding.encode`).
        eval_dataset: the same for evaluation, or several by name.
        processing_class: the student's tokenizer.
        teacher: a fine-tuned model or `FrozenTeacher` (computed into the cache first, or run live if
            `args.cache_teacher` is off), or the `TeacherOutputs` of the training examples, or None.
        teacher_tokenizer: where it differs from the student's.
        teacher_shape: depth and width, needed only with `TeacherOutputs` that do not know them.
        compute_metrics: as in transformers' Trainer.
        callbacks: as in transformers' Trainer.
        label: what the progress line calls this training.

    Raises:
        ConfigError: objectives that do not fit with the data or the models, before anything is computed.
    """

    # Stock models accept **kwargs, from which the Trainer concludes that they scale their loss for accumulation.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        student: PreTrainedModel,
        objectives: Mapping[str, Mapping[str, Any]],
        args: DistillationArguments,
        train_dataset: Dataset,
        processing_class: PreTrainedTokenizerBase,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        teacher: PreTrainedModel | FrozenTeacher | TeacherOutputs | None = None,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        label: str = "training",
    ):
        if len(train_dataset) == 0:
            raise ConfigError("train_dataset is empty: there is nothing to train on.")
        needs = needs_of(objectives)
        if isinstance(teacher, PreTrainedModel):
            teacher = FrozenTeacher(teacher)
        if teacher is None and (needs.teacher_logits or needs.pooled):
            raise ConfigError(
                f"The objectives {', '.join(objectives)} need a teacher and none was given; "
                "plain fine-tuning is objectives={'task': {}}."
            )
        self._live_teacher: FrozenTeacher | None = None
        outputs: TeacherOutputs | None = None
        shape: EncoderShape | None = teacher.shape if teacher is not None else None
        if isinstance(teacher, FrozenTeacher):
            teacher.to(args.device)
            if args.cache_teacher:
                outputs = open_cache(
                    teacher,
                    train_dataset,
                    tokenizer=teacher_tokenizer or processing_class,
                    poolings=needs.pooled,
                    folder=args.cache_folder,
                )
            else:
                self._live_teacher = teacher
        else:
            outputs = teacher

        context = self._context(student, shape, outputs, train_dataset, args)
        built = build_objectives(objectives, context)
        self.objective_notes = [line for objective in built.values() for line in objective.describe()]
        self.distillation = DistillationModel(student, built, needs.pooled)
        self._prefill = prefill_needs_of(objectives)
        self._sums: dict[str, Tensor | float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._stop_signal: str | None = None
        self._resumed = False
        super().__init__(
            model=self.distillation,
            args=args,
            data_collator=DistillationCollator(
                processing_class, teacher_tokenizer, outputs, live_teacher=self._live_teacher is not None
            ),
            train_dataset=train_dataset,
            eval_dataset=cast(Any, eval_dataset),
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
        )
        self.model_accepts_loss_kwargs = False
        self.add_callback(_AfterStep(self))
        if args.disable_tqdm:
            self.remove_callback(PrinterCallback)
            self._progress = ProgressLine(label)
            self.add_callback(self._progress)

    @property
    def student(self) -> PreTrainedModel:
        """The trained student, a plain transformers model."""
        return self.distillation.student

    @staticmethod
    def _context(
        student: PreTrainedModel,
        teacher: EncoderShape | None,
        outputs: TeacherOutputs | None,
        examples: Dataset,
        args: DistillationArguments,
    ) -> ObjectiveContext:
        labels = torch.tensor(examples["labels"][:]) if "labels" in examples.column_names else None
        regression = labels is not None and labels.is_floating_point()
        return ObjectiveContext(
            student=encoder_shape(student),
            teacher=teacher,
            examples=len(examples),
            labels=labels,
            kind="regression" if regression else "classification",
            num_classes=1 if regression else int(student.config.num_labels or 1),
            seed=args.seed,
            device=args.device,
            teacher_space=outputs.space if outputs is not None else None,
        )

    # ---- the step ----------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Computes the weighted sum of one batch; in training the terms are checked and added to the log."""
        teacher = teacher_of(inputs)
        if teacher is None and self._live_teacher is not None and model.training:
            teacher = self._live_teacher.represent(inputs["teacher_inputs"], self.distillation.poolings)
        outputs = model(
            inputs=inputs["inputs"],
            labels=inputs.get("labels"),
            example_id=inputs.get("example_id"),
            teacher=teacher,
        )
        if model.training:
            self._watch(outputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def _watch(self, outputs: dict[str, Any]) -> None:
        for name, term in outputs["terms"].items():
            self._add(f"loss_{name}", term.loss.detach())
            for metric, value in term.metrics.items():
                self._add(f"{name}_{metric}", value.detach())
        if not torch.isfinite(outputs["loss"]):
            bad = [name for name, term in outputs["terms"].items() if not torch.isfinite(term.loss)]
            self._diverged(
                f"the loss term {' and '.join(map(repr, bad)) or 'sum'} is {outputs['loss'].item()}"
            )

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums[name] + value.float()
        self._counts[name] += 1

    def _diverged(self, what: str) -> None:
        for _, objective in self.distillation.objective_items():
            objective.discard_step()
        good = checkpoints.checkpoints(self._run_dir)
        kept = f"The last good checkpoint is {good[0]}." if good else "No checkpoint had been written yet."
        raise TrainingDivergedError(
            f"Training diverged at step {self.state.global_step + 1}: {what}. {kept} "
            "Try a lower learning rate, a longer warm-up, or precision fp32."
        )

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        # With a gradient scaler an infinite norm is expected now and then, and that step is skipped.
        scaled = getattr(self.accelerator, "scaler", None) is not None
        if norm is not None and not scaled and not torch.isfinite(torch.as_tensor(norm)):
            self._diverged(f"the gradient's norm is {float(norm)}")
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of every term and metric since the last log to the Trainer's own entry."""
        if "loss" in logs:
            for name, total in self._sums.items():
                logs[name] = float(total) / self._counts[name]
            self._sums.clear()
            self._counts.clear()
        if self._resumed:
            # transformers divides the loss since the resume by all steps: a number that means nothing
            logs.pop("train_loss", None)
        super().log(logs, start_time)

    # ---- order of the examples ---------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or not isinstance(dataset, Dataset):
            return super()._get_train_sampler(train_dataset)
        lengths = [len(ids) for ids in dataset["input_ids"]]
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        self._grouped = LengthGroupedSampler(lengths, self.args.train_batch_size, seed)
        return self._grouped

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        # In order: predictions are compared row by row with the teacher's.
        return SequentialSampler(eval_dataset)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As transformers' Trainer; leaves the random state as it was, whether it runs before or after a checkpoint."""
        # Merely starting a data loader draws from torch's generator, and a resumed run does not evaluate again.
        with torch.random.fork_rng():
            return super().evaluate(*args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.control.should_training_stop:
            return
        if getattr(self, "_grouped", None) is not None:
            self._grouped.set_epoch(kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)

    # ---- starting, stopping, resuming --------------------------------------------------------------------------

    @property
    def _run_dir(self) -> str:
        return str(self.args.output_dir)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Trains; `resume_from_checkpoint=True` goes on from the newest whole checkpoint, or starts if there is none.

        Raises:
            TrainingDivergedError: a loss term, the gradient or a parameter is no longer finite.
            InterruptedRunError: Ctrl-C or SIGTERM came; a checkpoint of the last whole step was written.
            RunError: the checkpoint named is damaged.
        """
        resume: str | None = None
        if resume_from_checkpoint is True:
            found = checkpoints.last_whole(self._run_dir, logger.warning)
            resume = str(found) if found else None
        elif resume_from_checkpoint:
            resume = str(resume_from_checkpoint)
            reason = checkpoints.damage(resume)
            if reason:
                raise RunError(f"The checkpoint {resume} cannot be used: {reason}. Resume from an older one.")
        self._resumed = resume is not None
        if resume is None and self._prefill:
            self._prefill_objectives()
        with self._signals():
            try:
                output = super().train(resume, trial, ignore_keys_for_eval)
            finally:
                if self.args.disable_tqdm:
                    self._progress.stop()
            if self._stop_signal is not None:
                raise InterruptedRunError(
                    f"Stopped by {self._stop_signal} at the end of the training. The same command with --resume goes "
                    "on from the last checkpoint."
                )
            return output

    def _prefill_objectives(self) -> None:
        """Runs the student once over the training examples for the objectives that start from its representations."""
        self.distillation.to(self.args.device)
        assert isinstance(self.train_dataset, Dataset)
        assert isinstance(self.processing_class, PreTrainedTokenizerBase)
        batches = forward_dataset(
            self.student,
            self.train_dataset,
            self.processing_class,
            poolings=self._prefill,
            batch_size=self.args.per_device_eval_batch_size,
            device=self.args.device,
        )
        for ids, student in batches:
            for _, objective in self.distillation.objective_items():
                objective.prefill(torch.as_tensor(ids), student)

    @contextlib.contextmanager
    def _signals(self) -> Any:
        """Turns the first Ctrl-C or SIGTERM into "save after this step and stop"; a second one stops at once."""

        def ask_to_stop(number: int, frame: Any) -> None:
            if self._stop_signal is not None:
                raise KeyboardInterrupt
            self._stop_signal = signal.Signals(number).name

        self._stop_signal = None
        before: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, ask_to_stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # A signal that comes while this runs is for the next step: this one may not save.
        stopping = self._stop_signal is not None
        if stopping:
            self.control.should_save = True
            self.control.should_evaluate = False
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if stopping:
            raise InterruptedRunError(
                f"Stopped by {self._stop_signal} after step {self.state.global_step}; a checkpoint was saved in "
                f"{self._run_dir}. The same command with --resume goes on from there."
            )

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        bad = self.distillation.nonfinite_parameter()
        if bad is not None:
            self._diverged(f"the parameter {bad} holds a number that is not finite")
        folder = Path(self._run_dir) / f"checkpoint-{self.state.global_step}"
        if folder.exists():
            if checkpoints.damage(folder) is None:
                return  # the same step was saved a moment ago (end of an epoch and a signal, say)
            shutil.rmtree(folder)
        # Older checkpoints may only go once this one is whole, so rotation waits for the manifest.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
            checkpoints.seal(folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            # What PyTorch's writer says of a full disk is a RuntimeError about its own positions.
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise
            raise self._not_written(folder, error) from error
        finally:
            self.args.save_total_limit = limit
        rotate_checkpoints(
            output_dir=self._run_dir,
            save_total_limit=limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
            use_mtime=False,
        )

    def _not_written(self, folder: Path, error: Exception) -> RunError:
        shutil.rmtree(folder, ignore_errors=True)
        left = checkpoints.checkpoints(self._run_dir)
        kept = f"{left[0].name} is whole" if left else "there is none before it"
        free = human_bytes(shutil.disk_usage(self._run_dir).free)
        reason = "the disk is full" if isinstance(error, RuntimeError) else str(error)
        return RunError(
            f"The checkpoint {folder} could not be written: {reason} (free on this disk: {free}; {kept}). Free some "
            "space, then the same command with --resume goes on."
        )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self._run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.student.save_pretrained(folder)
        if isinstance(self.processing_class, PreTrainedTokenizerBase):
            self.processing_class.save_pretrained(folder)
        trained = {
            key: value.contiguous() for key, value in self.distillation.objectives.state_dict().items()
        }
        safetensors.torch.save_file(trained, folder / OBJECTIVES_FILE)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        state = {key: value.cpu() for key, value in self.distillation.extra_state_tensors().items()}
        safetensors.torch.save_file(state, Path(output_dir) / EXTRA_STATE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._load_weights(Path(resume_from_checkpoint))

    def _load_weights(self, folder: Path) -> None:
        saved = type(self.student).from_pretrained(folder, dtype=self.student.dtype)
        self.student.load_state_dict(saved.state_dict())
        self.distillation.objectives.load_state_dict(safetensors.torch.load_file(folder / OBJECTIVES_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            state = safetensors.torch.load_file(Path(checkpoint) / EXTRA_STATE_FILE)
            self.distillation.load_extra_state_tensors(state)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        trained = super()._init_training_state(*args, **kwargs)
        if self.state.best_global_step:
            # The run folder may have been moved since: trust the step, not the path.
            best = Path(self._run_dir) / f"checkpoint-{self.state.best_global_step}"
            self.state.best_model_checkpoint = str(best) if best.is_dir() else None
        return trained

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        reason = checkpoints.damage(best)
        if reason is not None:
            logger.warning(
                "The best checkpoint %s is damaged (%s); keeping the last weights instead.", best, reason
            )
            return
        self._load_weights(best)


class _AfterStep(TrainerCallback):
    """Lets the objectives write their banks once the optimiser has stepped, before any checkpoint of that step."""

    def __init__(self, trainer: DistillationTrainer):
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        skipped = self.trainer.accelerator.optimizer_step_was_skipped
        for _, objective in self.trainer.distillation.objective_items():
            if skipped:
                objective.discard_step()
            else:
                objective.after_step()
