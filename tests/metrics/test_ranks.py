"""Exact over ranks: real gloo processes with uneven shards, one of them empty, give the digits of a single process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from rmlab.batch import Batch
from rmlab.losses.base import Loss
from rmlab.losses.bt import BradleyTerry
from rmlab.losses.prm import ProcessReward
from rmlab.metrics.collection import Metrics
from rmlab.metrics.lists import ListMetrics
from rmlab.metrics.outcomes import OutcomeMetrics
from rmlab.metrics.pairs import PairMetrics
from rmlab.metrics.rows import JudgementMetric
from rmlab.metrics.scores import ScoreTable
from rmlab.metrics.steps import StepMetrics

SHARDS = {1: [1.0], 2: [0.7, 1.0], 3: [0.8, 0.8, 1.0]}  # the share of the batches up to each rank; rank 1 of 3 has none


def _outputs(loss: Loss, batch: Batch) -> torch.Tensor:
    """Depend on the token read and nothing else, rounded so that some scores tie."""
    table = torch.randn(2000, loss.out_dim, generator=torch.Generator().manual_seed(0))
    return (table * 2).round()[batch.token_T[loss.positions(batch)]] / 2


def _numbers(batches: list[Batch]) -> dict[str, dict[str, float]]:
    found = {}
    kinds: list[tuple[Loss, JudgementMetric]] = [(BradleyTerry(), PairMetrics()), (ProcessReward(), StepMetrics())]
    kinds.append((ProcessReward(), OutcomeMetrics()))  # its steps, read as right or wrong
    for loss, judge in kinds:
        metrics = Metrics([judge, ListMetrics(), ScoreTable()], headline="kendall_tau", best="kendall_tau_best")
        metrics.sources = ("first", "second")
        for batch in batches:
            out_NC = _outputs(loss, batch)
            metrics.update(loss.judge(out_NC, batch), loss.score(out_NC, batch), batch)
        found[type(judge).__name__] = metrics.compute()
        found[type(judge).__name__]["rows"] = len(metrics.judgements().margin_J)
    return found


def _rank(rank: int, world: int, batches: list[Batch], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / f'store{world}'}", rank=rank, world_size=world)
    edges = [0] + [round(share * len(batches)) for share in SHARDS[world]]
    (folder / f"{world}-{rank}.json").write_text(json.dumps(_numbers(batches[edges[rank] : edges[rank + 1]])))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*compute.*was called before the.*update:UserWarning")
def test_every_world_size_prints_the_same_numbers(tmp_path: Path, random_batches: Callable[..., list[Batch]]) -> None:
    batches = random_batches(31, seed=7)
    expected = _numbers(batches)
    assert expected["PairMetrics"]["ties"] > 0
    assert expected["PairMetrics"]["n/second"] > 0
    for world in (1, 2, 3):
        start_processes(_rank, (world, batches, tmp_path), nprocs=world, start_method="fork")
        for rank in range(world):
            found = json.loads((tmp_path / f"{world}-{rank}.json").read_text())
            for kind, numbers in expected.items():
                assert found[kind] == pytest.approx(numbers, abs=1e-7, rel=0), (world, rank, kind)


def test_a_rank_without_rows_still_has_their_columns_and_types() -> None:
    """torchmetrics sends a one-dimensional float tensor for an empty list, whatever the other ranks send."""
    for metric in (PairMetrics(), ListMetrics(), ScoreTable()):
        metric.reset()
        assert [(t.dtype, t.shape) for t in metric.whole_NC] == [(torch.int64, (0, len(metric.whole)))]
        assert [(t.dtype, t.shape) for t in metric.real_NC] == [(torch.float32, (0, len(metric.real)))]
