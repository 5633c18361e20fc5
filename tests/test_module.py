"""`RewardModule`'s arithmetic: a step is one sum divided once, however it is cut; and it learns the right thing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from math import exp
from pathlib import Path
from random import Random
from typing import Any

import choix
import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim.lr_scheduler import LambdaLR

from rmlab.batch import Batch, StepOfBatches
from rmlab.data.pack import pack
from rmlab.errors import RunError
from rmlab.losses.base import Loss
from rmlab.losses.bt import BradleyTerry
from rmlab.losses.orm import OutcomeReward
from rmlab.losses.plackett_luce import PlackettLuce
from rmlab.losses.prm import ProcessReward
from rmlab.metrics.collection import Metrics
from rmlab.metrics.pairs import PairMetrics
from rmlab.module import RewardModule
from tests.worlds import VOCABULARY, random_record

WIDTH = 8
Record = dict[str, Any]


class Table(nn.Module):
    """A backbone that sees the tokens of a sequence up to the one it is read at, so that cuts could matter."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch, read_N: Tensor | None = None) -> Tensor:
        """Returns the normed sum of all that a token sees."""
        place = torch.arange(batch.tokens)
        sees_TT = (place <= place[:, None]) & (place[:, None] < batch.until_T)
        state: Tensor = self.norm(sees_TT.float() @ self.dropout(self.table(batch.token_T)))
        return state


class Take(nn.Module):
    """The read-out of the hidden state at a position."""

    def reads(self, position_N: Tensor, batch: Batch) -> Tensor:
        """Returns the positions."""
        return position_N

    def forward(self, hidden_TD: Tensor, position_N: Tensor, batch: Batch) -> Tensor:
        """Returns [N, D]."""
        return hidden_TD[position_N]


class Given(L.LightningDataModule):
    """Steps as they are given."""

    sources = ("test",)

    def __init__(self, steps: Sequence[StepOfBatches]) -> None:
        super().__init__()
        self.steps = list(steps)
        self.steps_per_epoch = len(self.steps)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.steps, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return self.train_dataloader()


def module(loss: Loss, backbone: nn.Module | None = None, **options: Any) -> RewardModule:
    """Returns a module whose step moves every parameter by minus its gradient."""
    torch.manual_seed(0)
    made = dict(
        backbone=backbone or Table(),
        readout=Take(),
        head=nn.Linear(WIDTH, loss.out_dim),
        loss=loss,
        metrics=Metrics([PairMetrics()], headline="accuracy"),
        optimizer=partial(torch.optim.SGD, lr=1.0),
        schedule=lambda optimizer, steps: LambdaLR(optimizer, lambda step: 1.0),
        clip_norm=0.0,
    )
    return RewardModule(**(made | options))  # type: ignore[arg-type]


def fit(trained: RewardModule, steps: Sequence[StepOfBatches], **options: Any) -> L.Trainer:
    defaults: dict[str, Any] = dict(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_val_batches=0,
    )
    trainer = L.Trainer(**(defaults | options))
    trainer.fit(trained, Given(steps))
    return trainer


def records(count: int = 12) -> list[Record]:
    """Returns records of 2 to 4 completions whose rankings weigh from 0.2 to 5."""
    random = Random(5)
    made = [random_record(random, random.randrange(2, 5)) for _ in range(count)]
    return [record | {"weight": [random.uniform(0.2, 5)], "id": f"file:{i}"} for i, record in enumerate(made)]


def step(*parts: Sequence[Record]) -> StepOfBatches:
    return StepOfBatches(batches=tuple(pack(list(part)) for part in parts))


def gradient(loss: Loss, *parts: Sequence[Record], **options: Any) -> Tensor:
    """Returns the gradient of one step, read off what it does to the parameters."""
    trained = module(loss, **options)
    before = nn.utils.parameters_to_vector(trained.parameters()).clone()
    fit(trained, [step(*parts)])
    return (before - nn.utils.parameters_to_vector(trained.parameters())).detach()


LOSSES = {"bt": BradleyTerry(), "plackett_luce": PlackettLuce(), "orm": OutcomeReward(), "prm": ProcessReward()}


def pairs_only(loss: str, made: list[Record]) -> list[Record]:
    """Returns records of pairs for `bt`: the first and the last of a ranking."""
    if loss != "bt":
        return made
    return [r | {"order": [[r["order"][0][0], r["order"][0][-1]]], "grades": [[]]} for r in made]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("cut", [(4, 8), (1, 2), (11,), (3, 3, 9)], ids=str)
def test_a_step_cut_in_micro_batches_has_the_gradient_of_the_whole(name: str, cut: tuple[int, ...]) -> None:
    """(3, 3, 9) has an empty micro-batch, as a rank may get one."""
    made = pairs_only(name, records())
    parts = [made[a:b] for a, b in zip((0, *cut), (*cut, len(made)), strict=True)]
    expected = gradient(LOSSES[name], made)
    assert expected.norm() > 0.05
    torch.testing.assert_close(gradient(LOSSES[name], *parts), expected, atol=1e-6, rtol=1e-5)


