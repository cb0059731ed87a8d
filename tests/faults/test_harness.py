"""The harness itself: a training by the command line ends well, a wrong flag is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fault_world import QUICK, refused, succeeded


def test_a_training_ends_well_and_a_missing_file_is_refused(
    tmp_path: Path, tiny_model_dir: Callable[..., Path], train_csv: Path, dev_csv: Path
) -> None:
    model, output = tiny_model_dir(layers=2), tmp_path / "run"
    given = ["finetune", "--model", model, "--validation", dev_csv, "--output", output, *QUICK]
    message = refused(*given, "--train", tmp_path / "nothing.csv", leaves_nothing=output)
    assert "nothing.csv" in message
    succeeded(*given, "--train", train_csv)
    assert (output / "model.safetensors").is_file()
