"""Accelerators by name: peak rate of dense matrix products and memory, from their makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from codir.errors import ConfigError, nearest


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        name: as shown.
        half: peak of 16-bit products with dense matrices, operations a second; None where there are none.
        single: peak of fp32 products, without TF32.
        memory: bytes.
        narrow: the 16-bit format that it has.
    """

    name: str
    half: float
    single: float
    memory: int
    narrow: Literal["bf16", "fp16"] = "bf16"

    def peak(self, precision: str) -> float:
        """Operations a second in that precision."""
        return self.single if precision == "fp32" else self.half


_GB = 10**9
DEVICES = {
    "t4": Device("T4", 65e12, 8.1e12, 16 * _GB, "fp16"),
    "v100": Device("V100 32 GB", 125e12, 15.7e12, 32 * _GB, "fp16"),
    "a10": Device("A10", 125e12, 31.2e12, 24 * _GB),
    "l4": Device("L4", 121e12, 30.3e12, 24 * _GB),
    "l40s": Device("L40S", 362e12, 91.6e12, 48 * _GB),
    "a100-40gb": Device("A100 40 GB", 312e12, 19.5e12, 40 * _GB),
    "a100": Device("A100 80 GB", 312e12, 19.5e12, 80 * _GB),
    "h100": Device("H100 SXM", 989e12, 67e12, 80 * _GB),
    "h200": Device("H200 SXM", 989e12, 67e12, 141 * _GB),
}
CPU = "cpu"
"""The name of a processor: it has no peak that could be looked up."""


def find_device(name: str) -> Device | None:
    """Returns the device of that name, None for `cpu`.

    Raises:
        ConfigError: no such device; names the nearest and how to plan for another.
    """
    key = name.strip().lower()
    if key == CPU:
        return None
    if key not in DEVICES:
        known = (*DEVICES, CPU)
        raise ConfigError(
            f"--device {name} is not known{nearest(key, known)}: choose {', '.join(known)}, or give the peak of yours "
            "in its data sheet with --peak-tflops."
        )
    return DEVICES[key]


def recognise(gpu: str) -> str | None:
    """Returns the key of the device that a driver's name (`NVIDIA H200`) means; None if none is meant."""
    words = gpu.lower().replace("-", " ").split()
    matches = [key for key in DEVICES if key in words]
    if "a100" in matches and "40gb" in words:
        return "a100-40gb"
    return matches[0] if matches else None
