"""Rows of different length, one after the other, as two index tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def ragged(size_X: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
    """Returns (row, place within the row) of each of the sum(size_X) elements.

    total: that sum, where it is known; the device is asked for it otherwise, and the host waits.
    """
    row = torch.repeat_interleave(size_X, output_size=total)
    begin_X = size_X.cumsum(0) - size_X
    return row, torch.arange(row.numel(), device=size_X.device) - begin_X[row]
