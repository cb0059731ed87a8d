"""The same rows in every process, so that copies of a bank stay equal in data-parallel training."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def processes() -> int:
    """How many processes train together; 1 without torch.distributed."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def gather_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Concatenates tensors over the processes, in the order of their ranks; every process gets the same.

    Args:
        tensors: each [n, ...] with the same n within a process. n may differ between processes and be 0; types and
            the other axes may not. Every process has to call.

    Returns:
        The tensors with [sum of n, ...]; in a single process the tensors as they are.
    """
    world = processes()
    if world == 1:
        return tensors
    count = torch.tensor([tensors[0].shape[0]], device=tensors[0].device)
    counts = [torch.empty_like(count) for _ in range(world)]
    distributed.all_gather(counts, count)
    sizes = [int(size) for size in counts]
    result = []
    for tensor in tensors:
        # all_gather needs one size for all: pad to the largest, then cut.
        padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
        padded[: tensor.shape[0]] = tensor
        parts = [torch.empty_like(padded) for _ in range(world)]
        distributed.all_gather(parts, padded)
        result.append(torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]))
    return tuple(result)


def from_first(tensor: Tensor) -> Tensor:
    """Gives every process the first one's tensor."""
    if processes() > 1:
        tensor = tensor.contiguous()
        distributed.broadcast(tensor, src=0)
    return tensor
