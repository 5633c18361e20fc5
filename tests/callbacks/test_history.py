"""The curves hold what was logged, when it was logged."""

from pathlib import Path
from typing import Any

import lightning as L
import torch

from rmlab.callbacks.history import History
from tests.tiny_run import TinyData, tiny_module, trainer


class Losses(L.Callback):
    """The loss of every step, and the step at which each validation ended."""

    def __init__(self) -> None:
        self.loss: dict[int, float] = {}
        self.validated: list[int] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.loss[trainer.global_step] = float(outputs["loss"])

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validated.append(trainer.global_step)


def test_every_second_loss_and_every_validation(tmp_path: Path) -> None:
    history, losses = History(), Losses()
    fit = trainer(tmp_path, [history, losses])
    fit.fit(tiny_module(), TinyData())
    assert history.curves["train/loss"] == [(step, losses.loss[step]) for step in (2, 4, 6, 8, 10, 12)]
    assert [step for step, _ in history.curves["val/accuracy"]] == losses.validated == [6, 12]  # not the sanity check
    assert history.curves["val/nll"][-1][1] == float(fit.callback_metrics["val/nll"])


def test_the_checkpoint_carries_the_curves(tmp_path: Path) -> None:
    history = History()
    fit = trainer(tmp_path, [history])
    fit.fit(tiny_module(), TinyData())
    fit.save_checkpoint(tmp_path / "a.ckpt")
    resumed = History()
    whole = trainer(tmp_path, [resumed], max_epochs=2)
    whole.fit(tiny_module(), TinyData(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert resumed.curves["train/loss"][:6] == history.curves["train/loss"]
    assert [step for step, _ in resumed.curves["train/loss"]] == list(range(2, 25, 2))


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    history, module = History(), tiny_module()
    fit = trainer(tmp_path, [history], limit_val_batches=0)
    module.on_train_batch_end = lambda *_: module.log("train/odd", torch.tensor(float("nan")), batch_size=1)  # type: ignore[method-assign]
    fit.fit(module, TinyData())
    assert "train/odd" in fit.callback_metrics
    assert "train/odd" not in history.curves
