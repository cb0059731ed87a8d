"""The Trainer's side that makes a run stoppable and resumable: signals, whole checkpoints, exact resumption."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput, rotate_checkpoints

from codir.errors import InterruptedRunError, RunError, TrainingDivergedError
from codir.functional.gather import from_first
from codir.storage import human_bytes, read_json
from codir.training import checkpoints
from codir.training.model import DistillationModel
from codir.training.signals import StopRequest

logger = logging.getLogger(__name__)

OBJECTIVES_FILE = "objectives.safetensors"
EXTRA_STATE_FILE = "objectives_state.safetensors"


class ResumableTrainer(Trainer):
    """transformers' Trainer for a `DistillationModel`, with checkpoints that are whole or ignored.

    A checkpoint holds the student as a plain transformers model, the objectives' parameters, their banks and
    generators, the optimiser, the schedule and the random state; a resume from it is exact, bit for bit. Ctrl-C and
    SIGTERM save one before the run stops.
    """

    distillation: DistillationModel  # set before `Trainer.__init__`
    _resumed: bool = False
    _stop: StopRequest = StopRequest()

    @property
    def student(self) -> PreTrainedModel:
        """The trained student, a plain transformers model."""
        return self.distillation.student

    @property
    def _run_dir(self) -> str:
        return str(self.args.output_dir)

    # ---- starting, stopping, resuming --------------------------------------------------------------------------

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
        resume = self._checkpoint_of(resume_from_checkpoint)
        self._resumed = resume is not None
        step = int(read_json(Path(resume) / TRAINER_STATE_NAME)["global_step"]) if resume else 0
        for _, objective in self.distillation.objective_items():
            objective.rewind(step)
        if resume is None:
            self._start_anew()
        self._stop = StopRequest()
        with self._stop.listening():
            output = super().train(resume, trial, ignore_keys_for_eval)
            if self._stop.asked:
                raise InterruptedRunError(
                    f"Stopped by {self._stop.name} at the end of the training. The same command with --resume goes "
                    "on from the last checkpoint."
                )
            return output

    def _checkpoint_of(self, asked: str | bool | None) -> str | None:
        if asked is True:
            found = checkpoints.last_whole(self._run_dir, logger.warning)
            return str(found) if found else None
        if not asked:
            return None
        reason = checkpoints.damage(asked)
        if reason:
            raise RunError(f"The checkpoint {asked} cannot be used: {reason}. Resume from an older one.")
        return str(asked)

    def _start_anew(self) -> None:
        """Called before a training that does not go on from a checkpoint."""

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # A signal that comes while this runs is for the next step: this one may not save.
        stopping = self._stop.asked
        if stopping:
            self.control.should_save = True
            self.control.should_evaluate = False
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if stopping:
            raise InterruptedRunError(
                f"Stopped by {self._stop.name} after step {self.state.global_step}; a checkpoint was saved in "
                f"{self._run_dir}. The same command with --resume goes on from there."
            )

    def _diverged(self, what: str) -> None:
        for _, objective in self.distillation.objective_items():
            objective.discard_step()
        good = checkpoints.checkpoints(self._run_dir)
        kept = f"The last good checkpoint is {good[0]}." if good else "No checkpoint had been written yet."
        raise TrainingDivergedError(
            f"Training diverged at step {self.state.global_step + 1}: {what}. {kept} "
            "Try a lower learning rate, a longer warm-up, or precision fp32."
        )

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._write_checkpoint(model, trial)
        step = self.state.global_step
        kept = [checkpoints.step_of(path) for path in checkpoints.checkpoints(self._run_dir)]
        # The first process decides, which has just sealed this one and rotated old ones away; the others wait for it.
        oldest = int(from_first(torch.tensor([min([step, *kept])], device=self.args.device)))
        for _, objective in self.distillation.objective_items():
            objective.checkpoint_saved(step, [oldest, *(other for other in kept if other > oldest)])

    def _write_checkpoint(self, model: nn.Module, trial: Any) -> None:
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
