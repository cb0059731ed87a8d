"""The same rows in every process, so that copies of a bank stay equal in data-parallel training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def processes() -> int:
    """How many processes train together; 1 without torch.distributed."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def gather_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Concatenates tensors over the processes, in the order of their ranks; every process gets the same.

    Each tensor is [n, ...] with the same n within a process. n may differ between processes and be 0; types and the
    other axes may not. Every process has to call. What comes back is [sum of n, ...]; in a single process the tensors
    as they are.
    """
    world = processes()
    if world == 1:
        return tensors
    sizes = _sizes(tensors[0], world)
    return tuple(_gather(tensor, sizes) for tensor in tensors)


def gather_with_grad(tensor: Tensor) -> Tensor:
    """Concatenates a tensor over the processes as `gather_rows` does, and passes the gradient back to its rows.

    Data-parallel training averages the gradients of the W processes, each of which differentiates the mean loss L_r of
    its own anchors. A row h of process q takes part in all of them, so the gradient of the mean over all anchors is

        (1/W) sum_r dL_r/dh.

    Backward sums dL_r/dh over the processes r and gives each process its own rows. Through h the process q then holds
    (sum_r dL_r/dh) dh/dw, the other processes hold nothing, and the average over the W of them is the gradient of one
    process that has the whole batch: neither W nor 1/W is missing here. (Where processes have different numbers of
    anchors, the mean of their means is not the mean over all: that is so for every term of the loss.)

    Every process has to call, and has to run the backward pass if one does.
    """
    return tensor if processes() == 1 else _GatherWithGrad.apply(tensor)


class _GatherWithGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        sizes = _sizes(tensor, processes())
        rank = distributed.get_rank()
        ctx.start, ctx.count = sum(sizes[:rank]), sizes[rank]
        return _gather(tensor, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)  # a sum; gloo has no reduce_scatter
        return total[ctx.start : ctx.start + ctx.count]


def _sizes(tensor: Tensor, world: int) -> list[int]:
    count = torch.tensor([tensor.shape[0]], device=tensor.device)
    counts = [torch.empty_like(count) for _ in range(world)]
    distributed.all_gather(counts, count)
    return [int(size) for size in counts]


def _gather(tensor: Tensor, sizes: list[int]) -> Tensor:
    # all_gather needs one size for all: pad to the largest, then cut.
    padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
    padded[: tensor.shape[0]] = tensor
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def align_generator(generator: torch.Generator) -> None:
    """Gives every process's generator the state of the first one's, after draws that may have differed in number."""
    if processes() > 1:
        generator.set_state(from_first(generator.get_state().to(wire())).cpu())


def from_first(tensor: Tensor) -> Tensor:
    """Gives every process the first one's tensor."""
    if processes() > 1:
        tensor = tensor.contiguous()
        distributed.broadcast(tensor, src=0)
    return tensor


def wire() -> torch.device:
    """Where tensors must lie to be sent to other processes: on the GPU for NCCL."""
    nccl = "nccl" in str(distributed.get_backend())
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
