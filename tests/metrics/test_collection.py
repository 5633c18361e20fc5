"""The collection: every yaml of conf/metrics, merging, the headline and what the report asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from rmlab.batch import Batch
from rmlab.data.pack import pack
from rmlab.errors import RunError, UsageError
from rmlab.losses.base import Loss
from rmlab.losses.bt import BradleyTerry
from rmlab.losses.orm import OutcomeReward
from rmlab.losses.prm import ProcessReward
from rmlab.metrics.collection import Metrics
from rmlab.metrics.lists import ListMetrics
from rmlab.metrics.pairs import PairMetrics
from rmlab.metrics.scores import ScoreTable

CONF = Path(__file__).parents[2] / "conf" / "metrics"
INTERVALS = {"pairs": ["accuracy"], "lists": ["top1", "kendall_tau", "ndcg", "accuracy"]}
INTERVALS |= {
    "outcomes": ["accuracy", "auroc", "best_of_n"],
    "steps": ["macro_f1", "first_error_accuracy", "process_bench_f1"],
}
PLAIN = {
    "pairs": ["margin", "ece", "brier", "nll", "n", "ties", "bayes_accuracy", "reward_mean", "reward_std"],
    "lists": ["kendall_tau_best", "rankings", "margin", "ece"],
    "outcomes": ["ece", "brier", "nll", "n", "best_of_n_oracle", "best_of_n_first"],
    "steps": ["ece", "brier", "nll", "n", "precision/correct", "recall/neutral", "f1/incorrect", "best_of_n"],
}
LOSSES: dict[str, Callable[[], Loss]] = {"pairs": BradleyTerry, "lists": BradleyTerry}
LOSSES |= {"outcomes": OutcomeReward, "steps": ProcessReward}


def _run(metrics: Metrics, loss: Loss, batches: list[Batch]) -> dict[str, float]:
    for batch in batches:
        out_NC = torch.randn(len(loss.positions(batch)), loss.out_dim, generator=torch.Generator().manual_seed(0))
        metrics.update(loss.judge(out_NC, batch), loss.score(out_NC, batch), batch)
    return metrics.compute()


def _from_yaml(name: str) -> Metrics:
    metrics = instantiate(OmegaConf.load(CONF / f"{name}.yaml"))
    assert isinstance(metrics, Metrics)
    return metrics


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_yaml_gives_the_promised_keys(name: str, random_batches: Callable[..., list[Batch]]) -> None:
    metrics = _from_yaml(name)
    metrics.sources = ["first", "second"]
    found = _run(metrics, LOSSES[name](), random_batches(30))
    for key in INTERVALS[name]:
        assert found[f"{key}_low"] <= found[key] <= found[f"{key}_high"]
        assert {f"{key}/first", f"{key}/second"} <= found.keys()
    assert set(PLAIN[name]) <= found.keys()
    assert found["headline"] == found[metrics.headline]
    assert metrics.best is not None
    assert found["headline_best"] == found[metrics.best]
    assert not any(math.isnan(value) for value in found.values())
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_key_is_explained(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert [line for line in lines if ":" in line and not line.startswith("#") and " # " not in line] == []


def test_two_metrics_with_one_key_are_refused(random_batches: Callable[..., list[Batch]]) -> None:
    metrics = Metrics([PairMetrics(), ScoreTable(), PairMetrics()], headline="accuracy")
    with pytest.raises(UsageError, match="PairMetrics and one before it both give accuracy"):
        _run(metrics, BradleyTerry(), random_batches(3))


def test_an_unknown_headline_names_what_exists(random_batches: Callable[..., list[Batch]]) -> None:
    metrics = Metrics([ListMetrics()], headline="acuracy")
    with pytest.raises(UsageError, match=r"acuracy, expected one of top1, .*kendall_tau_best"):
        _run(metrics, BradleyTerry(), random_batches(3))


def test_undefined_numbers_are_left_out_but_the_headline_is_not(record: Callable[..., dict[str, object]]) -> None:
    one = record(1, 2, order=[[0, 1]], grades=[[]], probability=[0.5], weight=[1.0])
    found = _run(_from_yaml("pairs"), BradleyTerry(), [pack([one])])
    assert math.isnan(found["headline"])
    assert found["n"] == 1
    assert not {"accuracy", "accuracy_low", "bayes_accuracy", "headline_best", "best_of_n"} & found.keys()


def test_the_last_validation_outlives_reset(random_batches: Callable[..., list[Batch]]) -> None:
    metrics, batches = _from_yaml("lists"), random_batches(9)
    with pytest.raises(RunError, match="validate first"):
        metrics.judgements()
    found = _run(metrics, BradleyTerry(), batches)
    metrics.reset()
    assert len(metrics.judgements().margin_J) == found["n"]
    assert len(metrics.completions().score_S) == sum(len(b.end_S) for b in batches)
    assert _run(metrics, BradleyTerry(), batches) == found


def test_metrics_that_keep_no_rows_say_so() -> None:
    with pytest.raises(UsageError, match="add one of PairMetrics"):
        Metrics([ListMetrics()], headline="top1").judgements()
    with pytest.raises(UsageError, match="ScoreTable"):
        Metrics([ListMetrics()], headline="top1").completions()


def test_sources_reach_every_metric() -> None:
    metrics = Metrics([PairMetrics(), ScoreTable()], headline="accuracy")
    assert metrics.sources == ()
    metrics.sources = ["a", "b"]
    assert metrics.sources == ("a", "b")
    assert all(m.sources == ("a", "b") for m in metrics.metrics)


def test_nothing_is_saved_with_the_model() -> None:
    assert _from_yaml("steps").state_dict() == {}
