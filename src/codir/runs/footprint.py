"""What a pre-training takes up, in plain arithmetic: bytes of memory, disk and network.

Every function states its formula; `codir.runs.costs` has the setting that they read.
"""

from __future__ import annotations

from codir.models.vocabulary import chunk_of
from codir.runs.costs import Setting


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
    | queries, keys, values | 12 d | 6 d (12 d with attention's weights) |
    | attention's output | 4 d | 2 d |
    | sums before both norms (fp32) | 8 d | 8 d |
    | input of the feed-forward layer | 4 d | 2 d |
    | before and after its activation (f wide) | 8 f | 4 f |
    | two dropout masks | 2 d (CPU: 8 d) | 2 d (CPU: 4 d) |
    | the block's output, until it is pooled (fp32) | | 4 d |
    | attention's weights, where stored: before and after dropout, and its mask | 12 h L | 12 h L |
    """
    shape, narrow = setting.student, setting.precision != "fp32"
    d, f = shape.width, shape.intermediate
    masks = (4 if narrow else 8) if setting.cpu else 2
    kept = 24 * d + 4 * f if narrow else 32 * d + 8 * f
    if setting.pooled and narrow:
        kept += 4 * d
    if setting.stored_attention:
        kept += 12 * shape.heads * setting.block + (6 * d if narrow else 0)
    return kept + masks * d


def activation_bytes(setting: Setting, recompute: bool) -> int:
    """Activations of the student for one micro-batch of a process: its tokens x (5 d + blocks x bytes of a block).

    5 d (CPU: 8 d): sum and dropout mask of the embedding layer. With gradient checkpointing each
    block keeps its input (4 d), and only one block's activations exist at a time. In 16 bits the copies of the
    weights that autocast makes add 2 x weights. An estimate: temporary buffers are not in it. If only the head is
    trained, nothing is kept.
    """
    if setting.head_only:
        return 0
    shape, block = setting.student, block_activation_bytes(setting)
    inner = 4 * shape.width * shape.blocks + block if recompute else shape.blocks * block
    copies = 0 if setting.precision == "fp32" else 2 * shape.encoder_weights
    return setting.micro_tokens * ((8 if setting.cpu else 5) * shape.width + inner) + copies


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
    """One chunk of fp32 logits: at most 64 MiB on a GPU, 16 MiB on a CPU (`codir.models.vocabulary`).

    A loss holds a few of them at a time.
    """
    if not setting.tokens_predicted:
        return 0
    positions, vocabulary = round(setting.masked * setting.micro_tokens), setting.student.vocabulary
    return 4 * vocabulary * min(positions, chunk_of(vocabulary, "cpu" if setting.cpu else "cuda"))


def stock_logits_bytes(setting: Setting) -> int:
    """fp32 logits over all positions, which codir never has: 4 x micro-batch x L x V for each model."""
    models = int(setting.tokens_predicted) + int(setting.teacher_logits)
    return 4 * setting.micro_tokens * setting.student.vocabulary * models


def bank_bytes(setting: Setting) -> int:
    """N x m x bytes of a number; of a queue, its rows and their ids: rows x (4 m + 8). For each pair of blocks."""
    contrast = setting.contrast
    if contrast is None:
        return 0
    one = setting.blocks * contrast.dim * contrast.bank_item + contrast.queue * (4 * contrast.dim + 8)
    return contrast.pairs * one


def bank_place(setting: Setting, gpu_memory: int | None) -> str:
    """Where the bank lies: `gpu`, `cpu`, `disk`, `cpu or disk`, or nothing where there is none.

    `auto` is the rule of `codir.losses.bank_storage`: the GPU if the bank takes at most a quarter of its memory,
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
    return contrast.pairs * rows * (contrast.dim * contrast.bank_item + 8)


def network_bytes(setting: Setting) -> int:
    """What each of n processes sends in a step: its gradients once, 2 (n - 1) / n x 4 x trained (ring all-reduce).

    With the contrastive term also ids and embeddings of its blocks to the others: batch / n x (n - 1) x (4 m + 8).
    """
    n = setting.processes
    contrast = setting.contrast
    rows = contrast.pairs * setting.batch * (n - 1) * (4 * contrast.dim + 8) // n if contrast else 0
    return 2 * (n - 1) * 4 * setting.trained // n + rows
