"""Learning-rate schedules: warm-up, then linear or cosine decay to zero, or constant."""

from __future__ import annotations

from math import cos, pi
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rmlab.errors import UsageError

SHAPES = {
    "linear": lambda t: 1 - t,
    "cosine": lambda t: 0.5 * (1 + cos(pi * t)),
    "constant": lambda t: 1.0,
}


def warmup_schedule(
    optimizer: Optimizer, steps: int, *, shape: Literal["linear", "cosine", "constant"], warmup: float
) -> LambdaLR:
    """Returns a schedule over `steps` optimizer steps: up to the full rate over the share `warmup`, then `shape`.

    Raises `UsageError` for an unknown shape or a share outside [0, 1).
    """
    if shape not in SHAPES:
        raise UsageError(f"optim.schedule={shape} does not exist; type one of {', '.join(SHAPES)}")
    if not 0 <= warmup < 1:
        raise UsageError(f"optim.warmup is {warmup}, expected a share of the steps in [0, 1)")
    rising = round(warmup * steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return SHAPES[shape](min(1.0, (step - rising) / max(1, steps - rising)))

    return LambdaLR(optimizer, factor)
