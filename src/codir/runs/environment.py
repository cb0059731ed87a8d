"""What a result was computed with: versions, machine, command, git state. No secrets, no environment variables."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "codir",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "scikit-learn",
    "scipy",
)


def environment(seed: int | None = None, precision: str | None = None, **settings: Any) -> dict[str, Any]:
    """Describes this process and machine, for `environment.json`.

    Nothing that identifies the user is read: no host name, no environment variable, no remote of the repository.

    Args:
        seed: of the run.
        precision: as resolved (fp32, bf16, fp16).
        settings: further plain values to record as they are.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else "",
        "seed": seed,
        "precision": precision,
        **settings,
        "versions": versions(),
        "machine": machine(),
        "git": git_state(),
    }


def versions() -> dict[str, str | None]:
    """Returns the installed versions, Python's first; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["torch"] = str(
        torch.__version__
    )  # says which build it is (+cpu, +cu130), which the metadata may not
    return found


def machine() -> dict[str, Any]:
    """Returns platform, processor, cores this process may use, threads of torch, GPU names."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "amx": _has("_is_amx_tile_supported"),
        "avx512_bf16": _has("_is_avx512_bf16_supported"),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
    }


def _has(probe: str) -> bool:
    function = getattr(torch.cpu, probe, None)
    return bool(function()) if function is not None else False


def _cpu_model() -> str:
    """Returns the processor's name; Linux keeps it in /proc, elsewhere the platform module has to do."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git_state(folder: str | Path = ".") -> dict[str, Any] | None:
    """Returns the commit of the repository that `folder` is in and whether files differ from it.

    None where there is no repository, no commit, or no git.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changes = _git(folder, "status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: str | Path, *arguments: str) -> str | None:
    # optional locks off: looking must not disturb another git command in the same tree
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
