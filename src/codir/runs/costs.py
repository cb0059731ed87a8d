"""What a step of pre-training computes, in plain arithmetic: the setting, its operations, the time they take.

Every function states its formula. Operations are those of matrix products, a multiplication and an addition each
(2 a b c for [a, b] x [b, c]), which is what a device's peak counts too; norms, activations and the optimiser are left
out. A backward pass is twice its forward: one product for the gradient of the input and one for that of the weights.
Blocks of text count as full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class ModelShape:
    """What the formulas need of a masked language model.

    Attributes:
        family: transformers' name of it.
        blocks: number of transformer blocks.
        width: hidden size d.
        heads: attention heads h.
        intermediate: width f of the feed-forward layer.
        vocabulary: V.
        parameters: all of them, tied ones once.
        embedding: those of the embedding layer, part of `parameters`.
        encoder_weights: numbers in the matrices that each token is multiplied with on its way through all blocks.
        head_weights: likewise in the head, before the product with the vocabulary.
        output_width: length of the vectors that are multiplied with the vocabulary.
        head_parameters: all parameters that belong to the head alone.
    """

    family: str
    blocks: int
    width: int
    heads: int
    intermediate: int
    vocabulary: int
    parameters: int
    embedding: int
    encoder_weights: int
    head_weights: int
    output_width: int
    head_parameters: int


@dataclass(frozen=True)
class Contrast:
    """The contrastive term.

    Attributes:
        dim: m, length of a projected representation.
        teacher_inputs: numbers that the teacher's projections read for an example, chosen blocks x width.
        student_inputs: likewise the student's.
        compared: rows that an anchor is compared with.
        through_negatives: whether the gradient also reaches the negatives.
        bank_item: bytes of one number in the memory bank; 0 without a bank.
        bank_storage: `auto`, `gpu`, `cpu` or `disk`.
        queue: rows of the queue; 0 without one.
        pairs: of blocks that have projections, negatives and a bank or queue each; 1 for all blocks together.
    """

    dim: int
    teacher_inputs: int
    student_inputs: int
    compared: int
    through_negatives: bool = False
    bank_item: int = 0
    bank_storage: str = "auto"
    queue: int = 0
    pairs: int = 1

    @property
    def parameters(self) -> int:
        """Both projections with their biases: m x (inputs + 1) each, of every pair."""
        return self.dim * (self.teacher_inputs + self.student_inputs + 2 * self.pairs)


@dataclass(frozen=True)
class Setting:
    """One stage of a pre-training.

    Attributes:
        student: what is trained.
        teacher: what runs beside it; None where no term of the loss needs it.
        block: L, tokens of a block.
        blocks: N, blocks of the corpus.
        batch: blocks of an optimiser step, over all processes.
        micro_batch: blocks that a process computes at a time.
        processes: one for each GPU.
        steps: optimiser steps.
        masked: share of the positions whose predictions are read: those to be predicted, or all (1).
        precision: of the matrix products; weights, gradients and optimiser are fp32 always.
        tokens_predicted: whether a term needs the student's logits (mlm, kd).
        teacher_logits: whether a term needs the teacher's (kd).
        pooled: whether a term needs the blocks' outputs (crd).
        contrast: of the term crd; None without it.
        recompute: gradient checkpointing: a block's activations are computed again in the backward pass.
        cpu: whether it is trained on a CPU, where a dropout mask has the type of what it masks.
        stored_attention: whether attention's weights [h, L, L] are kept for the backward pass, in fp32, as attention
            does that is not fused: on a CPU the one with dropout.
        head_only: whether only the head is trained.
        kept: checkpoints kept.
        save_every: steps between them.
    """

    student: ModelShape
    teacher: ModelShape | None
    block: int
    blocks: int
    batch: int
    micro_batch: int
    processes: int
    steps: int
    masked: float
    precision: Precision
    tokens_predicted: bool = True
    teacher_logits: bool = False
    pooled: bool = False
    contrast: Contrast | None = None
    recompute: bool = False
    cpu: bool = False
    stored_attention: bool = False
    head_only: bool = False
    kept: int = 2
    save_every: int = 500

    @property
    def tokens(self) -> int:
        """Tokens of a step: batch x L."""
        return self.batch * self.block

    @property
    def positions(self) -> int:
        """P, positions of a step that are predicted: masked x tokens."""
        return round(self.masked * self.tokens)

    @property
    def micro_tokens(self) -> int:
        """Tokens that a process computes at a time: micro-batch x L."""
        return self.micro_batch * self.block

    @property
    def accumulation(self) -> int:
        """Micro-batches of a process in a step: batch / (micro-batch x processes)."""
        return self.batch // (self.micro_batch * self.processes)

    @property
    def epochs(self) -> float:
        """Passes over the corpus: steps x batch / N."""
        return self.steps * self.batch / self.blocks

    @property
    def trained(self) -> int:
        """Parameters with a gradient: the student's (or its head's) and both projections'."""
        student = self.student.head_parameters if self.head_only else self.student.parameters
        return student + (self.contrast.parameters if self.contrast else 0)


