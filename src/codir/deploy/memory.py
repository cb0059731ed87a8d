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
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from codir.errors import RunError

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_TIMEOUT = 900
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>


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
        engine: one of `codir.deploy.latency_models.TORCH`; None for an exported folder's own.
        batch: the model's inputs.
        threads: the engine's; as many as torch has here by default.
        device: `cpu` or `cuda`.

    Raises:
        RunError: the process failed, with the last line it wrote.
    """
    order = {
        "path": str(path),
        "engine": engine,
        "inputs": {name: tensor.cpu().tolist() for name, tensor in batch.items()},
        "threads": threads or torch.get_num_threads(),
        "device": device,
    }
    # errors go into a file without a name: a full pipe would stop the process, and nothing is left of it after a kill
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it failed at once; its last line says why
                process.stdin.write(json.dumps(order).encode() + b"\n")
            process.wait(_TIMEOUT)  # with its input open: it ends when that does
            if process.returncode == 0:
                return int(process.stdout.readline())
        except subprocess.TimeoutExpired as error:
            raise RunError(f"{path} did not load and run in {_TIMEOUT} s.") from error
        finally:
            process.kill()
        errors.seek(0)
        lines = [line for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
        why = lines[-1].strip() if lines else f"exit code {process.returncode}"
        raise RunError(f"The process that measures the memory of {path} failed: {why}")


def _measure(order: Mapping[str, Any]) -> int:
    """Loads and runs in this process, which must be fresh, and returns the bytes."""
    from codir.deploy.latency_models import load, warm_imports

    torch.set_num_threads(order["threads"])
    batch = {name: torch.tensor(values) for name, values in order["inputs"].items()}
    warm_imports(order["path"], order["engine"])
    cuda = order["device"] == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux forgets the peak of the imports
        _CLEAR.write_text("5", encoding="ascii")
    before = _status("VmRSS")
    model = load(order["path"], order["engine"]).to(order["device"]).eval()
    with torch.inference_mode():
        model(**{name: tensor.to(order["device"]) for name, tensor in batch.items()})
    if cuda:
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated())
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    """Returns bytes out of Linux' own account of this process; elsewhere the largest resident set so far."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return _max_resident()


def _max_resident() -> int:
    """Returns the largest resident set so far, the only figure that macOS and others give."""
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def main() -> None:
    """Does what the first line of standard input, JSON, says; for `peak_memory` alone."""
    end_with_parent()
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    answer = os.dup(1)
    os.dup2(2, 1)  # what engines print is no answer
    value = _measure(order)
    os.write(answer, f"{value}\n".encode())
    # engines end their threads slowly, and some not at all
    os._exit(0)


def end_with_parent() -> None:
    """Asks Linux to kill this process when the one that started it is gone, however busy this one is."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        import ctypes

        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def _end_with_input() -> None:
    """Ends this process when its input ends, which it does with the process that holds the other side."""
    while os.read(0, 4096):  # not by sys.stdin, whose lock would be held when Python ends
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
