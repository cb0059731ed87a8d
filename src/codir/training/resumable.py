"""The Trainer's side that makes a run stoppable and resumable: signals, whole checkpoints, exact resumption."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import TrainOutput, rotate_checkpoints

from codir.errors import InterruptedRunError, ProcessEndedError, RunError, TrainingDivergedError
from codir.files import human_bytes, read_json, write_json
from codir.gather import processes
from codir.training import checkpoints
from codir.training.model import DistillationModel
from codir.training.processes import (
    agree,
    all_say,
    barrier,
    ended_message,
    first_says,
    is_main,
    other_process_ended,
    rank,
)

logger = logging.getLogger(__name__)

LOSSES_FILE = "objectives.safetensors"
PROCESSES_FILE = "processes.json"


class StopRequest:
    """Ctrl-C and SIGTERM, taken as a request to stop after this step; `number` is the first signal's, 0 for none."""

    number = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Notes the first SIGINT or SIGTERM that comes during the block; a second one stops at once."""
        before = {}
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number


class ResumableTrainer(Trainer):
    """transformers' Trainer for a `DistillationModel`, with checkpoints that are whole or ignored.

    A checkpoint holds the student as a plain transformers model, the losses' parameters and buffers (banks, states of
    generators), the optimiser, the schedule and the random state; a resume from it is exact, bit for bit. Ctrl-C and
    SIGTERM save one before the run stops.
    """

    distillation: DistillationModel  # set before `Trainer.__init__`
    _resumed: bool = False
    _stop: StopRequest = StopRequest()
    _stop_agreed: int = 0  # the signal on which all processes stop after this step
    # What is not finite in the current step: a loss term of this process, the gradient of all.
    _bad: str = ""
    _bad_norm: str = ""

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
            RunError: the checkpoint named is damaged or of another batch size; another process of the training ended.
        """
        self._bad = self._bad_norm = ""
        try:
            resume = self._checkpoint_of(resume_from_checkpoint)
            if rank() > 0:
                # Dropout of its own in each process, not the first one's mask for other examples.
                torch.manual_seed(self.args.seed + 1_000_003 * rank())
            self._resumed = resume is not None
            self._stop = StopRequest()
            with self._stop.listening():
                output = super().train(resume, trial, ignore_keys_for_eval)
                (stop,) = agree(self._stop.number)
        except RuntimeError as error:
            if processes() == 1 or not other_process_ended(error):
                raise
            found = checkpoints.checkpoints(self._run_dir)
            whole = next((path for path in found if (path / checkpoints.MANIFEST).is_file()), None)
            raise ProcessEndedError(ended_message(self.state.global_step, whole)) from error
        if stop:
            raise InterruptedRunError(
                f"Stopped by {signal.Signals(stop).name} at the end of the training. The same command with --resume "
                "goes on from the last checkpoint."
            )
        return output

    def _checkpoint_of(self, asked: str | bool | None) -> str | None:
        # One process looks (and tidies), so that all go on from the same checkpoint.
        if asked is True:
            found = checkpoints.last_whole(self._run_dir, logger.warning) if is_main() else None
            name = first_says(found.name if found else "")
            asked = str(Path(self._run_dir) / name) if name else None
        elif asked and (reason := first_says((checkpoints.damage(asked) or "") if is_main() else "")):
            raise RunError(f"The checkpoint {asked} cannot be used: {reason}. Resume from an older one.")
        if not asked:
            return None
        self._check_processes(Path(asked))
        return str(asked)

    def _agree_on_step(self) -> None:
        """Makes sure, before the optimiser steps, that no process has diverged, and asks whether one must stop."""
        bad, self._stop_agreed = agree(int(bool(self._bad or self._bad_norm)), self._stop.number)
        if bad:
            self._diverged(next(filter(None, all_say(self._bad)), self._bad_norm))

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # A signal that comes while this runs is for the next step: this one may not save. Several processes have
        # agreed before the optimiser's step, a single one listens until here.
        stopping = self._stop_agreed if processes() > 1 else self._stop.number
        if stopping:
            self.control.should_save = True
            self.control.should_evaluate = False
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if stopping:
            raise InterruptedRunError(
                f"Stopped by {signal.Signals(stopping).name} after step {self.state.global_step}; a checkpoint was "
                f"saved in {self._run_dir}. The same command with --resume goes on from there."
            )

    def _diverged(self, what: str) -> None:
        self.distillation.after_step(stepped=False)
        good = checkpoints.checkpoints(self._run_dir)
        kept = f"The last good checkpoint is {good[0]}." if good else "No checkpoint had been written yet."
        raise TrainingDivergedError(
            f"Training diverged at step {self.state.global_step + 1}: {what}. {kept} "
            "Try a lower learning rate, a longer warm-up, or precision fp32."
        )

    # ---- writing checkpoints -----------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        bad = self.distillation.nonfinite_parameter()
        if bad is not None:
            self._diverged(f"the parameter {bad} holds a number that is not finite")
        folder = Path(self._run_dir) / f"checkpoint-{self.state.global_step}"
        if first_says("saved" if is_main() and self._is_saved(folder) else ""):
            return
        # Older checkpoints may only go once this one is whole, so rotation waits for the manifest.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
            barrier()
            if is_main():
                self._seal(folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            # What PyTorch's writer says of a full disk is a RuntimeError about its own positions.
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise
            raise self._not_written(folder, error) from error
        finally:
            self.args.save_total_limit = limit
        if is_main():
            rotate_checkpoints(
                output_dir=self._run_dir,
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=False,
            )

    @staticmethod
    def _is_saved(folder: Path) -> bool:
        """Whether this step was saved a moment ago (end of an epoch and a signal, say); half a checkpoint goes."""
        if folder.exists() and checkpoints.damage(folder) is not None:
            shutil.rmtree(folder)
        return folder.exists()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self._run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.student.save_pretrained(folder)
        if isinstance(self.processing_class, PreTrainedTokenizerBase):
            self.processing_class.save_pretrained(folder)
        state = self.distillation.objectives.state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, folder / LOSSES_FILE)

    def _seal(self, folder: Path) -> None:
        missing = processes() - len(list(folder.glob("rng_state*.pth")))
        if missing:
            raise RunError(
                f"The checkpoint {folder} lacks the files of {missing} of {processes()} processes: the run folder must "
                "lie on a file system that all machines share. Choose an --output there."
            )
        write_json(folder / PROCESSES_FILE, self._shape())
        checkpoints.seal(folder)

    def _not_written(self, folder: Path, error: Exception) -> RunError:
        if is_main():
            shutil.rmtree(folder, ignore_errors=True)
        left = checkpoints.checkpoints(self._run_dir)
        kept = f"{left[0].name} is whole" if left else "there is none before it"
        free = human_bytes(shutil.disk_usage(self._run_dir).free)
        reason = "the disk is full" if isinstance(error, RuntimeError) else str(error)
        return RunError(
            f"The checkpoint {folder} could not be written: {reason} (free on this disk: {free}; {kept}). Free some "
            "space, then the same command with --resume goes on."
        )

    # ---- reading checkpoints -----------------------------------------------------------------------------------

    def _shape(self) -> dict[str, int]:
        """What must be the same after a resume with another number of processes."""
        return {"processes": processes(), "batch": self.get_total_train_batch_size(self.args)}

    def _check_processes(self, checkpoint: Path) -> None:
        """Refuses, with a `RunError`, a checkpoint of another number of processes that trained on other batches."""
        if not (checkpoint / PROCESSES_FILE).is_file():
            return
        there, now = read_json(checkpoint / PROCESSES_FILE), self._shape()
        if there["processes"] == now["processes"]:
            return
        if there["batch"] != now["batch"]:
            raise RunError(
                f"{checkpoint} was written by {there['processes']} process(es) with {there['batch']} examples a step; "
                f"{now['processes']} process(es) with {now['batch']} a step cannot go on from it. Resume with as many "
                f"processes, or with a batch size and accumulation that make {there['batch']} examples a step."
            )
        if is_main():
            logger.warning(
                "%s was written by %d process(es) and goes on with %d: the examples and their order stay the same, "
                "only the random numbers of dropout differ.",
                checkpoint,
                there["processes"],
                now["processes"],
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        saved = type(self.student).from_pretrained(folder, dtype=self.student.dtype)
        self.student.load_state_dict(saved.state_dict())
        try:
            self.distillation.objectives.load_state_dict(load_file(folder / LOSSES_FILE))
        except RuntimeError as error:
            raise RunError(
                f"{folder} holds the losses of other settings, other data or an older version of codir: start a new "
                f"run, or resume with what the run was begun with. {error}"
            ) from error

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        trained = super()._init_training_state(*args, **kwargs)
        if self.state.best_global_step:
            # The run folder may have been moved since: trust the step, not the path.
            best = Path(self._run_dir) / f"checkpoint-{self.state.best_global_step}"
            self.state.best_model_checkpoint = str(best) if best.is_dir() else None
        return trained

    def _load_best_model(self) -> None:
        best = str(self.state.best_model_checkpoint)
        if reason := first_says((checkpoints.damage(best) or "") if is_main() else ""):
            logger.warning(
                "The best checkpoint %s is damaged (%s); keeping the last weights instead.", best, reason
            )
            return
        self._load_from_checkpoint(best)
