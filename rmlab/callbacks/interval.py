"""When a value is worth reading off the device: as often as Lightning's own loggers do, and no more."""

from __future__ import annotations

import lightning as L


def due(trainer: L.Trainer) -> bool:
    """Returns whether the step just done is one that loggers get (`trainer.log_every_n_steps`; 0 = never)."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and trainer.global_step % every == 0
