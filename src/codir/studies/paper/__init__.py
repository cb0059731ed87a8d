"""The paper's tables as data: their figures, and how each row is made here, at the paper's scale and at a small one."""
