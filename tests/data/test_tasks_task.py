from __future__ import annotations

import subprocess
import sys

import pytest

from codir.data import load_task, task_names
from codir.data.task import Task, limit, make_split
from codir.errors import ConfigError


def test_importing_a_task_loads_nothing_heavy():
    code = "import sys, codir.data.task; print([m for m in ('torch', 'datasets', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": ()}, "0 text columns"),
        ({"text": ("a", "b", "c")}, "3 text columns"),
        ({"labels": None}, "class names"),
        ({"kind": "regression"}, "class names"),
        ({"main_metric": "f1"}, "main metric 'f1'"),
    ],
)
def test_a_contradictory_task_is_refused(change, message):
    right = {"name": "x", "kind": "classification", "text": ("a",), "label": "b", "labels": ("n", "y")}
    right |= {"metrics": ("accuracy",), "main_metric": "accuracy"}
    assert Task(**right).num_classes == 2
    with pytest.raises(ConfigError, match=message):
        Task(**{**right, **change})


def test_limit_is_seeded_keeps_the_order_and_repeats_nothing():
    split = make_split("classification", [f"t{i}" for i in range(100)], None, list(range(100)))
    some = limit(split, 20, seed=3)
    labels = list(some["label"])
    assert labels == sorted(set(labels))
    assert len(labels) == 20
    assert list(some["text"]) == [f"t{i}" for i in labels]
    assert list(limit(split, 20, seed=3)["label"]) == labels
    assert list(limit(split, 20, seed=4)["label"]) != labels
    assert limit(split, None) is split
    assert limit(split, 100) is split
    with pytest.raises(ConfigError, match="0 rows"):
        limit(split, 0)


def test_load_task_knows_glue_and_the_built_in_task(tmp_path):
    assert {"acceptability", "cola", "wnli"} < set(task_names())
    data = load_task("acceptability", train_size=20, validation_size=10)
    assert data.train is not None
    assert (len(data.train), len(data.validation["validation"])) == (20, 10)
    assert load_task("Acceptability", train=False, validation_size=10).train is None
    with pytest.raises(ConfigError, match=r"no task 'colla' \(did you mean 'cola'\?\).*sst2"):
        load_task("colla")
    with pytest.raises(ConfigError, match="fixed size"):
        load_task("cola", tmp_path, train_size=3)
