"""One bar for the whole run on a terminal; now and then a plain line where the output is a file or a pipe.

Built on `rich.progress` and not on Lightning's RichProgressBar: that one reads every shown metric off the device after
every step, which makes the host wait for a GPU, and draws an empty bar into log files. Values are read twice a second.
"""

from __future__ import annotations

import time
from typing import Any, final

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SHOWN = (
    ("train/loss", "loss {:.4f}"),
    ("train/accuracy", "accuracy {:.3f}"),
    ("val/accuracy", "val accuracy {:.3f}"),
    ("train/tokens_per_second", "{:,.0f} tokens/s"),
)


@final
class RunProgress(ProgressBar):
    """Shows step, loss, accuracy and tokens/s.

    every_seconds: time between two lines where standard output is not a terminal (0 = none).
    """

    def __init__(self, every_seconds: float = 30.0) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self._enabled = True
        self._console = Console()
        self._bar: Progress | None = None
        self._steps, self._validation = TaskID(0), TaskID(1)
        self._shown_at = 0.0

    def disable(self) -> None:
        """Shows nothing from now on; Lightning calls it on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Shows again."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints above the bar."""
        if self._enabled:
            self._console.print(*args, markup=False, highlight=False, **kwargs)

    def _text(self, trainer: L.Trainer) -> str:
        metrics = trainer.callback_metrics
        return "  ".join(form.format(float(metrics[name])) for name, form in SHOWN if name in metrics)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Opens the bar if there is a terminal."""
        self._shown_at = time.monotonic()
        if not (self._enabled and self._console.is_terminal):
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            expand=True,
        )
        total = _known(trainer.estimated_stepping_batches)
        self._steps = self._bar.add_task("training", total=total, completed=trainer.global_step, text="")
        self._validation = self._bar.add_task("validating", total=None, visible=False, text="")
        self._bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Moves the bar, or prints a line if it is time for one."""
        waited = time.monotonic() - self._shown_at
        if self._bar is not None:
            self._bar.update(self._steps, completed=trainer.global_step)
            if waited > 0.5:
                self._bar.update(self._steps, text=self._text(trainer))
                self._shown_at = time.monotonic()
        elif 0 < self.every_seconds < waited:
            self._line(trainer)

    def _line(self, trainer: L.Trainer) -> None:
        total = _known(trainer.estimated_stepping_batches)
        of = f"/{total}" if total else ""
        self.print(f"step {trainer.global_step}{of}  {self._text(trainer)}", soft_wrap=True)
        self._shown_at = time.monotonic()

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Shows how far validation is."""
        if self._bar is not None:
            total = _known(sum(trainer.num_val_batches))
            self._bar.reset(self._validation, total=total, visible=True, text="")

    def on_validation_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Moves the validation's bar."""
        if self._bar is not None:
            self._bar.advance(self._validation)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Hides the validation's bar and shows what it found."""
        if self._bar is not None:
            self._bar.update(self._validation, visible=False)
            self._bar.update(self._steps, text=self._text(trainer))
        elif self.every_seconds > 0 and not trainer.sanity_checking:
            self._line(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Leaves the finished bar on the screen."""
        if self._bar is not None:
            self._bar.update(self._steps, completed=trainer.global_step, text=self._text(trainer))
        self._close()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Gives the terminal back."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _known(total: float) -> int | None:
    return None if total == float("inf") else int(total)
