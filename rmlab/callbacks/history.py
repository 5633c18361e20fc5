"""The curves of a run, kept in memory for the report: one list of (step, value) per name.

Training values are taken at the trainer's logging interval, so a GPU is asked only as often as a logger asks it;
validation values once per validation. The curves travel in the checkpoint, so a resumed run shows all of itself.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, final

import lightning as L
from lightning.pytorch.callbacks import Callback

from rmlab.callbacks.interval import due

Curves = dict[str, list[tuple[int, float]]]


@final
class History(Callback):
    """Collects everything logged under `train/` and `val/` into `curves`; values that are not finite are left out."""

    def __init__(self) -> None:
        self.curves: Curves = {}

    def _take(self, trainer: L.Trainer, prefix: str) -> None:
        for name, value in trainer.callback_metrics.items():
            if name.startswith(prefix) and isfinite(number := float(value)):
                self.curves.setdefault(name, []).append((trainer.global_step, number))

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Takes the training values at the logging interval."""
        if due(trainer):
            self._take(trainer, "train/")

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Takes the validation values, those of the sanity check left out."""
        if not trainer.sanity_checking:
            self._take(trainer, "val/")

    def state_dict(self) -> dict[str, Any]:
        """Returns the curves, for the checkpoint."""
        return {"curves": {name: [list(point) for point in points] for name, points in self.curves.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the checkpoint's curves."""
        self.curves = {name: [(step, value) for step, value in points] for name, points in state["curves"].items()}
