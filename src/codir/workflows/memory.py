"""Peak memory of one model in one engine, measured in a process of its own: load it, run a batch, look.

What is counted: the largest resident set of that process (weights, whatever the engine makes of them, activations; also
the pages of a weight file that it has mapped) minus its resident set before the model was loaded, when Python, torch,
transformers and the engine's package had been imported. On a GPU: the most bytes that torch had allocated there,
weights and activations. Not counted: the tokenizer, and what torch.compile's compiler takes in processes of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codir.errors import RunError

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_TIMEOUT = 900


def peak_memory(
    path: str | Path,
    engine: str | None,
    batch: Mapping[str, torch.Tensor],
    *,
    threads: int | None = None,
    device: str = "cpu",
) -> int:
    """Returns the bytes that loading a model and running one batch takes (see the module's text for what is counted).

    Args:
        path: a model folder, a Hub id or an exported folder.
        engine: for `codir.deployment.engines.load_engine` (or `torch-fp16`); None for an exported folder's own.
        batch: the model's inputs.
        threads: of the engine; as many as torch has here by default.
        device: `cpu` or `cuda`.

    Raises:
        RunError: the process failed, with the last line it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="codir-memory-") as folder:
        inputs = Path(folder) / "batch.npz"
        np.savez(inputs, **{name: tensor.cpu().numpy() for name, tensor in batch.items()})  # type: ignore[arg-type]
        order = {
            "path": str(path),
            "engine": engine,
            "inputs": str(inputs),
            "threads": threads or torch.get_num_threads(),
            "device": device,
            "answer": str(Path(folder) / "answer.json"),
        }
        command = [sys.executable, "-m", __name__, json.dumps(order)]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        except subprocess.TimeoutExpired as error:
            raise RunError(f"{path} did not load and run in {_TIMEOUT} s.") from error
        if ended.returncode:
            lines = [line for line in ended.stderr.splitlines() if line.strip()]
            why = lines[-1].strip() if lines else f"exit code {ended.returncode}"
            raise RunError(f"The process that measures the memory of {path} failed: {why}")
        answer = json.loads(Path(order["answer"]).read_text(encoding="utf-8"))
    return int(answer["bytes"])


def _measure(order: Mapping[str, Any]) -> int:
    """Loads and runs in this process, which must be fresh, and returns the bytes."""
    from codir.workflows.latency_models import load, warm_imports

    torch.set_num_threads(order["threads"])
    batch = {name: torch.from_numpy(values) for name, values in np.load(order["inputs"]).items()}
    warm_imports(order["path"], order["engine"])
    cuda = order["device"] == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    _reset_peak()
    before = _resident()
    model = load(order["path"], order["engine"]).to(order["device"]).eval()
    with torch.inference_mode():
        model(**{name: tensor.to(order["device"]) for name, tensor in batch.items()})
    if cuda:
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated())
    return max(0, _peak() - before)


def _reset_peak() -> None:
    """Makes Linux forget the peak of the imports; where that is not allowed it counts only if it was higher."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5", encoding="ascii")


def _resident() -> int:
    return _status("VmRSS") or _max_resident()


def _peak() -> int:
    return _status("VmHWM") or _max_resident()


def _status(field: str) -> int | None:
    """Returns bytes out of Linux' own account of this process; None elsewhere."""
    try:
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _max_resident() -> int:
    """Returns the largest resident set so far, the only figure that macOS and others give."""
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def main() -> None:
    """Does what the only argument, JSON, says; for `peak_memory` alone."""
    order = json.loads(sys.argv[1])
    value = _measure(order)
    Path(order["answer"]).write_text(json.dumps({"bytes": value}), encoding="utf-8")
    # engines end their threads slowly, and some not at all
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