def test_the_gradient_is_that_of_the_weighted_mean_over_all_pairs() -> None:
    """sum_i w_i softplus(-(r_first - r_second)) / sum_i w_i, each completion run by itself, with plain autograd."""
    made = pairs_only("bt", records())
    trained = module(BradleyTerry())

    def reward(record: Record, slot: int) -> Tensor:
        ids = torch.tensor(record["prompt_ids"] + record["completion_ids"][slot])
        backbone: Any = trained.backbone
        value: Tensor = trained.head(backbone.norm(backbone.table(ids).sum(0)))[0]
        return value

    terms = [softplus(-(reward(r, r["order"][0][0]) - reward(r, r["order"][0][1]))) for r in made]
    weights = torch.tensor([r["weight"][0] for r in made])
    mean = (weights * torch.stack(terms)).sum() / weights.sum()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(mean, list(trained.parameters()))])
    torch.testing.assert_close(gradient(BradleyTerry(), made[:5], made[5:]), expected, atol=1e-6, rtol=1e-5)
    assert fit(trained, [step(made[:2], made[2:])]).callback_metrics["train/loss"] == pytest.approx(mean.item())


def test_a_mean_of_means_would_be_something_else() -> None:
    made = pairs_only("bt", records())
    first, second = gradient(BradleyTerry(), made[:1]), gradient(BradleyTerry(), made[1:])
    assert ((first + second) / 2 - gradient(BradleyTerry(), made[:1], made[1:])).norm() > 0.05


def test_the_gradient_of_the_whole_step_is_clipped_once() -> None:
    made = pairs_only("bt", records())
    free = gradient(BradleyTerry(), made)
    for parts in ([made], [made[:1], made[1:]]):
        clipped = gradient(BradleyTerry(), *parts, clip_norm=float(free.norm()) / 4)
        torch.testing.assert_close(clipped, free / 4, atol=1e-6, rtol=1e-4)
    above = gradient(BradleyTerry(), made, clip_norm=float(free.norm()) * 1.01)
    torch.testing.assert_close(above, free)


def test_only_matrices_decay() -> None:
    """SGD with decay d moves a matrix W by -(gradient + d W), and leaves vectors to their gradient."""
    made = pairs_only("bt", records())
    trained, plain = module(BradleyTerry(), weight_decay=0.1), module(BradleyTerry())
    before = {name: p.detach().clone() for name, p in plain.named_parameters()}
    fit(trained, [step(made)])
    fit(plain, [step(made)])
    shapes = set()
    for (name, decayed), free in zip(trained.named_parameters(), plain.parameters(), strict=True):
        expected = free - 0.1 * before[name] if free.ndim == 2 else free
        torch.testing.assert_close(decayed, expected)
        shapes.add(free.ndim)
    assert shapes == {1, 2}


def test_frozen_parameters_are_in_no_group() -> None:
    trained = module(BradleyTerry(), weight_decay=0.1, head=nn.Linear(WIDTH, 1, bias=False))
    trained.backbone.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in trained.named_parameters()}
    trainer = fit(trained, [step(pairs_only("bt", records()))])
    assert [group["params"] for group in trainer.optimizers[0].param_groups] == [[trained.head.weight]]
    assert {name for name, p in trained.named_parameters() if not torch.equal(p, before[name])} == {"head.weight"}


def test_a_step_without_weight_stops_the_run_and_names_its_examples() -> None:
    made = [r | {"weight": [0.0]} for r in pairs_only("bt", records(7))]
    trained = module(BradleyTerry())
    before = nn.utils.parameters_to_vector(trained.parameters()).clone()
    with pytest.raises(RunError, match=r"step 1: .* sum to 0.*file:0, file:1, file:2, file:3, file:4$"):
        fit(trained, [step(pairs_only("bt", records(7))), step(made[:3], made[3:])])
    assert torch.isfinite(nn.utils.parameters_to_vector(trained.parameters())).all()
    assert not torch.equal(nn.utils.parameters_to_vector(trained.parameters()), before)  # step 0 was made


# --- what is drawn at random


