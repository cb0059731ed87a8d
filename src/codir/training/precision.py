"""Which number format training uses: what was asked for, or the fastest the hardware computes natively."""

from __future__ import annotations

from typing import Literal

import torch

from codir.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def cpu_has_bf16() -> bool:
    """Returns whether this CPU multiplies bf16 matrices natively (AMX or AVX512-BF16)."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def resolve_precision(asked: Precision) -> Literal["fp32", "bf16", "fp16"]:
    """Turns `auto` into bf16 where the GPU or the CPU has it, and fp32 elsewhere.

    Weights, gradients and optimiser stay in fp32 in each case; bf16 and fp16 mean autocast.

    Raises:
        ConfigError: fp16 was asked for without a GPU.
    """
    cuda = torch.cuda.is_available()
    if asked == "fp16" and not cuda:
        raise ConfigError("precision fp16 needs a GPU; on this machine use bf16, fp32 or auto.")
    if asked != "auto":
        return asked
    return "bf16" if (torch.cuda.is_bf16_supported() if cuda else cpu_has_bf16()) else "fp32"
