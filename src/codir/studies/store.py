"""Who works on what: claims in an Optuna database that any number of workers, on any machines, agree by.

What is finished stands in the run folders alone: a database that is lost is made anew and nothing is repeated. A claim
is one Optuna trial in the state RUNNING with the name of what is worked on; of several for the same thing the first one
counts (the database numbers them). The claim ends with its worker: by its own word, because its process is gone (on
this machine that can be seen), or because it has given no sign of life for long.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codir.errors import ConfigError, RunError
from codir.studies.trial import Trial

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

DATABASE = "study.db"
# Signs of life that may be missing before a worker counts as dead.
_PATIENCE = 6
_TEACHER = "teacher:"


@dataclass(frozen=True)
class Claim:
    """That a worker works on something.

    Attributes:
        number: of the Optuna trial.
        what: key of a trial, or `teacher:TASK`.
        worker: its name.
        host: its machine.
        pid: its process there.
        started: seconds since 1970.
    """

    number: int
    what: str
    worker: str
    host: str
    pid: int
    started: float


def require_optuna() -> None:
    """Raises `ConfigError` with the way out if Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"Studies need Optuna and its database ({error}): pip install 'codir[study]'."
        ) from error


class Store:
    """The claims of one study.

    Args:
        folder: of the study.
        study: its name in the database.
        url: of the database; None: sqlite in the folder.
        heartbeat: seconds between signs of life.
        worker: how others see this one.

    Raises:
        ConfigError: Optuna or the database's driver is not installed.
        RunError: the database cannot be reached.
    """

    def __init__(
        self, folder: Path, study: str, url: str | None = None, heartbeat: int = 30, worker: str = "main"
    ):
        require_optuna()
        self.folder, self.study, self.url, self.heartbeat, self.worker = folder, study, url, heartbeat, worker
        self.host = platform.node()
        self._open()

    def _open(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        url = self.url or f"sqlite:///{self.folder / DATABASE}"
        own = {"connect_args": {"timeout": 120}} if url.startswith("sqlite") else {"pool_pre_ping": True}
        with _reachable(url):
            self._storage: RDBStorage = _patiently(
                lambda: optuna.storages.RDBStorage(
                    url,
                    engine_kwargs=own,
                    heartbeat_interval=self.heartbeat,
                    grace_period=_PATIENCE * self.heartbeat,
                )
            )
            self._study = _patiently(
                lambda: optuna.create_study(
                    storage=self._storage, study_name=self.study, direction="maximize", load_if_exists=True
                )
            )
        self._id = self._study._study_id

    # ---- claims --------------------------------------------------------------------------------------------------

    def claims(self) -> list[Claim]:
        """Returns who works on what, the dead left out (and told so in the database), first claims first."""
        from optuna.trial import TrialState

        self._look()
        found: dict[str, Claim] = {}
        trials = self._storage.get_all_trials(self._id, deepcopy=False, states=(TrialState.RUNNING,))
        silent = set(self._storage._get_stale_trial_ids(self._id)) if trials else set()
        for trial in sorted(trials, key=lambda each: each._trial_id):
            claim = _claim(trial)
            if claim is None:
                continue
            gone = claim.host == self.host and not _alive(claim.pid)
            if gone or trial._trial_id in silent:
                self._end(trial._trial_id, failed=True)
            else:
                found.setdefault(claim.what, claim)
        return list(found.values())

    @contextlib.contextmanager
    def claim(self, what: str, about: Mapping[str, Any] | None = None) -> Iterator[int | None]:
        """Claims something for the block and gives signs of life; yields the claim's number, None if another has it.

        Args:
            what: key of a trial, or `teacher:TASK`.
            about: shown in the database beside it.
        """
        import optuna
        from optuna.trial import TrialState

        self._look()
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            user_attrs={
                "what": what,
                "worker": self.worker,
                "host": self.host,
                "pid": os.getpid(),
                "started": time.time(),
                **(about or {}),
            },
        )
        number = _patiently(lambda: self._storage.create_new_trial(self._id, template))
        _patiently(lambda: self._storage.record_heartbeat(number))
        first = next((claim for claim in self.claims() if claim.what == what), None)
        if first is None or first.number != self._storage.get_trial(number).number:
            self._end(number, failed=True)
            yield None
            return
        beat = _Heartbeat(self._storage, number, self.heartbeat)
        beat.start()
        try:
            yield number
        finally:
            beat.stop()
            self._end(number, failed=True)  # unless `tell` has said what came of it

    def tell(self, number: int, score: float | None, pruned: bool = False) -> None:
        """Notes for people who look into the database what came of a claim; the run folder says it too."""
        self._end(number, failed=score is None, score=score, pruned=pruned)

    def _end(self, number: int, failed: bool, score: float | None = None, pruned: bool = False) -> None:
        from optuna.exceptions import OptunaError
        from optuna.trial import TrialState

        state = TrialState.FAIL if failed else TrialState.PRUNED if pruned else TrialState.COMPLETE
        # finished before, or the database has been deleted meanwhile: the run folder says what came of it
        with contextlib.suppress(OptunaError, KeyError, ValueError, RuntimeError):
            self._storage.set_trial_state_values(
                number, state, None if score is None or score != score else [score]
            )

    def _look(self) -> None:
        """Opens the database again where its file was deleted under us."""
        if self.url is None and not (self.folder / DATABASE).exists():
            self._open()


