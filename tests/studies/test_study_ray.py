"""`codir study --engine ray` on a local Ray cluster of two nodes, of which a worker and then a whole node is killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from study_files import assert_done, command, contents, start, wait_for, works_on

from codir.errors import ConfigError
from codir.studies.run import study

Settings = Callable[..., dict[str, Any]]
TRAINING = {"num_train_epochs": 15, "per_device_train_batch_size": 8, "learning_rate": 3e-3, "precision": "fp32"}


def test_without_ray_the_way_out_is_said(
    study_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'codir\[ray\]'"):
        study(**study_settings(tmp_path / "s", engine="ray"))
    assert not (tmp_path / "s").exists()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    for name, value in {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}.items():
        monkeypatch.setenv(name, value)
    size = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args=size)
    made.second = made.add_node(**size)
    yield made
    made.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nothing_finished_is_lost_and_nothing_run_twice(cluster: Any, study_settings: Settings, tmp_path: Path) -> None:
    output = tmp_path / "s"
    settings = study_settings(output, training=TRAINING, seeds=[1, 2, 3], workers=None, engine="ray")
    process = start(command({**settings, "address": cluster.address}, tmp_path), tmp_path)
    trials = output / "trials" / "good"

    def begun() -> list[tuple[int, Path]]:
        """Returns the processes in the middle of a trial that has a checkpoint, with its folder."""
        found = []
        for manifest in trials.glob("*/*/checkpoints/*/manifest.json"):
            folder = manifest.parents[2]
            found += [(pid, folder) for pid in processes() if works_on(pid, folder)]
        return found

    try:
        pid, folder = wait_for(begun, "no training")[0]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: contents(output), "nothing finished")
        cluster.remove_node(cluster.second, allow_graceful=False)
        kept = contents(output)
        said = process.communicate(timeout=900)[0]
    finally:
        process.kill()
    assert process.returncode == 0, said
    done = assert_done(output, 6)
    assert len(done[str(folder.relative_to(output / "trials"))]) > 1, "the trial that was killed was not resumed"
    assert kept.items() <= contents(output).items()


def processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
