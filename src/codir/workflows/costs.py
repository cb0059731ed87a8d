"""What a step of pre-training takes, in plain arithmetic: operations, bytes, and how each grows.

Every function states its formula. Operations are those of matrix products, a multiplication and an addition each
(2 a b c for [a, b] x [b, c]), which is what a device's peak counts too; norms, activations and the optimiser are left
out. A backward pass is twice its forward: one product for the gradient of the input and one for that of the weights.
Blocks of text count as full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]

LOGITS_CHUNK = 1 << 26  # bytes of fp32 logits that exist at a time, `codir.functional.vocabulary`


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
        teacher_inputs: numbers that the teacher's projection reads for an example, chosen blocks x width.
        student_inputs: likewise the student's.
        compared: rows that an anchor is compared with.
        through_negatives: whether the gradient also reaches the negatives.
        bank_item: bytes of one number in the memory bank; 0 without a bank.
        bank_storage: `auto`, `gpu`, `cpu` or `disk`.
        queue: rows of the queue; 0 without one.
    """

    dim: int
    teacher_inputs: int
    student_inputs: int
    compared: int
    through_negatives: bool = False
    bank_item: int = 0
    bank_storage: str = "auto"
    queue: int = 0

    @property
    def parameters(self) -> int:
        """Both projections with their biases: m x (inputs + 1) each."""
        return self.dim * (self.teacher_inputs + self.student_inputs + 2)


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
        masked: share of the positions that are predicted.
        precision: of the matrix products; weights, gradients and optimiser are fp32 always.
        tokens_predicted: whether a term needs the student's logits (mlm, kd).
        teacher_logits: whether a term needs the teacher's (kd).
        pooled: whether a term needs the blocks' outputs (crd).
        contrast: of the term crd; None without it.
        recompute: gradient checkpointing: a block's activations are computed again in the backward pass.
        stored_attention: whether attention's weights [h, L, L] are kept for the backward pass, as attention does that
            is not fused: on a CPU the one with dropout.
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


# ---- operations ------------------------------------------------------------------------------------------------------


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
    """Forward and backward of the similarities (Eq. 4): 2 x 2 x examples x rows compared x m.

    Rows of a bank or a queue take no gradient; live negatives that do add a third product.
    """
    return 2 * examples * contrast.compared * contrast.dim * (3 if contrast.through_negatives else 2)


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


# ---- bytes -----------------------------------------------------------------------------------------------------------


def weights_bytes(setting: Setting) -> int:
    """Student, projections and teacher in fp32: 4 x parameters."""
    projections = setting.contrast.parameters if setting.contrast else 0
    teacher = setting.teacher.parameters if setting.teacher else 0
    return 4 * (setting.student.parameters + projections + teacher)


def gradient_bytes(setting: Setting) -> int:
    """4 x trained parameters."""
    return 4 * setting.trained


def adam_bytes(setting: Setting) -> int:
    """Both moments in fp32: 8 x trained parameters."""
    return 8 * setting.trained


def block_activation_bytes(setting: Setting) -> int:
    """Bytes that one block of the student keeps for its backward pass, for one token. An estimate.

    For blocks as BERT's (a number is d wide unless said otherwise):

    | kept | fp32 | 16 bits |
    |---|---|---|
    | inputs of the query, key and value maps | 4 d | 6 d, a copy for each |
    | queries, keys, values | 12 d | 6 d |
    | attention's output | 4 d | 2 d |
    | sums before both norms (fp32) | 8 d | 8 d |
    | input of the feed-forward layer | 4 d | 2 d |
    | before and after its activation (f wide) | 8 f | 4 f |
    | two dropout masks | 2 d | 2 d |
    | the block's output, where it is pooled (fp32) | | 4 d |
    | attention's weights, where stored: before and after dropout, and its mask | 12 h L | 6 h L |
    """
    shape, narrow = setting.student, setting.precision != "fp32"
    d, f = shape.width, shape.intermediate
    kept = 26 * d + 4 * f if narrow else 34 * d + 8 * f
    if setting.pooled and narrow:
        kept += 4 * d
    if setting.stored_attention:
        kept += (6 if narrow else 12) * shape.heads * setting.block
    return kept


def activation_bytes(setting: Setting, recompute: bool) -> int:
    """Activations of the student for one micro-batch of a process: its tokens x (5 d + blocks x bytes of a block).

    5 d: sum and dropout mask of the embedding layer. With gradient checkpointing each block keeps its input (4 d), and
    only one block's activations exist at a time. In 16 bits the copies of the weights that autocast makes add 2 x
    weights. An estimate: temporary buffers are not in it. If only the head is trained, nothing is kept.
    """
    if setting.head_only:
        return 0
    shape, block = setting.student, block_activation_bytes(setting)
    inner = 4 * shape.width * shape.blocks + block if recompute else shape.blocks * block
    copies = 0 if setting.precision == "fp32" else 2 * shape.encoder_weights
    return setting.micro_tokens * (5 * shape.width + inner) + copies