def attention_flops(shape: ModelShape, tokens: int, length: int) -> int:
    """Scores and weighted values, the part that is quadratic in L: 2 x 2 x tokens x L x d for each block."""
    return 4 * tokens * length * shape.width * shape.blocks


def encoder_flops(shape: ModelShape, tokens: int, length: int) -> int:
    """One forward pass through all blocks: 2 x tokens x weights, and attention.

    A block of BERT has 4 d^2 + 2 d f weights in its matrices.
    """
    return 2 * tokens * shape.encoder_weights + attention_flops(shape, tokens, length)


def head_flops(shape: ModelShape, positions: int) -> int:
    """One forward pass of the head: 2 x positions x (its own weights + output width x V)."""
    return 2 * positions * (shape.head_weights + shape.output_width * shape.vocabulary)


def pooling_flops(shape: ModelShape, tokens: int) -> int:
    """Means over the tokens of every block (Eq. 3), as one product each: 2 x tokens x d x blocks."""
    return 2 * tokens * shape.width * shape.blocks


def projection_flops(contrast: Contrast, examples: int) -> int:
    """Forward and backward of both projections: 2 x examples x m x (2 x teacher's inputs + 3 x student's inputs).

    The teacher's takes no gradient of its inputs, so it has one product less.
    """
    return 2 * examples * contrast.dim * (2 * contrast.teacher_inputs + 3 * contrast.student_inputs)


def contrast_flops(contrast: Contrast, examples: int) -> int:
    """Forward and backward of the similarities (Eq. 4): 2 x 2 x examples x rows compared x m, for each pair.

    Rows of a bank or a queue take no gradient; live negatives that do add a third product.
    """
    products = 3 if contrast.through_negatives else 2
    return 2 * examples * contrast.compared * contrast.dim * products * contrast.pairs


@dataclass(frozen=True)
class StepFlops:
    """Operations of one optimiser step over all processes; what is not done is 0.

    Attributes:
        student_forward: the student's blocks.
        student_backward: their backward pass, twice that (none if only the head is trained).
        recomputed: their second forward pass, with gradient checkpointing.
        student_head: the student's head at the masked positions, forward and backward. If it alone is trained its
            input has no gradient and the vocabulary's matrix, which belongs to the encoder, neither: one product less.
        teacher_forward: the teacher's blocks.
        teacher_head: its head at the masked positions.
        contrast: pooling, projections and similarities.
        attention: the quadratic part of the blocks, already in them.
        stock_heads: what both heads would take over all positions, as transformers' models compute them.
    """

    student_forward: int
    student_backward: int
    recomputed: int
    student_head: int
    teacher_forward: int
    teacher_head: int
    contrast: int
    attention: int
    stock_heads: int

    @property
    def model(self) -> int:
        """All but what is computed twice: by this, model-FLOPs utilisation is counted."""
        student = self.student_forward + self.student_backward + self.student_head
        return student + self.teacher_forward + self.teacher_head + self.contrast

    @property
    def total(self) -> int:
        """What is computed in a step."""
        return self.model + self.recomputed

    @property
    def stock(self) -> int:
        """The same with the heads over all positions."""
        return self.total - self.student_head - self.teacher_head + self.stock_heads


def step_flops(setting: Setting) -> StepFlops:
    """Adds up one optimiser step; see `StepFlops` and the functions above."""
    tokens, length, student, teacher = setting.tokens, setting.block, setting.student, setting.teacher
    forward = encoder_flops(student, tokens, length)
    passes = 1 if setting.head_only else 3  # forward, and twice that backward
    recomputed = setting.recompute and not setting.head_only
    student_head = teacher_head = stock_heads = contrast = 0
    if setting.tokens_predicted:
        products = 2 if setting.head_only else 3
        student_head = products * head_flops(student, setting.positions)
        stock_heads = products * head_flops(student, tokens)
    if teacher is not None and setting.teacher_logits:
        teacher_head = head_flops(teacher, setting.positions)
        stock_heads += head_flops(teacher, tokens)
    if setting.pooled:
        # the gradient of a mean goes back to every token: as many products as forward
        contrast += 2 * pooling_flops(student, tokens) + (pooling_flops(teacher, tokens) if teacher else 0)
    if setting.contrast is not None:
        contrast += projection_flops(setting.contrast, setting.batch)
        contrast += contrast_flops(setting.contrast, setting.batch)
    return StepFlops(
        student_forward=forward,
        student_backward=(passes - 1) * forward,
        recomputed=forward if recomputed else 0,
        student_head=student_head,
        teacher_forward=encoder_flops(teacher, tokens, length) if teacher else 0,
        teacher_head=teacher_head,
        contrast=contrast,
        attention=(passes + recomputed) * attention_flops(student, tokens, length)
        + (attention_flops(teacher, tokens, length) if teacher else 0),
        stock_heads=stock_heads,
    )


def seconds_per_step(setting: Setting, peak: float, efficiency: float) -> float:
    """Operations of a step / (processes x peak operations a second x efficiency); the network is not in it."""
    return step_flops(setting).total / (setting.processes * peak * efficiency)
