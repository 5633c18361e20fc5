"""Checkpoints that always load: written under a temporary name, flushed to disk, then renamed.

`last.ckpt` is renewed every `every_steps` steps, at the end of an epoch and when the user stops the run. A run that is
killed at any moment leaves the previous one whole. Weights that a loss which is not finite has spoilt are never saved.
Left out: a top-k by a metric; one epoch has one end, and the validation curve is in the report.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, final

import lightning as L
import torch

from rmlab.errors import RunError


@final
class Checkpoint(L.Callback):
    """Keeps `FOLDER/last.ckpt`.

    folder: where. every_steps: optimizer steps between two saves (0 = only at the ends of epochs). Raises `RunError`
    if the disk does not take it; the previous checkpoint stays as it was.
    """

    def __init__(self, folder: str | Path, every_steps: int = 200) -> None:
        self.folder, self.every_steps = Path(folder), every_steps
        self._saved_at = -1

    @property
    def last(self) -> Path:
        """Returns the path of the newest checkpoint."""
        return self.folder / "last.ckpt"

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = self.every_steps > 0 and trainer.global_step % self.every_steps == 0
        if due and bool(torch.isfinite(outputs["loss"])):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Saves when the user interrupts; after any other failure the last good checkpoint is left alone."""
        if not isinstance(exception, KeyboardInterrupt):
            return
        if trainer.global_step > self._saved_at:
            self.save(trainer)
        if trainer.is_global_zero:
            again = " ".join(arg for arg in sys.argv if not arg.startswith(("hydra.run.dir=", "ckpt_path=")))
            print(
                f"\nstopped at step {trainer.global_step}; to go on, type: "
                f"python {again} hydra.run.dir={self.folder.parent} ckpt_path=last",
                flush=True,
            )

    def save(self, trainer: L.Trainer) -> None:
        """Writes `last.ckpt`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / ".writing.ckpt"
        try:
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                _flush(temporary)
                os.replace(temporary, self.last)
                _flush(self.folder)
        except OSError as error:
            raise RunError(
                f"{temporary}: the checkpoint could not be written ({error.strerror or error}); "
                f"{self.last} is the one before it"
            ) from error
        self._saved_at = trainer.global_step


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