class Draws(nn.Module):
    """A backbone that remembers what it drew, around one that trains."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Table(dropout=0.5)
        self.drawn: list[float] = []

    def forward(self, batch: Batch, read_N: Tensor | None = None) -> Tensor:
        """Returns what the inner one does."""
        self.drawn.append(float(torch.rand(())))
        state: Tensor = self.inner(batch)
        return state


class Disturb(L.Callback):
    """Draws between the steps, as validation or another callback may."""

    def on_train_batch_end(self, *_: Any) -> None:
        torch.rand(1000)


def drawn(seed: int, **options: Any) -> tuple[list[float], Tensor]:
    backbone = Draws()
    trained = module(BradleyTerry(), backbone, seed=seed)
    torch.manual_seed(0)
    backbone.inner.load_state_dict(Table().state_dict())
    fit(trained, [step(pairs_only("bt", records())[i : i + 3]) for i in (0, 3, 6)], max_epochs=2, **options)
    return backbone.drawn, nn.utils.parameters_to_vector(trained.parameters()).detach()


def test_dropout_is_drawn_by_seed_and_step_alone() -> None:
    plain, weights = drawn(1)
    assert len(set(plain)) == 6  # no two steps draw the same
    disturbed, same = drawn(1, callbacks=[Disturb()])
    assert disturbed == plain
    assert torch.equal(same, weights)
    other, different = drawn(2)
    assert not set(other) & set(plain)
    assert not torch.equal(different, weights)


# --- validation


def test_validation_is_over_all_pairs_and_starts_anew_each_time() -> None:
    """Parts of 1 and 11 pairs: the mean of their accuracies would be another number."""
    made = pairs_only("bt", records())
    trained = module(BradleyTerry())
    torch.nn.init.normal_(trained.head.weight, generator=torch.Generator().manual_seed(3))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    margin = []
    with torch.no_grad():
        for record in made:
            batch = pack([record])
            out = trained(batch)[:, 0]
            first, second = batch.order_RK[0, :2].tolist()
            margin.append(float(out[first] - out[second]))
    right = np.array(margin) > 0
    assert right[0] != right[1:].mean()
    for _ in range(2):
        (values,) = trainer.validate(trained, Given([step(made[:1]), step(made[1:])]), verbose=False)
        assert values["val/accuracy"] == pytest.approx(right.mean())
        assert values["val/margin"] == pytest.approx(np.mean(margin), rel=1e-5)
        assert values["val/n"] == 12
    assert values["val/headline"] == values["val/accuracy"]


# --- learning


class OneHot(nn.Module):
    """A backbone whose state at a token is the token."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("eye", torch.eye(WIDTH))

    def forward(self, batch: Batch, read_N: Tensor | None = None) -> Tensor:
        """Returns [T, 8] for completions of one token below 8."""
        state: Tensor = self.eye[batch.token_T % WIDTH]  # type: ignore[index]
        return state


def comparison(number: int, first: int, second: int, weight: float, probability: float = 1.0) -> Record:
    columns = random_record(Random(0), 2, steps=False, prompt=[number])
    judged = dict(order=[[0, 1]], grades=[[]], weight=[weight], probability=[probability], id=f"{number}")
    return columns | judged | {"completion_ids": [[first], [second]]}


def strengths(made: list[Record], steps: int = 400) -> np.ndarray:
    """Returns the rewards of the eight items after training on all comparisons at once."""
    trained = module(
        BradleyTerry(),
        OneHot(),
        head=nn.Linear(WIDTH, 1, bias=False),
        optimizer=partial(torch.optim.Adam, lr=0.05),
        schedule=lambda optimizer, steps: LambdaLR(optimizer, lambda step: 1 - step / steps),
    )
    fit(trained, [step(made[::2], made[1::2])], max_epochs=steps)
    reward: np.ndarray = trained.head.weight[0].detach().double().numpy()
    return reward - reward.mean()


def test_a_linear_model_recovers_the_strengths_that_choix_finds() -> None:
    """3,000 comparisons of 8 items, drawn from Bradley-Terry; the other code maximises the same likelihood."""
    random = Random(0)
    true = [random.gauss(0, 1) for _ in range(WIDTH)]
    wins: list[tuple[int, int]] = []
    for _ in range(3000):
        i, j = random.sample(range(WIDTH), 2)
        wins.append((i, j) if random.random() < 1 / (1 + exp(true[j] - true[i])) else (j, i))
    made = [
        comparison(n, i, j, float(wins.count((i, j))))
        for n, (i, j) in enumerate((i, j) for a, b in combinations(range(WIDTH), 2) for i, j in ((a, b), (b, a)))
    ]
    expected = choix.opt_pairwise(WIDTH, wins)
    np.testing.assert_allclose(strengths(made), expected - expected.mean(), atol=1e-2)


def test_seven_labelers_of_ten_give_a_probability_of_0_70() -> None:
    """Written as ten rows, as two weighted rows, or as one row with a probability."""
    rows = [comparison(n, *((0, 1) if n < 7 else (1, 0)), 1.0) for n in range(10)]
    weighted = [comparison(0, 0, 1, 7.0), comparison(1, 1, 0, 3.0)]
    soft = [comparison(0, 0, 1, 1.0, probability=0.7)]
    for made in (rows, weighted, soft):
        reward = strengths(made, steps=150)
        assert 1 / (1 + exp(reward[1] - reward[0])) == pytest.approx(0.70, abs=0.01)


def test_the_module_runs_under_a_trainer_of_a_user(tmp_path: Path) -> None:
    """A state dict saved by the trainer is loaded by another module, which then scores the same."""
    made = pairs_only("bt", records())
    trained = module(BradleyTerry())
    trainer = fit(trained, [step(made)], default_root_dir=str(tmp_path))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    other = module(BradleyTerry())
    with torch.no_grad():
        assert not torch.equal(other(pack(made)), trained(pack(made)))
        other.load_state_dict(torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"])
        assert torch.equal(other(pack(made)), trained(pack(made)))