class _Heartbeat:
    """Gives signs of life until it is stopped; a database that cannot be reached for a while is no reason to stop."""

    def __init__(self, storage: RDBStorage, number: int, seconds: int):
        import threading

        self._storage, self._number, self._seconds = storage, number, seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        while True:
            with contextlib.suppress(Exception):
                self._storage.record_heartbeat(self._number)
            if self._end.wait(self._seconds):
                return


def teacher_key(task: str) -> str:
    """Returns what a worker claims that fine-tunes the teacher of a task."""
    return f"{_TEACHER}{task}"


def what_of(claim: Claim) -> str:
    """Returns a claim's object as people read it."""
    return (
        f"teacher of {claim.what.removeprefix(_TEACHER)}" if claim.what.startswith(_TEACHER) else claim.what
    )


def about_trial(trial: Trial) -> dict[str, Any]:
    """Returns what a database shows of a trial."""
    return {
        "recipe": trial.recipe,
        "task": trial.task,
        "student": trial.student,
        "seed": trial.seed,
        "phase": trial.phase,
        "settings": dict(trial.settings),
    }


def _claim(trial: FrozenTrial) -> Claim | None:
    values = trial.user_attrs
    try:
        started = values.get("started") or (trial.datetime_start or datetime.now()).timestamp()
        return Claim(
            trial.number, values["what"], values["worker"], values["host"], int(values["pid"]), started
        )
    except (KeyError, TypeError, ValueError):
        return None  # somebody else's trial in our study


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError):
        # killed and not yet waited for by its parent
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _patiently(action: Any) -> Any:
    """Several workers may make the tables, or write, at the same moment: the later ones try again."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    for attempt in range(20):
        try:
            return action()
        except (OptunaError, SQLAlchemyError, RuntimeError) as error:
            again = any(
                word in f"{error} {error.__cause__}".lower()
                for word in ("locked", "already exists", "unique", "busy")
            )
            if attempt == 19 or not again:
                raise
            time.sleep(0.1 * (attempt + 1))
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _reachable(url: str) -> Iterator[None]:
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"The driver of the database is not installed ({error}): install it, or leave out storage."
        ) from error
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(
            f"storage is no database URL that SQLAlchemy knows ({error}), such as postgresql://USER@HOST/NAME."
        ) from error
    except (SQLAlchemyError, OptunaError) as error:
        shown = url.rpartition("@")[2]
        raise RunError(
            f"The database {shown} of the study cannot be used: {str(error).splitlines()[0]}"
        ) from error
