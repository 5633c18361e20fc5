"""The callback that writes `report.html` at the end of training."""

from __future__ import annotations

from pathlib import Path
from typing import final

import lightning as L
from lightning.pytorch.callbacks import Callback

from rmlab.callbacks.assemble import report_data
from rmlab.report.render import render


@final
class WriteReport(Callback):
    """Writes `report.html` into `folder` (the trainer's root directory unless given).

    Must stand after `Throughput` and `History` in the list of callbacks; without `History` the page has no curves.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = folder

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Writes the page, once for all ranks."""
        if trainer.is_global_zero:
            folder = Path(self.folder or trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "report.html").write_text(render(report_data(trainer, module, folder)), encoding="utf-8")
