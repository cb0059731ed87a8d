"""How alike teacher and student represent the validation examples, block by block."""

from __future__ import annotations

import torch

from codir.models.representations import Pooling
from codir.reports.cka import linear_cka_of_blocks
from codir.reports.contents import BlockSimilarity
from codir.reports.outputs import Outputs


def similarity(student: Outputs, teacher: Outputs, pooling: Pooling = "mean") -> BlockSimilarity:
    """Returns the linear CKA of every block of the student with every block of the teacher.

    Raises:
        ValueError: fewer than two examples.
    """
    ours, theirs = (torch.from_numpy(each.pooled[pooling]) for each in (student, teacher))
    values = linear_cka_of_blocks(ours, theirs).numpy()
    return BlockSimilarity(student.name, teacher.name, values, len(ours), pooling)
