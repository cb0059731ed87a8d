"""Accelerators by name: peak rate of dense matrix products and memory, from their makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from codir.errors import ConfigError, nearest
from codir.runs.costs import Precision
from codir.training.precision import resolve_precision

EFFICIENCY = 0.35
"""Share of the peak that is reached, where it is not measured."""

DEFAULT_DEVICE = "a100"


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        name: as shown.
        half: peak of 16-bit products with dense matrices, operations a second.
        single: peak of fp32 products, without TF32.
        memory: bytes.
        narrow: the 16-bit format that it has.
    """

    name: str
    half: float
    single: float
    memory: int
    narrow: Literal["bf16", "fp16"] = "bf16"

    def rate(self, precision: Precision) -> float:
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
    if name == CPU:
        return None
    if name not in DEVICES:
        known = (*DEVICES, CPU)
        raise ConfigError(
            f"--device {name} is not known{nearest(name, known)}: choose {', '.join(known)}, or give the peak of yours "
            "in its data sheet with --peak-tflops."
        )
    return DEVICES[name]


def recognise(gpu: str) -> str | None:
    """Returns the key of the device that a driver's name (`NVIDIA H200`) means; None if none is meant."""
    words = gpu.lower().replace("-", " ").split()
    matches = [key for key in DEVICES if key in words]
    if "a100" in matches and "40gb" in words:
        return "a100-40gb"
    return matches[0] if matches else None


@dataclass(frozen=True)
class Machine:
    """What computes: a known device, one of a given peak, or this machine, measured.

    Attributes:
        device: None for a CPU, or a device whose peak is given.
        peak: as given; it goes before the device's.
        efficiency: share of the peak that is reached.
        measured: time this machine instead.
        assumed: the device is neither here nor named.
        cpu: it is a CPU.
    """

    device: Device | None
    peak: float | None
    efficiency: float
    measured: bool
    assumed: bool
    cpu: bool

    @classmethod
    def of(
        cls, name: str | None, peak_tflops: float | None, efficiency: float | None, measured: bool
    ) -> Machine:
        """Decides what to plan for, from the flags.

        Raises:
            ConfigError: an unknown name, a number out of range, flags that exclude each other.
        """
        cuda = torch.cuda.is_available()
        here = recognise(torch.cuda.get_device_name()) if cuda else None
        assumed = name is None and here is None and not measured and peak_tflops is None
        name = name.strip().lower() if name is not None else here or (DEFAULT_DEVICE if assumed else None)
        device = find_device(name) if name is not None else None
        peak = peak_tflops * 1e12 if peak_tflops is not None else None
        if measured and name is not None and name != here and (device is not None or cuda):
            raise ConfigError(
                f"--measure times this machine, and --device {name} names another one: leave out one of the two."
            )
        if measured and efficiency is not None:
            raise ConfigError("--measure finds the efficiency out: leave out --efficiency.")
        if device is None and peak is None and not measured:
            raise ConfigError(
                "A CPU has no peak that could be looked up: add --measure to time a few steps on this one, or "
                "--peak-tflops."
            )
        if efficiency is not None and not 0 < efficiency <= 1:
            raise ConfigError(
                f"--efficiency {efficiency:g} is no share of the peak: give one above 0, at most 1."
            )
        if peak is not None and not peak > 0:
            raise ConfigError(f"--peak-tflops {peak_tflops:g} must be above 0.")
        cpu = name == CPU or (measured and not cuda)
        return cls(device, peak, efficiency or EFFICIENCY, measured, assumed, cpu)

    @property
    def memory(self) -> int | None:
        """Bytes of the GPU; None on a CPU or where not known."""
        if self.measured and torch.cuda.is_available():
            return torch.cuda.get_device_properties(0).total_memory
        return self.device.memory if self.device else None

    def precision(self, asked: Precision | Literal["auto"]) -> Precision:
        """Returns the format that a training there computes in; `ConfigError` if the device lacks it."""
        if self.measured or self.cpu:
            return resolve_precision(asked)
        if self.device is None:
            return "bf16" if asked == "auto" else asked
        if asked == "bf16" and self.device.narrow != "bf16":
            raise ConfigError(
                f"The {self.device.name} has no bf16: use --precision fp16, fp32 or auto, or another --device."
            )
        return self.device.narrow if asked == "auto" else asked

    def peak_in(self, precision: Precision) -> float | None:
        """Operations a second; None where not known."""
        return self.peak or (self.device.rate(precision) if self.device else None)

    def notes(self) -> list[str]:
        """What the times rest on."""
        if self.measured:
            return [
                "Times were measured in one process on this machine, in warm-up steps with random weights and tokens."
            ]
        if self.device is None:
            which = "the peak given"
        else:
            which = f"the peak of an {self.device.name} (16 bits: {self.device.half / 1e12:g} TFLOP/s)"
            which += ", taken because none is here or named" if self.assumed else ""
        return [
            f"Times are estimates from {self.efficiency:.0%} of {which}; --measure times this machine instead."
        ]
