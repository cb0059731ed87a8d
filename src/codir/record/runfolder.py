"""The folder of one run: who may use it, what state it is in, and how a model gets into it whole."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from codir.errors import CodirError, InterruptedRunError, RunError
from codir.files import (
    LOCK,
    exclusive,
    human_bytes,
    is_trace,
    read_json,
    real_path,
    require_disk,
    require_name,
    require_writable,
    sweep,
    temporary_folder,
    write_json,
)
from codir.manifest import RUN_MANIFEST, add_results, of_model, read_whole, require_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")
State = Literal["new", "running", "interrupted", "finished", "failed"]


class RunFolder:
    """Paths and state of a run folder; make one with `RunFolder.open`.

    The folder is the student itself (`from_pretrained(run)`), and says how it was made.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "codir.yaml"  # resolved: every setting
        self.fingerprint = self.path / "fingerprint.json"  # data and models, see `codir.record.fingerprint`
        self.environment = self.path / "environment.json"  # versions, machine, command and git state
        # what the training cost: it is done, and its model published
        self.trained = self.path / "trained.json"
        self.metrics = self.path / "metrics.json"
        self.log = self.path / "log.jsonl"  # one JSON object for each logged step
        self.card = self.path / "README.md"
        self.checkpoints = self.path / "checkpoints"
        self._status = self.path / "run.json"
        # What a run that stopped before it had done anything may have left, besides what is temporary.
        self._traces = (self._status, self.fingerprint, self.path / LOCK)
        self.reopened = ""  # why a finished run is gone on with: its results are damaged or missing

    def comparison(self, name: str) -> RunFolder:
        """Returns the run folder of a comparison student, `comparison/NAME`; use it inside `running()`."""
        return RunFolder(self.path / "comparison" / name)

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: str | Path, resume: bool = False) -> Iterator[RunFolder]:
        """Holds a run folder for the block, alone, and records in `run.json` how the block ended.

        A new run needs a folder that is missing or empty; `resume` needs one that holds a run, even one that was
        stopped before it had done anything. A finished run that is resumed stays as it is: ask `finished` first.

        Raises:
            RunError: the folder holds a run or other files, has nothing to resume, is in use by another
                process, or cannot be written.
        """
        run = cls(path)
        run._check(resume)  # before anything is made, so that a refusal leaves no trace
        place = real_path(run.path)
        made = [each for each in (place, *place.parents) if not each.exists()]
        require_writable(run.path)
        with exclusive(run.path):
            run._check(resume)  # again: another process may have been here in between
            for each in run.path.glob("comparison/*"):
                sweep(each)
            if run.finished:
                run._reopen_without_results()
            new = not run._status.exists()
            try:
                with run.running():
                    yield run
            except (CodirError, OSError) as error:
                run._leave_no_trace(made, new and not isinstance(error, InterruptedRunError))
                raise

    def _check(self, resume: bool) -> None:
        require_name(self.path, folder=True)
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file, not a folder. Choose another --output.")
        if self.checkpoints.exists() and not self.checkpoints.is_dir():
            raise RunError(f"{self.checkpoints} is a file where the folder of checkpoints should be. Delete it.")
        content = self._content()
        if resume:
            if not self.is_run and (content or not self.path.is_dir() or not any(self.path.iterdir())):
                what = "holds no run" if self.path.exists() else "does not exist"
                raise RunError(f"Nothing to resume: {self.path} {what}. Leave out --resume to start a new run.")
        elif self.is_run:
            raise RunError(
                f"{self.path} already holds a run ({self.state}). "
                "Add --resume to go on with it or choose another --output."
            )
        elif content:
            raise RunError(
                f"{self.path} is not empty and not a codir run (it holds {', '.join(content[:3])}). Choose another "
                "--output."
            )

    def _content(self) -> list[str]:
        """Names in the folder but for traces: with only these, a run stopped before it had done anything."""
        found = sorted(self.path.iterdir()) if self.path.is_dir() else []
        return [path.name for path in found if path not in self._traces and not is_trace(path.name)]

    def _reopen_without_results(self) -> None:
        """Makes sure that the models of a finished run are whole; results that are not are to be computed again."""
        for place in (self.path, *sorted(self.path.glob("comparison/*/"))):
            require_model(place)
        try:
            if isinstance(read_whole(self.metrics), dict) or not self.trained.is_file():
                return
        except (FileNotFoundError, RunError):
            if not self.trained.is_file():
                return  # the whole training would have to be done again
        self.reopened = f"The results of {self.path} are computed again, since metrics.json is missing or damaged."
        attempts = self.status.get("attempts") or [{"started": _now()}]
        attempts[-1]["error"] = self.reopened
        self._write_status("interrupted", attempts)
        self.metrics.unlink(missing_ok=True)

    def _leave_no_trace(self, made: Sequence[Path], new: bool) -> None:
        """Removes what a refused run made, unless it had done something that can be resumed.

        Args:
            made: Folders that were not there before it.
            new: Whether there was no `run.json` before it. A folder that was there may be that of another refused
                run, which was gone a moment later: what this one wrote goes all the same.
        """
        if self.is_run or self._content():
            return
        inside = bool(made) and real_path(self.path) == made[0]
        for trace in self._traces if inside else self._traces[:2] if new else ():
            trace.unlink(missing_ok=True)
        if inside:
            with contextlib.suppress(OSError):  # one that is not empty: somebody else is there by now
                for folder in made:
                    folder.rmdir()

    @contextlib.contextmanager
    def running(self) -> Iterator[RunFolder]:
        """Records the state while the block runs: for the sub run folders, whose lock is the outer folder's.

        `finished` when the block ends, `interrupted` on Ctrl-C, a signal or `InterruptedRunError`, `failed`
        on any other error. After kill -9 it stays `running`. A finished run is left untouched.
        """
        if self.finished:
            yield self
            return
        self.path.mkdir(parents=True, exist_ok=True)
        attempts: list[dict[str, Any]] = [*self.status.get("attempts", []), {"started": _now()}]
        self._write_status("running", attempts)
        try:
            yield self
        except BaseException as error:
            stopped = isinstance(error, InterruptedRunError) or not isinstance(error, Exception)
            attempts[-1]["error"] = f"{type(error).__name__}: {error}"[:500]
            with contextlib.suppress(OSError):  # a full disk must not hide the error that is on its way
                self._write_status("interrupted" if stopped else "failed", attempts)
            raise
        add_results(self.path)
        self._write_status("finished", attempts)

    def _write_status(self, state: State, attempts: list[dict[str, Any]]) -> None:
        if state != "running":
            attempts[-1].update(ended=_now(), state=state)
        times = {"started": attempts[0].get("started"), "updated": _now()}
        write_json(self._status, {"state": state, **times, "attempts": attempts})

    @property
    def status(self) -> dict[str, Any]:
        """What `run.json` says: state, times, one entry for each attempt; empty where there is none."""
        content = read_json(self._status) if self._status.is_file() else {}
        attempts = content.get("attempts", []) if isinstance(content, dict) else None
        if (
            not isinstance(attempts, list)
            or not all(isinstance(each, dict) for each in attempts)
            or content.get("state", "new") not in get_args(State)
        ):
            raise RunError(
                f"{self._status} is damaged: it does not say how the run went. Delete it and add --resume, and it goes "
                "on."
            )
        return content

    @property
    def state(self) -> State:
        """State of the run; `new` before it started."""
        return self.status.get("state", "new")

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.state == "finished"

    @property
    def is_run(self) -> bool:
        """Whether there is a run here that has done anything (written its configuration or a checkpoint)."""
        return self.config.is_file() or self.checkpoints.is_dir() or self.finished

    def results(self, read: Callable[[Any], T]) -> T:
        """Returns what `read` makes of `metrics.json`; raises `RunError` where it is damaged."""
        try:
            return read(read_whole(self.metrics))
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            way = "Delete it, and the command that started the run, with --resume, computes it again."
            if not self.trained.is_file():
                way = "Copy the folder again from where it is whole, or train again with another --output."
            raise RunError(f"{self.metrics} is missing or damaged ({error!r:.200}). {way}") from error

    def publish(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Writes the model and its tokenizer so that the folder never holds half of one or a mixture of two.

        Everything is written into a folder inside first and then moved; `config.json`, without which nothing
        loads, goes first when an older model is replaced and comes last.

        Raises:
            RunError: the disk is full or the folder cannot be written.
        """
        needed = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        require_disk(self.path, needed, "The model")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with temporary_folder(self.path) as staging:
                model.save_pretrained(staging)
                tokenizer.save_pretrained(staging)
                files = of_model(staging, [path.name for path in staging.iterdir()])
                (staging / RUN_MANIFEST).write_text(json.dumps(files, indent=2) + "\n", encoding="utf-8")
                names = sorted((path.name for path in staging.iterdir()), key="config.json".__eq__)
                for name in names:
                    (staging / name).chmod(0o644)  # safetensors writes for its owner alone
                    with open(staging / name, "rb") as file:
                        os.fsync(file.fileno())
                for old in (self.path / "config.json", *self.path.glob("model*.safetensors*")):
                    old.unlink(missing_ok=True)
                for name in names:
                    os.replace(staging / name, self.path / name)
        except Exception as error:
            if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
                raise RunError(
                    f"The model ({human_bytes(needed)}) could not be written to {self.path}: {error}"
                ) from error
            raise


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
