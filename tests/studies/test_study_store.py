"""Claims: one worker for each thing, and the dead forgotten."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from codir.errors import ConfigError, RunError
from codir.studies.store import DATABASE, Store, what_of


def test_a_thing_is_claimed_once_and_let_go(tmp_path: Path) -> None:
    one, two = (Store(tmp_path, "s", worker=name) for name in ("one", "two"))
    with one.claim("mrpc/kd/seed-1", {"seed": 1}) as mine:
        assert mine is not None
        with two.claim("mrpc/kd/seed-1") as other:
            assert other is None
        with two.claim("teacher:mrpc") as other:
            assert other is not None
            claims = two.claims()
            assert [(claim.what, claim.worker) for claim in claims] == [
                ("mrpc/kd/seed-1", "one"),
                ("teacher:mrpc", "two"),
            ]
            assert what_of(claims[1]) == "teacher of mrpc"
            assert claims[0].pid == os.getpid()
        one.tell(mine, 0.5)
    assert one.claims() == two.claims() == []
    with two.claim("mrpc/kd/seed-1") as again:
        assert again is not None


def test_an_error_lets_go_of_a_claim(tmp_path: Path) -> None:
    store = Store(tmp_path, "s")
    with pytest.raises(KeyboardInterrupt), store.claim("a"):
        raise KeyboardInterrupt
    assert store.claims() == []


def test_studies_that_share_a_database_do_not_meet(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    with Store(tmp_path, "one", url).claim("a") as first, Store(tmp_path, "two", url).claim("a") as second:
        assert first is not None
        assert second is not None
    assert not (tmp_path / DATABASE).exists()


def _claim_and_die(folder: Path, what: str) -> None:
    with Store(folder, "s", worker="dead").claim(what):
        os._exit(9)


def test_the_claim_of_a_dead_process_is_free(tmp_path: Path) -> None:
    store = Store(tmp_path, "s")
    process = multiprocessing.get_context("fork").Process(target=_claim_and_die, args=(tmp_path, "a"))
    process.start()
    process.join(60)
    assert store.claims() == []
    with store.claim("a") as mine:
        assert mine is not None


def test_a_worker_of_another_machine_counts_as_dead_once_it_is_silent(tmp_path: Path) -> None:
    other = Store(tmp_path, "s", heartbeat=1, worker="far")
    other.host = "another-machine"
    here = Store(tmp_path, "s", heartbeat=1)
    with other.claim("a") as theirs:
        assert theirs is not None
        time.sleep(2)
        assert [claim.worker for claim in here.claims()] == ["far"]  # it gives signs of life
        # it dies: no sign of life any more
        other._storage.record_heartbeat = lambda number: None  # type: ignore[method-assign]
        limit = time.monotonic() + 30
        while here.claims():
            assert time.monotonic() < limit
            time.sleep(0.5)
        with here.claim("a") as mine:
            assert mine is not None


def test_a_database_deleted_meanwhile_is_made_anew(tmp_path: Path) -> None:
    store = Store(tmp_path, "s")
    with store.claim("a"):
        (tmp_path / DATABASE).unlink()
        assert store.claims() == []
        with store.claim("b") as number:
            assert number is not None
    assert store.claims() == []


def test_many_processes_at_once(tmp_path: Path) -> None:
    """Overlapping claims: never two winners at a time (all four go through the same list without pause)."""
    Store(tmp_path, "s")
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    log.mkdir()
    processes = [context.Process(target=_exclusive, args=(tmp_path, log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert len(list(log.iterdir())) == 10


def _exclusive(folder: Path, log: Path) -> None:
    store = Store(folder, "s", worker=str(os.getpid()))
    for number in range(10):
        while True:
            with store.claim(f"t{number}") as mine:
                if mine is None:
                    time.sleep(0.01)
                    continue
                path = folder / f"held-{number}"
                handle = os.open(path, os.O_CREAT | os.O_EXCL)  # raises where two hold it at once
                (log / f"{number}").touch()
                time.sleep(0.005)
                os.close(handle)
                path.unlink()
                break


def test_a_database_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no database URL"):
        Store(tmp_path, "s", "nothing of the kind")
    with pytest.raises((ConfigError, RunError), match="database"):
        Store(tmp_path, "s", "sqlite:////nowhere/at/all/x.db")
