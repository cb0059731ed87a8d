"""Where a memory bank is kept: on the GPU, in CPU memory, or on disk, chosen by its size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch

from codir.contrast.disk_bank import HEAD
from codir.errors import ConfigError
from codir.gather import gather_rows
from codir.storage import human_bytes

Storage = Literal["gpu", "cpu", "disk"]
_ORDER: tuple[Storage, ...] = ("gpu", "cpu", "disk")
_SHARE = 0.25  # of the free memory that a bank may take


def choose_storage(nbytes: int, device: torch.device, folder: Path | None) -> Storage:
    """Chooses the fastest place that the bank fits into, the same in every process.

    The GPU of the training if the bank takes at most a quarter of its free memory, else CPU memory if it takes at most
    a quarter of what is available for each process of the machine (each holds a copy), else the disk. A bank that is
    already on disk stays there, so that a run can be resumed where more memory is free.

    Args:
        nbytes: size of the rows.
        device: of the training.
        folder: of the bank on disk, or None if it may not be there.

    Raises:
        ConfigError: only the disk is left and there is no folder.
    """
    share = available_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if folder is not None and (folder / HEAD).is_file():
        choice: Storage = "disk"
    elif device.type == "cuda" and nbytes <= _SHARE * torch.cuda.mem_get_info(device)[0]:
        choice = "gpu"
    else:
        choice = "cpu" if nbytes <= _SHARE * share else "disk"
    # Processes see different amounts of free memory: the one with the least decides.
    slowest = int(gather_rows(torch.tensor([_ORDER.index(choice)], device=device))[0].max())
    if _ORDER[slowest] == "disk" and folder is None:
        raise ConfigError(
            f"The memory bank takes {human_bytes(nbytes)}, more than a quarter of the {human_bytes(share)} of memory "
            "available to this process, and there is no folder to keep it on disk: give an output folder, use "
            "bank_dtype=float16, a smaller dim, or bank_storage=cpu to put it there all the same."
        )
    return _ORDER[slowest]


def check_storage(name: str, storage: str, device: torch.device, folder: Path | None) -> None:
    """Raises `ConfigError` where the storage asked for does not exist."""
    if storage == "gpu" and device.type == "cpu":
        raise ConfigError(
            f"{name}.bank_storage='gpu', and the training runs on a CPU: use auto, cpu or disk."
        )
    if storage == "disk" and folder is None:
        raise ConfigError(
            f"{name}.bank_storage='disk' needs a folder to keep the bank in, and this run has none: give an output "
            "folder, or use bank_storage: cpu."
        )


def available_memory() -> int:
    """Bytes of memory that this machine, or the container it runs in, can still give; 8 GB where it does not say."""
    found: list[int] = []
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found += [1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable")]
    except OSError:
        pass
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = (
            (group / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current")
        )
        if limit != "max":
            found.append(max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        pass
    return min(found, default=8 * 10**9)