def head_bytes(setting: Setting) -> int:
    """The head of one micro-batch: 24 d x its masked positions, and 4 x V x output width.

    The second is the gradient of the output embedding, which is summed up beside the one that is there already.
    """
    if not setting.tokens_predicted:
        return 0
    shape, positions = setting.student, round(setting.masked * setting.micro_tokens)
    return 24 * shape.width * positions + (
        0 if setting.head_only else 4 * shape.vocabulary * shape.output_width
    )


def teacher_activation_bytes(setting: Setting) -> int:
    """What the teacher's forward pass leaves until it is pooled: tokens of a micro-batch x 4 d x blocks.

    Without pooling about two blocks' worth exists at a time. It is over before the student's pass begins.
    """
    if setting.teacher is None:
        return 0
    kept = setting.teacher.blocks if setting.pooled else 2
    return 4 * setting.micro_tokens * setting.teacher.width * kept


def logits_bytes(setting: Setting) -> int:
    """One chunk of fp32 logits: at most 64 MiB (but 16 positions at least). A loss holds a few of them at a time."""
    if not setting.tokens_predicted:
        return 0
    positions, vocabulary = round(setting.masked * setting.micro_tokens), setting.student.vocabulary
    return 4 * vocabulary * min(positions, max(16, LOGITS_CHUNK // (4 * vocabulary)))


def stock_logits_bytes(setting: Setting) -> int:
    """fp32 logits over all positions, which codir never has: 4 x micro-batch x L x V for each model."""
    models = int(setting.tokens_predicted) + int(setting.teacher_logits)
    return 4 * setting.micro_tokens * setting.student.vocabulary * models


def bank_bytes(setting: Setting) -> int:
    """N x m x bytes of a number; of a queue, its rows and their ids: rows x (4 m + 8)."""
    contrast = setting.contrast
    if contrast is None:
        return 0
    return setting.blocks * contrast.dim * contrast.bank_item + contrast.queue * (4 * contrast.dim + 8)


def bank_place(setting: Setting, gpu_memory: int | None) -> str:
    """Where the bank lies: `gpu`, `cpu`, `disk`, `cpu or disk`, or nothing where there is none.

    `auto` is the rule of `codir.objectives.bank_storage`: the GPU if the bank takes at most a quarter of its memory,
    else the CPU's memory if it takes at most a quarter of a process's share of it (each holds a copy), else the disk.

    Args:
        setting: the stage.
        gpu_memory: bytes; None for a training on the CPU.
    """
    contrast = setting.contrast
    if contrast is None or not contrast.bank_item:
        return ""
    if contrast.bank_storage != "auto":
        return contrast.bank_storage
    return "gpu" if gpu_memory is not None and bank_bytes(setting) <= gpu_memory / 4 else "cpu or disk"


def memory_bytes(setting: Setting, gpu_memory: int | None) -> int:
    """All that a process holds at its fullest moment on the device; of the logits two chunks for each model.

    A bank in CPU memory counts where the training is on the CPU.
    """
    student = activation_bytes(setting, setting.recompute) + head_bytes(setting)
    logits = 2 * logits_bytes(setting) * (1 + int(setting.teacher_logits))
    places = ("cpu", "cpu or disk") if gpu_memory is None else ("gpu",)
    bank = bank_bytes(setting) if bank_place(setting, gpu_memory) in places else 0
    fixed = weights_bytes(setting) + gradient_bytes(setting) + adam_bytes(setting)
    return fixed + max(student + logits, teacher_activation_bytes(setting)) + bank


def corpus_bytes(setting: Setting) -> int:
    """N x (4 L + 12): tokens, an offset and the document's number."""
    return setting.blocks * (4 * setting.block + 12)


def checkpoint_bytes(setting: Setting, bank_on_disk: bool) -> int:
    """Weights (4 x parameters), Adam (8 x trained), and the bank unless it is on disk."""
    projections = setting.contrast.parameters if setting.contrast else 0
    weights = 4 * (setting.student.parameters + projections)
    return weights + adam_bytes(setting) + (0 if bank_on_disk else bank_bytes(setting))


def undo_bytes(setting: Setting) -> int:
    """The logs by which a bank on disk goes back to a checkpoint: rows written since the oldest one that is kept.

    batch x steps between checkpoints x (checkpoints kept + 1) x (m x bytes of a number + 8).
    """
    contrast = setting.contrast
    if contrast is None or not contrast.bank_item:
        return 0
    rows = setting.batch * min(setting.save_every * (setting.kept + 1), setting.steps)
    return rows * (contrast.dim * contrast.bank_item + 8)


def network_bytes(setting: Setting) -> int:
    """What each of n processes sends in a step: its gradients once, 2 (n - 1) / n x 4 x trained (ring all-reduce).

    With the contrastive term also ids and embeddings of its blocks to the others: batch / n x (n - 1) x (4 m + 8).
    """
    n = setting.processes
    rows = setting.batch * (n - 1) * (4 * setting.contrast.dim + 8) // n if setting.contrast else 0
    return 2 * (n - 1) * 4 * setting.trained // n + rows
