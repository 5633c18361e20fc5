"""A real training run in a tenth of a second: random tokens, an embedding for a backbone, Lightning's trainer.

The model can learn: token ids are rewards (higher ids are preferred), so a run has right and wrong pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import nan
from pathlib import Path
from random import Random
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from rmlab.batch import Batch, StepOfBatches
from rmlab.data.account import Account
from rmlab.data.pack import pack
from rmlab.data.source import SetAside
from rmlab.losses.base import Loss
from rmlab.losses.bt import BradleyTerry
from rmlab.metrics.collection import Metrics
from rmlab.metrics.pairs import PairMetrics
from rmlab.metrics.scores import ScoreTable
from rmlab.module import RewardModule

VOCABULARY = 24


def record(random: Random, number: int) -> dict[str, Any]:
    """Returns a pair whose preferred completion ends with the higher token; its outcome label says which that is."""
    low, high = sorted(random.sample(range(VOCABULARY), 2))
    body = [random.randrange(VOCABULARY) for _ in range(random.randrange(1, 6))]
    return dict(
        prompt_ids=[number % VOCABULARY, number // VOCABULARY],
        completion_ids=[[*body, high], [low]],
        outcome=[1.0, 0.0],
        answer=["", ""],
        gold=[nan, nan],
        step_end=[[], []],
        step_label=[[], []],
        attributes=[[], []],
        order=[[0, 1]],
        grades=[[]],
        probability=[1.0],
        weight=[1.0],
        source="tiny",
        id=f"tiny.jsonl:{number + 1}",
        prompt_hash=number,
    )


class Embedding(nn.Module):
    """A backbone that looks a token up and sees nothing else."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, width)

    def forward(self, batch: Batch, read_N: Tensor | None = None) -> Tensor:
        """Returns hidden states [T, D]."""
        return self.table(batch.token_T)


class Take(nn.Module):
    """The read-out of the hidden state at a position."""

    def reads(self, position_N: Tensor, batch: Batch) -> Tensor:
        """Returns the positions."""
        return position_N

    def forward(self, hidden_TD: Tensor, position_N: Tensor, batch: Batch) -> Tensor:
        """Returns [N, D]."""
        return hidden_TD[position_N]


class Steps(torch.utils.data.Dataset[StepOfBatches]):
    """Optimizer steps of eight prompts in two micro-batches."""

    def __init__(self, seed: int, steps: int) -> None:
        random = Random(seed)
        self.records = [record(random, n) for n in range(8 * steps)]

    def __len__(self) -> int:
        return len(self.records) // 8

    def __getitem__(self, index: int) -> StepOfBatches:
        numbers = range(8 * index, 8 * index + 8)
        halves = (numbers[:4], numbers[4:])
        return StepOfBatches(batches=tuple(pack([self.records[n] for n in h], numbers=h) for h in halves))


class TinyData(L.LightningDataModule):
    """What callbacks ask of a data module: steps, the account, and the texts (which are hostile)."""

    sources: Sequence[str] = ("tiny",)

    def __init__(self, steps: int = 12) -> None:
        super().__init__()
        self.train, self.val = Steps(0, steps), Steps(1, 4)
        self.steps_per_epoch = steps

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.train, batch_size=None)

    def val_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.val, batch_size=None)

    def accounts(self) -> dict[str, Account]:
        """Returns a full training split and a validation split with one row set aside."""
        train, val = Account(), Account()
        for account, count in ((train, len(self.train.records)), (val, len(self.val.records))):
            for _ in range(count):
                account.add_used()
        val.add_set_aside(SetAside(reason="over-long", where="val[1].jsonl:7"))
        return {"train": train, "val": val}

    def texts(self, prompt: int) -> tuple[str, list[str]]:
        """Returns texts that name the prompt and the slot."""
        return f"<script>alert({prompt})</script>", [f"prompt {prompt} slot {slot} </script>\"'" for slot in (0, 1)]


def tiny_module(loss: Loss | None = None, metrics: Sequence[Any] = (), rate: float = 0.05) -> RewardModule:
    """Returns a reward module over `Embedding`; Bradley-Terry on pairs unless told."""
    torch.manual_seed(0)
    loss = loss or BradleyTerry()
    return RewardModule(
        backbone=Embedding(),
        readout=Take(),
        head=nn.Linear(8, loss.out_dim),
        loss=loss,
        metrics=Metrics(metrics or [PairMetrics(), ScoreTable()], headline="accuracy"),
        optimizer=partial(torch.optim.AdamW, lr=rate),
        schedule=lambda optimizer, steps: LambdaLR(optimizer, lambda step: 1.0),
    )


def trainer(folder: Path, callbacks: Sequence[L.Callback], **options: Any) -> L.Trainer:
    """Returns a trainer for one epoch on the CPU that logs every second step and validates twice."""
    defaults: dict[str, Any] = dict(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(c, L.pytorch.callbacks.ProgressBar) for c in callbacks),
        log_every_n_steps=2,
        val_check_interval=0.5,
        num_sanity_val_steps=1,
    )
    return L.Trainer(default_root_dir=str(folder), callbacks=list(callbacks), **(defaults | options))
