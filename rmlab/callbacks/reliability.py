"""The callback that logs the reliability diagram as a picture after each validation, to loggers that take pictures."""

from __future__ import annotations

from typing import final

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger

from rmlab.callbacks.assemble import read_off
from rmlab.metrics.collection import Metrics
from rmlab.report.plots import reliability_figure


@final
class ReliabilityPicture(Callback):
    """Logs `val/reliability` to W&B; does nothing for other loggers (the report has the diagram too)."""

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Draws and logs."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if trainer.sanity_checking or not (loggers and trainer.is_global_zero):
            return
        metrics: Metrics = module.metrics  # type: ignore[assignment]
        read = read_off(metrics.judgements())
        figure = reliability_figure(read["confidence_J"], read["correct_J"])
        for logger in loggers:
            logger.log_image("val/reliability", [figure], step=trainer.global_step)
