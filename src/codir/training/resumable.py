"""The Trainer's side that makes a run stoppable and resumable: signals, whole checkpoints, exact resumption.

A checkpoint is whole once its manifest is there, which is written last, with the digest of every file.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, rotate_checkpoints

from codir import manifest
from codir.errors import InterruptedRunError, ProcessEndedError, RunError, TrainingDivergedError
from codir.files import human_bytes, read_json, remove, write_json
from codir.gather import processes
from codir.training.model import DistillationModel
from codir.training.processes import (
    agree,
    barrier,
    broadcast_text,
    ended_message,
    gather_texts,
    is_main,
    other_process_ended,
    rank,
)

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LOSSES_FILE = "objectives.safetensors"
PROCESSES_FILE = "processes.json"


def damage(folder: str | Path) -> str | None:
    """Returns what is wrong with a checkpoint in a few words, or None if it is whole."""
    if Path(folder).is_dir() and not (Path(folder) / MANIFEST).is_file():
        return "it was not written to its end"
    return manifest.fault_by(Path(folder) / MANIFEST)


def checkpoints(folder: str | Path) -> list[Path]:
    """Lists the checkpoints in `folder`, whole or not, newest (highest step) first."""
    steps = {path.name.rpartition("-")[2]: path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*")}
    return [steps[step] for step in sorted(filter(str.isdigit, steps), key=int, reverse=True)]


def last_whole(folder: str | Path, say: Callable[[str], None]) -> Path | None:
    """Returns the newest whole checkpoint in `folder`, or None; `say` is told of damaged newer ones, which go."""
    for path in checkpoints(folder):
        reason = damage(path)
        if reason is None:
            return path
        say(f"Checkpoint {path} is damaged ({reason}); falling back to the one before it.")
        remove(path)
    return None


class StopRequest:
    """Ctrl-C and SIGTERM, taken as a request to stop after this step; `number` is the first signal's, 0 for none."""

    number = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Notes the first SIGINT or SIGTERM that comes during the block; a second one stops at once."""

        def note(number: int, frame: FrameType | None) -> None:
            if self.number:
                raise KeyboardInterrupt
            self.number = number

        before = {}
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


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
    def _run_dir(self) -> Path:
        return Path(str(self.args.output_dir))

    # ---- starting, stopping, resuming --------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
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
                output = super().train(resume, *args, **kwargs)
                (stop,) = agree(self._stop.number)
        except RuntimeError as error:
            if processes() == 1 or not other_process_ended(error):
                raise
            found = (path for path in checkpoints(self._run_dir) if (path / MANIFEST).is_file())
            raise ProcessEndedError(ended_message(self.state.global_step, next(found, None))) from error
        if stop:
            raise InterruptedRunError(
                f"Stopped by {signal.Signals(stop).name} at the end of the training. The same command with --resume "
                "goes on from the last checkpoint."
            )
        return output

    def _checkpoint_of(self, asked: str | bool | None) -> str | None:
        # One process looks (and tidies), so that all go on from the same checkpoint.
        if asked is True:
            found = last_whole(self._run_dir, logger.warning) if is_main() else None
            name = broadcast_text(found.name if found else "")
            asked = str(self._run_dir / name) if name else None
        elif asked and (reason := self._damage(asked)):
            raise RunError(f"The checkpoint {asked} cannot be used: {reason}. Resume from an older one.")
        if not asked:
            return None
        # Another number of processes may go on from it with batches of the same size only.
        there, now = read_json(Path(asked) / PROCESSES_FILE), self._shape()
        if there["batch"] != now["batch"] and there["processes"] != now["processes"]:
            raise RunError(
                f"{asked} was written by {there['processes']} process(es) with {there['batch']} examples a step; "
                f"{now['processes']} process(es) with {now['batch']} a step cannot go on from it. Resume with as many "
                f"processes, or with a batch size and accumulation that make {there['batch']} examples a step."
            )
        if there["processes"] != now["processes"] and is_main():
            logger.warning(
                f"{asked} was written by {there['processes']} process(es) and goes on with {now['processes']}: the "
                "examples and their order stay the same, only the random numbers of dropout differ."
            )
        return str(asked)

    @staticmethod
    def _damage(folder: str) -> str:
        return broadcast_text((damage(folder) or "") if is_main() else "")

    def _shape(self) -> dict[str, int]:
        return {"processes": processes(), "batch": self.get_total_train_batch_size(self.args)}

    def _agree_on_step(self) -> None:
        """Makes sure, before the optimiser steps, that no process has diverged, and asks whether one must stop."""
        bad, self._stop_agreed = agree(int(bool(self._bad or self._bad_norm)), self._stop.number)
        if bad:
            self._diverged(next(filter(None, gather_texts(self._bad)), self._bad_norm))

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # A signal that comes while this runs is for the next step: this one may not save. Several processes have
        # agreed before the optimiser's step, a single one listens until here.
        stopping = self._stop_agreed if processes() > 1 else self._stop.number
        if stopping:
            self.control.should_save, self.control.should_evaluate = True, False
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if stopping:
            raise InterruptedRunError(
                f"Stopped by {signal.Signals(stopping).name} after step {self.state.global_step}; a checkpoint was "
                f"saved in {self._run_dir}. The same command with --resume goes on from there."
            )

    def _diverged(self, what: str) -> None:
        self.distillation.after_step(stepped=False)
        good = checkpoints(self._run_dir)
        kept = f"The last good checkpoint is {good[0]}." if good else "No checkpoint had been written yet."
        raise TrainingDivergedError(
            f"Training diverged at step {self.state.global_step + 1}: {what}. {kept} "
            "Try a lower learning rate, a longer warm-up, or precision fp32."
        )

    # ---- writing checkpoints -----------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if (bad := self.distillation.nonfinite_parameter()) is not None:
            self._diverged(f"the parameter {bad} holds a number that is not finite")
        folder = self._run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if is_main() and folder.exists() and damage(folder) is not None:
            shutil.rmtree(folder)
        # The step may have been saved a moment ago: at the end of an epoch and for a signal, say.
        if broadcast_text("saved" if is_main() and folder.exists() else ""):
            return
        # Older checkpoints may only go once this one is whole, so rotation waits for the manifest.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
            barrier()
            if is_main():
                self._write_manifest(folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            # What PyTorch's writer says of a full disk is a RuntimeError about its own positions.
            full = isinstance(error, RuntimeError)
            if full and "inline_container" not in str(error):
                raise
            if is_main():
                shutil.rmtree(folder, ignore_errors=True)
            left = checkpoints(self._run_dir)
            kept = f"{left[0].name} is whole" if left else "there is none before it"
            free = human_bytes(shutil.disk_usage(self._run_dir).free)
            raise RunError(
                f"The checkpoint {folder} could not be written: {'the disk is full' if full else error} (free on this "
                f"disk: {free}; {kept}). Free some space, then the same command with --resume goes on."
            ) from error
        finally:
            self.args.save_total_limit = limit
        if is_main():
            rotate_checkpoints(str(self._run_dir), limit, self.state.best_model_checkpoint, use_mtime=False)

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

    def _write_manifest(self, folder: Path) -> None:
        missing = processes() - len(list(folder.glob("rng_state*.pth")))
        if missing:
            raise RunError(
                f"The checkpoint {folder} lacks the files of {missing} of {processes()} processes: the run folder must "
                "lie on a file system that all machines share. Choose an --output there."
            )
        write_json(folder / PROCESSES_FILE, self._shape())
        write_json(folder / MANIFEST, {"files": manifest.entries(folder, but=(MANIFEST,))})

    # ---- reading checkpoints -----------------------------------------------------------------------------------

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        saved = type(self.student).from_pretrained(folder, dtype=self.student.dtype)
        self.student.load_state_dict(saved.state_dict())
        try:
            self.distillation.objectives.load_state_dict(load_file(folder / LOSSES_FILE))
        except RuntimeError as error:
            raise RunError(
                f"{folder} holds the losses of other settings or other data: start a new run, or resume with what the "
                f"run was begun with. {error}"
            ) from error

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        trained = super()._init_training_state(*args, **kwargs)
        if self.state.best_global_step:
            # The run folder may have been moved since: trust the step, not the path.
            best = self._run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
            self.state.best_model_checkpoint = str(best) if best.is_dir() else None
        return trained

    def _load_best_model(self) -> None:
        best = str(self.state.best_model_checkpoint)
        if reason := self._damage(best):
            logger.warning("The best checkpoint %s is damaged (%s); keeping the last weights instead.", best, reason)
            return
        self._load_from_checkpoint(best)
