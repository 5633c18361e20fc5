"""`profile=true`: where a step's time goes, and its MFU.

First steps warm up. Then some run as always, and their pace is what counts: useful FLOPs of their distinct tokens a
second, over the rate at which this machine multiplies matrices of the model's shapes in the run's precision, measured
right after. Then as many run under a clock that splits them into sections. The table and `profile.json` say both.

Left out: validation, checkpoints and the model. A profile is not a run to keep.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, final

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table
from torch.utils.hooks import RemovableHandle

from rmlab.batch import Batch, StepOfBatches
from rmlab.callbacks.clock import BACKWARD, CLIP, HEAD, LOADER, LOSS, OPTIMIZER, OTHER, Clock, rows_of, watch_backbone
from rmlab.model.backbone import Backbone
from rmlab.model.flops import Cost, Work, cost_of, matmul_rate, matrix_shapes
from rmlab.module import RewardModule

WARM_UP, MEASURED = 4, 10  # steps; `MEASURED` run free and as many under the clock
STEPS = WARM_UP + 2 * MEASURED


@final
class Profile(Callback):
    """Measures steps `WARM_UP` to `STEPS` and reports at the end. Needs a run of `STEPS` steps.

    folder: where `profile.json` goes. Afterwards `report` holds what it says.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.report: dict[str, Any] = {}
        self._steps: list[StepOfBatches] = []
        self._begin = self._seconds = 0.0
        self._clock: Clock | None = None
        self._parts: list[dict[str, Any]] = []
        self._handles: list[RemovableHandle] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int) -> None:
        """The data has come: what was waiting is now the step."""
        if self._clock is not None:
            self._clock.turn(OTHER)

    def on_before_backward(self, *_: Any) -> None:
        """The backward pass begins."""
        if self._clock is not None:
            self._clock.enter(BACKWARD)

    def on_after_backward(self, *_: Any) -> None:
        """After the last backward pass of a step comes clipping; another micro-batch would turn this around."""
        if self._clock is not None:
            self._clock.leave()
            self._clock.turn(CLIP)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, step: StepOfBatches, index: int
    ) -> None:
        """Goes from warming up to measuring free steps, and from those to the clock."""
        done = trainer.global_step
        if self._clock is not None:
            self._clock.turn(LOADER)
            self._parts = rows_of(self._clock.seconds, done - WARM_UP - MEASURED)
            return
        if WARM_UP < done <= WARM_UP + MEASURED:
            self._steps.append(step)
        if done in (WARM_UP, WARM_UP + MEASURED):
            now = _now(module.device)
            self._begin, self._seconds = now, now - self._begin
        if done == WARM_UP + MEASURED:
            self._start_clock(trainer, module)

    def _start_clock(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, RewardModule)
        clock = self._clock = Clock(module.device)
        optimizer = trainer.optimizers[0]
        self._handles = [
            *watch_backbone(clock, module.backbone),
            *clock.watch(module.readout, HEAD),
            *clock.watch(module.head, HEAD),
            *clock.watch(module.loss, LOSS),
            module.register_forward_pre_hook(lambda *_: clock.turn(OTHER)),
            optimizer.register_step_pre_hook(lambda *_: clock.turn(OPTIMIZER)),
            optimizer.register_step_post_hook(lambda *_: clock.turn(OTHER)),
        ]
        clock.turn(LOADER)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Counts, measures the machine, prints the table and writes `profile.json`; the first rank speaks for all."""
        assert isinstance(module, RewardModule)
        for handle in self._handles:
            handle.remove()
        dtype = torch.bfloat16 if "bf16" in str(trainer.precision) else torch.float32
        if trainer.is_global_zero:
            self.report = self._measured(module, dtype) | {"parts": self._parts}
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "profile.json").write_text(json.dumps(self.report, indent=2) + "\n")
            Console().print(table(self.report))
        trainer.strategy.barrier()

    def _measured(self, module: RewardModule, dtype: torch.dtype) -> dict[str, Any]:
        assert isinstance(module.backbone, Backbone)
        batches = [batch for step in self._steps for batch in step.batches]
        work = useful_work(module, batches)
        tokens = sum(batch.tokens for batch in batches)
        rate = matmul_rate(
            matrix_shapes(module.backbone.model),
            tokens=max(1, tokens // len(batches)),
            dtype=dtype,
            device=module.device,
        )
        return {
            "steps": MEASURED,
            "step_ms": 1000 * self._seconds / MEASURED,
            "micro_batches_per_step": len(batches) / MEASURED,
            "tokens_per_second": tokens / self._seconds,
            "useful_gflops_per_step": work.total / MEASURED / 1e9,
            "useful_gflops_per_second": work.total / self._seconds / 1e9,
            "matmul_gflops_per_second": rate / 1e9,
            "mfu": work.total / self._seconds / rate,
        }


def useful_work(module: RewardModule, batches: list[Batch]) -> Work:
    """Returns the useful work of a forward and backward pass over some batches, without what a cache spared them."""
    assert isinstance(module.backbone, Backbone)
    cost = cost_of(module.backbone, (module.readout, module.head))
    total = Work(forward=0.0, backward=0.0)
    for batch in batches:
        total = total + _work(cost, batch, len(module.loss.positions(batch)), module.backbone)
    return total


def _work(cost: Cost, batch: Batch, reads: int, backbone: Backbone) -> Work:
    if batch.read_ND is not None:
        return cost.read.times(reads)
    work = cost.of(batch, reads)
    if batch.trunk_TD is None:
        return work
    run = 1 - backbone.frozen / len(cost.windows)  # layers are alike, and the frozen ones have no backward pass
    return Work(
        forward=(work.forward - cost.read.forward * reads) * run + cost.read.forward * reads, backward=work.backward
    )


def table(report: dict[str, Any]) -> Table:
    """Returns the profile as a table."""
    made = Table(title="where a step's time goes", title_justify="left")
    made.add_column("part")
    made.add_column("ms a step", justify="right")
    made.add_column("share", justify="right")
    for row in report["parts"]:
        made.add_row(row["part"], f"{row['ms']:,.1f}", f"{row['share']:.1%}")
    made.add_section()
    for name, value in (
        ("a step, undisturbed", f"{report['step_ms']:,.1f}"),
        ("tokens/s", f"{report['tokens_per_second']:,.0f}"),
        ("useful GFLOP a step", f"{report['useful_gflops_per_step']:,.2f}"),
        ("useful GFLOP/s", f"{report['useful_gflops_per_second']:,.1f}"),
        ("matrix products here, GFLOP/s", f"{report['matmul_gflops_per_second']:,.1f}"),
        ("MFU", f"{report['mfu']:.1%}"),
    ):
        made.add_row(name, value, "")
    return made


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
