"""The folder of one run: who may use it, what state it is in, and how a model gets into it whole."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import yaml

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
    write_json,
    write_text,
)
from codir.manifest import RUN_MANIFEST, add_results, of_model, read_whole, require_model
from codir.record.same_settings import MAY_DIFFER, differences, moved

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")
State = Literal["new", "running", "interrupted", "finished", "failed"]

_STATUS = "run.json"
_FINGERPRINT = "fingerprint.json"
TRAINED = "trained.json"  # what the training cost: it is done, and its model published
_STAGING = ".publish-"
# What a run that stopped before it had done anything may have left, besides what is temporary.
_TRACES = (_STATUS, _FINGERPRINT, LOCK)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunFolder:
    """Paths and state of a run folder; make one with `RunFolder.open`.

    The folder is the student itself (`from_pretrained(run)`), with `codir.yaml` (the resolved
    configuration), `fingerprint.json`, `environment.json`, `metrics.json`, `log.jsonl`, `README.md`, `run.json`
    (the state), `checkpoints/`, and the comparison students as run folders inside `comparison/`.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.reopened = ""  # why a finished run is gone on with: its results are damaged or missing

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: str | Path, resume: bool = False) -> Iterator[RunFolder]:
        """Holds a run folder for the block, alone, and records in `run.json` how the block ended.

        A new run needs a folder that is missing or empty; `resume` needs one that holds a run, even one that was
        stopped before it had done anything. A finished run that is resumed stays as it is: ask `finished` first.

        Args:
            path: the folder.
            resume: go on with the run in it.

        Raises:
            RunError: the folder holds a run or other files, has nothing to resume, is in use by another
                process, or cannot be written.
        """
        folder = cls(path)
        folder._check(resume)  # before anything is made, so that a refusal leaves no trace
        place = real_path(folder.path)
        made = [each for each in (place, *place.parents) if not each.exists()]
        require_writable(folder.path)
        with exclusive(folder.path):
            folder._check(resume)  # again: another process may have been here in between
            for leftover in folder.path.glob(f"{_STAGING}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            for each in folder.path.glob("comparison/*"):
                sweep(each)
            if folder.finished:
                folder._reopen_without_results()
            new = not (folder.path / _STATUS).exists()
            try:
                with folder.running():
                    yield folder
            except (CodirError, OSError) as error:
                folder._leave_no_trace(made, new and not isinstance(error, InterruptedRunError))
                raise

    def _reopen_without_results(self) -> None:
        """Makes sure that the models of a finished run are whole; results that are not are to be computed again."""
        for place in (self.path, *sorted(self.path.glob("comparison/*/"))):
            require_model(place)
        if not (self.path / TRAINED).is_file():
            return  # the whole training would have to be done again
        try:
            content = read_whole(self.metrics)
            found = None if isinstance(content, dict) else f"{self.metrics} holds no results"
        except FileNotFoundError:
            found = f"{self.metrics} is missing"
        except RunError as error:
            found = str(error)
        if found is None:
            return
        self.reopened = (
            f"The results of {self.path} are computed again, since metrics.json is missing or damaged."
        )
        attempts = self.status.get("attempts") or [{"started": _now()}]
        attempts[-1]["error"] = found
        self._write_status("interrupted", attempts)
        self.metrics.unlink(missing_ok=True)

    def results(self, read: Callable[[Any], T]) -> T:
        """Returns what `read` makes of `metrics.json`; raises `RunError` where it is damaged or of another version."""
        try:
            return read(read_whole(self.metrics))
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            way = "Delete it, and the command that started the run, with --resume, computes it again."
            if not (self.path / TRAINED).is_file():
                way = "Copy the folder again from where it is whole, or train again with another --output."
            what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise RunError(
                f"{self.metrics} is missing, damaged, or of another version ({what}). {way}"
            ) from error

    def _leave_no_trace(self, made: Sequence[Path], new: bool) -> None:
        """Removes what a refused run made, unless it had done something that can be resumed.

        Args:
            made: folders that were not there before it.
            new: whether there was no `run.json` before it. A folder that was there may be that of another refused
                run, which was gone a moment later: what this one wrote goes all the same.
        """
        if self.is_run or self._content():
            return
        if new:
            for trace in (_STATUS, _FINGERPRINT):
                (self.path / trace).unlink(missing_ok=True)
        if not made or real_path(self.path) != made[0]:
            return
        for trace in _TRACES:
            (self.path / trace).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # one that is not empty: somebody else is there by now
            for folder in made:
                folder.rmdir()

    def _check(self, resume: bool) -> None:
        require_name(self.path, folder=True)
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file, not a folder. Choose another --output.")
        if self.checkpoints.exists() and not self.checkpoints.is_dir():
            raise RunError(
                f"{self.checkpoints} is a file where the folder of checkpoints should be. Delete it."
            )
        content = self._content()
        if resume:
            if not self.is_run and (content or not self._names()):
                what = "does not exist" if not self.path.exists() else "holds no run"
                raise RunError(
                    f"Nothing to resume: {self.path} {what}. Leave out --resume to start a new run."
                )
        elif self.is_run:
            raise RunError(
                f"{self.path} already holds a run ({self.state}). "
                "Add --resume to go on with it or choose another --output."
            )
        elif content:
            shown = ", ".join(sorted(content)[:3]) + (", ..." if len(content) > 3 else "")
            raise RunError(
                f"{self.path} is not empty and not a codir run (it holds {shown}). Choose another --output."
            )

    def _content(self) -> list[str]:
        """Names in the folder but for traces: with only these, a run stopped before it had done anything."""
        return [
            n for n in self._names() if n not in _TRACES and not is_trace(n) and not n.startswith(_STAGING)
        ]

    def _names(self) -> list[str]:
        return [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []

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
        attempts: list[dict[str, Any]] = self.status.get("attempts", [])
        attempts.append({"started": _now()})
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
        status = {
            "state": state,
            "started": attempts[0].get("started"),
            "updated": _now(),
            "attempts": attempts,
        }
        write_json(self.path / _STATUS, status)

    @property
    def status(self) -> dict[str, Any]:
        """What `run.json` says: state, times, one entry for each attempt; empty where there is none."""
        path = self.path / _STATUS
        content = read_json(path) if path.is_file() else {}
        attempts = content.get("attempts", []) if isinstance(content, dict) else None
        if not (
            isinstance(attempts, list)
            and all(isinstance(each, dict) for each in attempts)
            and content.get("state", "new") in get_args(State)
        ):
            raise RunError(
                f"{path} is damaged: it does not say how the run went. Delete it and add --resume, and it goes on."
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

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def config(self) -> Path:
        """The resolved configuration, `codir.yaml`."""
        return self.path / "codir.yaml"

    @property
    def fingerprint(self) -> Path:
        """What data and models the run was begun with, `fingerprint.json`; see `codir.record.fingerprint`."""
        return self.path / _FINGERPRINT

    @property
    def environment(self) -> Path:
        """Versions, machine, command and git state, `environment.json`."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """The results, `metrics.json`."""
        return self.path / "metrics.json"

    @property
    def log(self) -> Path:
        """One JSON object for each logged step, `log.jsonl`."""
        return self.path / "log.jsonl"

    @property
    def card(self) -> Path:
        """The model card, `README.md`."""
        return self.path / "README.md"

    def comparison(self, name: str) -> RunFolder:
        """Returns the run folder of a comparison student, `comparison/NAME`; use it inside `running()`."""
        return RunFolder(self.path / "comparison" / name)

    def save_config(self, resolved_yaml: str) -> None:
        """Writes `codir.yaml`; where there is one, checks with `check_same` that it says the same.

        Paths of data and models that were moved since are written anew.
        """
        if not self.config.is_file() or self.check_same(resolved_yaml):
            write_text(self.config, resolved_yaml)

    def check_same(self, resolved_yaml: str) -> bool:
        """Makes sure that the run here has the configuration given now; says whether paths were moved.

        Where the run has a fingerprint, that knows whether data and models are the same, wherever they lie now.

        Args:
            resolved_yaml: the configuration of this call, as it would be written to `codir.yaml`.

        Raises:
            RunError: names every key that differs, with both values.
        """
        if not self.config.is_file():
            return False  # stopped before it was written: nothing was computed under another configuration
        try:
            before = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunError(f"{self.config} is damaged, so the run cannot be resumed: {error}") from error
        now = yaml.safe_load(resolved_yaml)
        elsewhere = moved(before, now) if self.fingerprint.is_file() else set()
        if differing := differences(before, now, MAY_DIFFER | elsewhere):
            raise RunError(
                f"{self.path} holds a run of another configuration:\n"
                + "\n".join(differing)
                + "\nGive the settings it was started with, or choose another --output."
            )
        return bool(elsewhere)

    def publish(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Writes the model and its tokenizer so that the folder never holds half of one or a mixture of two.

        Everything is written into a folder inside first and then moved; `config.json`, without which nothing
        loads, goes first when an older model is replaced and comes last.

        Raises:
            RunError: the disk is full or the folder cannot be written.
        """
        needed = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        require_disk(self.path, needed, "The model")
        staging: Path | None = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for leftover in self.path.glob(f"{_STAGING}*"):  # of a process that was killed here
                shutil.rmtree(leftover, ignore_errors=True)
            staging = Path(tempfile.mkdtemp(dir=self.path, prefix=_STAGING))
            model.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
            model_files = of_model(staging, [path.name for path in staging.iterdir()])
            (staging / RUN_MANIFEST).write_text(json.dumps(model_files, indent=2) + "\n", encoding="utf-8")
            names = sorted(path.name for path in staging.iterdir())
            for name in names:
                _settle(staging / name)
            (self.path / "config.json").unlink(missing_ok=True)
            for old in self.path.glob("model*.safetensors*"):
                old.unlink()
            for name in sorted(names, key=lambda name: name == "config.json"):
                os.replace(staging / name, self.path / name)
        except Exception as error:
            if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
                raise RunError(
                    f"The model ({human_bytes(needed)}) could not be written to {self.path}: {error}"
                ) from error
            raise
        finally:
            if staging is not None:
                shutil.rmtree(staging, ignore_errors=True)


def _settle(path: Path) -> None:
    """Makes sure that a file's content is on the disk before its name is moved, and that others may read it."""
    if path.is_file():
        path.chmod(0o644)  # safetensors writes for its owner alone
        with open(path, "rb") as file:
            os.fsync(file.fileno())
