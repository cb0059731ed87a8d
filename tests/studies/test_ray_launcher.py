"""The launcher for Ray against a stand-in for Ray: its tasks are threads here, all else is real."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from codir.errors import ConfigError
from codir.studies import team
from codir.studies.ray_launcher import RayLauncher, require_ray


class FakeRay(ModuleType):
    """`ray.remote`, `wait`, `get` and `cancel` as the launcher uses them."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.options: dict[str, Any] = {}
        self.started = False

    def is_initialized(self) -> bool:
        return self.started

    def init(self, **_: Any) -> None:
        self.started = True

    def remote(self, **options: Any) -> Any:
        self.options = options

        def decorate(function: Any) -> Any:
            class Remote:
                @staticmethod
                def remote(*args: Any) -> Any:
                    reference: dict[str, Any] = {}

                    def run() -> None:
                        try:
                            reference["value"] = function(*args)
                        except Exception as error:
                            reference["error"] = error

                    reference["thread"] = threading.Thread(target=run, daemon=True)
                    reference["thread"].start()
                    return reference

            return Remote

        return decorate

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        references[0]["thread"].join(timeout)
        done = not references[0]["thread"].is_alive()
        return (references, []) if done else ([], references)

    def get(self, reference: Any) -> Any:
        if "error" in reference:
            raise reference["error"]
        return reference["value"]

    def cancel(self, reference: Any, force: bool) -> None:
        reference["cancelled"] = force


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_without_ray_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="pip install ray, or leave out launcher"):
        require_ray()


def test_a_worker_is_a_task_that_runs_a_process(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[Path, str]] = []

    def start(folder: Path, name: str, log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        started.append((folder, name))
        code = "import sys, time; time.sleep(0.3); sys.exit(7)"
        return subprocess.Popen([sys.executable, "-c", code], env=environment)

    monkeypatch.setattr(team, "start_worker", start)
    launch = RayLauncher(tmp_path, {"num_cpus": 2, "num_gpus": 1, "fast_disk": 1})
    assert ray.started
    assert ray.options == {"num_cpus": 2, "num_gpus": 1, "resources": {"fast_disk": 1}, "max_retries": 0}
    process = launch("worker-1", tmp_path / "log")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    assert process.wait(60) == 7
    assert process.poll() == 7
    assert started == [(tmp_path, "worker-1")]


def test_a_task_that_is_lost_counts_as_a_worker_that_died(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> Any:
        raise RuntimeError("the machine is gone")

    monkeypatch.setattr(team, "start_worker", lost)
    assert RayLauncher(tmp_path, {})("worker-1", tmp_path / "log").wait(60) == 1
