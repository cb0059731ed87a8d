"""Workers as tasks of a Ray cluster: Ray finds machines with room for them, all else is as on one machine.

Ray only places the workers. What they run, the search and the pruning are the study's own, so that a study gives the
same on a cluster and without one. All machines must see the output folder, and `storage` must be a database that all
of them reach.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codir.errors import ConfigError
from codir.studies.worker import STOPPED


def require_ray() -> Any:
    """Returns the module; raises `ConfigError` with the way out where it is not installed."""
    try:
        import ray  # type: ignore[import-not-found]
    except ImportError as error:
        raise ConfigError(
            f"The launcher ray needs Ray ({error}): pip install ray, or leave out launcher."
        ) from error
    return ray


def ray_worker(folder: str, name: str, log: str) -> int:
    """Runs a worker as a process of its own on the machine Ray has chosen; returns its exit code."""
    from codir.studies.team import start_worker

    process = start_worker(Path(folder), name, Path(log), dict(os.environ))
    try:
        return process.wait()
    except BaseException:  # cancelled: Ray raises KeyboardInterrupt here
        process.terminate()
        process.wait()
        return STOPPED


class RayLauncher:
    """Starts workers on a Ray cluster: that of `RAY_ADDRESS` or this machine's, else a new one here.

    Args:
        folder: of the study.
        resources: of each worker, as `ray.remote` takes them; other names than its own are custom resources.
    """

    def __init__(self, folder: Path, resources: Mapping[str, float]):
        self.ray, self.folder = require_ray(), folder
        if not self.ray.is_initialized():
            self.ray.init(log_to_driver=False)
        own = {key: value for key, value in resources.items() if key in ("num_cpus", "num_gpus", "memory")}
        custom = {key: value for key, value in resources.items() if key not in own}
        # A worker that dies with its machine is started anew by the team, which counts what it died of.
        options = {**own, **({"resources": custom} if custom else {}), "max_retries": 0}
        self._remote = self.ray.remote(**options)(ray_worker)

    def __call__(self, name: str, log: Path) -> _RayProcess:
        """Starts a worker."""
        return _RayProcess(self.ray, self._remote.remote(str(self.folder), name, str(log)))


class _RayProcess:
    def __init__(self, ray: Any, reference: Any):
        self._ray, self._reference = ray, reference

    def poll(self) -> int | None:
        ready, _ = self._ray.wait([self._reference], timeout=0)
        return self._result() if ready else None

    def _result(self) -> int:
        try:
            return int(self._ray.get(self._reference))
        except (KeyboardInterrupt, SystemExit):
            raise
        except Exception:  # its machine is gone, or it was cancelled before it began
            return 1

    def terminate(self) -> None:
        with contextlib.suppress(Exception):
            self._ray.cancel(self._reference, force=False)

    def kill(self) -> None:
        with contextlib.suppress(Exception):
            self._ray.cancel(self._reference, force=True)

    def wait(self, timeout: float) -> int:
        ready, _ = self._ray.wait([self._reference], timeout=timeout)
        if not ready:
            raise subprocess.TimeoutExpired("ray task", timeout)
        return self._result()
