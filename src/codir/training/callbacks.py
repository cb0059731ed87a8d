"""Around the steps: progress with time left, the log file; early stopping and a clock that outlive kills."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState

from codir.printing import Console, Progress, TaskID, bar, errors, terminal

SECONDS_BETWEEN_LINES = 20.0


class ProgressLine(TrainerCallback):
    """One line with the step, the time left and the last loss terms; plain lines where there is no terminal."""

    def __init__(self, label: str = "training", console: Console | None = None):
        self.label = label
        self.console = errors() if console is None else terminal(console)
        self.progress: Progress | None = None
        self.task: TaskID | None = None
        self.recent = ""
        self._started = self._last_line = 0.0
        self._first_step = 0

    def _say(self, text: str) -> None:
        self.console.print(f"{self.label}: {text}", highlight=False, soft_wrap=True)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts the bar, at the resumed step if there is one; nothing is drawn but by the first process."""
        self.console.quiet = not state.is_world_process_zero
        self._started = self._last_line = time.monotonic()
        self._first_step = state.global_step
        if self.console.is_terminal and not self.console.quiet:
            self.progress = bar(self.console, clock=True, recent=True)
            self.task = self.progress.add_task(
                self.label, total=state.max_steps, completed=state.global_step, recent=""
            )
            self.progress.start()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves the bar, or prints a line now and then."""
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=state.global_step, recent=self.recent)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            done = max(state.global_step - self._first_step, 1)
            left = (now - self._started) / done * (state.max_steps - state.global_step) / 60
            self._say(f"step {state.global_step}/{state.max_steps}, {left:.1f} min left{self.recent}")

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keeps the last loss terms for the line and prints each evaluation above the bar."""
        logs: dict[str, Any] = kwargs.get("logs") or {}
        terms = [f"{k.removeprefix('loss_')} {v:.3f}" for k, v in logs.items() if k.startswith("loss_")]
        if terms:
            self.recent = "  " + "  ".join(terms)
        shown = [
            f"{key.removeprefix('eval_')} {value:.4f}"
            for key, value in logs.items()
            if key.startswith("eval_") and not key.endswith(("runtime", "per_second"))
        ]
        if shown:
            self._say(f"epoch {state.epoch or 0:.1f}, {', '.join(shown)}")

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ends the bar."""
        self.stop()

    def stop(self) -> None:
        """Ends the bar if it runs; also called when training is left by an error."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


class LogFile(TrainerCallback):
    """Appends every log entry to a JSON-lines file; a resume cuts off what the lost steps had written."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts the file anew from the history that the checkpoint holds (none at a fresh start)."""
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(entry) + "\n" for entry in state.log_history)
            self.path.write_text("".join(lines), encoding="utf-8")

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Appends the newest entry."""
        if state.is_world_process_zero:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(state.log_history[-1]) + "\n")


class EvaluateAtEnd(TrainerCallback):
    """Evaluates and saves after the last step too, where that is no multiple of the steps between evaluations."""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """As in transformers."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True


class EarlyStopping(EarlyStoppingCallback):
    """Early stopping whose verdict outlives a kill between the verdict and the end of the run."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stops at once when the restored patience had already run out."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


class TrainingClock(TrainerCallback, ExportableState):
    """Seconds that a training has taken, over all attempts; steps lost by a kill are counted once, when done again.

    `before` are those of the earlier attempts, up to the checkpoint that this one goes on from.
    """

    def __init__(self, before: float = 0.0):
        self.before = before
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Until now."""
        return self.before + time.monotonic() - self._started

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {"args": {"before": self.seconds}, "attributes": {}}

    @classmethod
    def of(cls, trainer: Trainer) -> TrainingClock:
        """Returns the clock of a trainer, which a resume replaces by the one that the checkpoint holds."""
        return next(each for each in trainer.callback_handler.callbacks if isinstance(each, cls))
