"""Outcome metrics against scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

from rmlab.batch import Batch, Judgements
from rmlab.metrics.bootstrap import resampled
from rmlab.metrics.outcomes import OutcomeMetrics, auroc_statistic

Make = Callable[..., Judgements]


def _compute(judged: Judgements, batch: Batch, sources: tuple[str, ...] = ()) -> dict[str, float]:
    metric = OutcomeMetrics(sources)
    metric.update(judged, torch.zeros(0), batch)
    return metric.compute()


def _random(make: Make, seed: int, n: int = 400) -> tuple[Judgements, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    margin = np.round(rng.normal(size=n), 1) + 0.05  # with ties, never 0
    right = (rng.random(n) < 1 / (1 + np.exp(-2 * margin))).astype(int)
    judged = make(margin, right, np.arange(n) // 4, source_J=torch.arange(n) // 4 % 2)
    return judged, judged.probability_J.numpy().astype(float), right


def test_numbers_are_scikit_learns(judgements: Make, blank_batch: Batch) -> None:
    judged, probability, right = _random(judgements, 0)
    found = _compute(judged, blank_batch)
    assert found["accuracy"] == pytest.approx(accuracy_score(right, probability > 0.5))
    assert found["auroc"] == pytest.approx(roc_auc_score(right, judged.margin_J))
    assert found["brier"] == pytest.approx(brier_score_loss(right, probability), abs=1e-9)
    assert found["nll"] == pytest.approx(log_loss(right, probability), abs=1e-6)
    assert (found["n"], found["positives"]) == (400, right.sum())
    assert found["auroc_low"] < found["auroc"] < found["auroc_high"]
    assert found["ece_low"] < found["ece"] < found["ece_high"]


def test_auroc_counts_prompts_as_weights(judgements: Make) -> None:
    judged, _, right = _random(judgements, 1)
    prompt = judged.group_J
    count = torch.randint(0, 4, (3, 100), generator=torch.Generator().manual_seed(0)).double()
    found = auroc_statistic(judged.margin_J, judged.outcome_J > 0.5, prompt, 100)(count)
    for area, weight in zip(found, count, strict=True):
        assert float(area) == pytest.approx(roc_auc_score(right, judged.margin_J, sample_weight=weight[prompt]))


def test_aurocs_interval_is_that_of_resampled_prompts(judgements: Make) -> None:
    """Against a plain bootstrap loop with scikit-learn; both ends within the noise of 1000 resamples."""
    judged, probability, right = _random(judgements, 2)
    statistic = auroc_statistic(judged.margin_J, judged.outcome_J > 0.5, judged.group_J, 100)
    ours = resampled({"auroc": statistic}, 100)["auroc"].numpy()
    rng = np.random.default_rng(0)
    drawn = [np.concatenate([np.arange(4) + 4 * p for p in rng.integers(0, 100, 100)]) for _ in range(400)]
    loop = [roc_auc_score(right[rows], probability[rows]) for rows in drawn]
    assert np.quantile(ours, [0.025, 0.975]) == pytest.approx(np.quantile(loop, [0.025, 0.975]), abs=0.01)


def test_auroc_does_not_saturate(judgements: Make, blank_batch: Batch) -> None:
    """Log-odds 30 and 40 both round to P = 1 and are still in the right order."""
    judged = judgements([30, 40], [0, 1], [0, 1])
    assert judged.probability_J.tolist() == [1, 1]
    assert _compute(judged, blank_batch)["auroc"] == 1


def test_one_class_has_no_auroc(judgements: Make, blank_batch: Batch) -> None:
    found = _compute(judgements([1, 2, 3], [1, 1, 1], [0, 1, 2]), blank_batch)
    assert math.isnan(found["auroc"])
    assert math.isnan(found["auroc_low"])
    assert found["accuracy"] == 1


def test_an_even_chance_predicts_nothing(judgements: Make, blank_batch: Batch) -> None:
    assert _compute(judgements([0, 0], [1, 0], [0, 1]), blank_batch)["accuracy"] == 0


def test_best_is_known_in_a_generated_world_only(judgements: Make, blank_batch: Batch, generated_batch: Batch) -> None:
    judged = judgements([1, -1], [1, 0], [0, 1])
    assert _compute(judged, generated_batch)["auroc_best"] == 1
    assert math.isnan(_compute(judged, blank_batch)["auroc_best"])


def test_per_source(judgements: Make, blank_batch: Batch) -> None:
    judged, _, right = _random(judgements, 3)
    found = _compute(judged, blank_batch, ("even", "odd"))
    for parity, source in enumerate(("even", "odd")):
        rows = np.arange(400) // 4 % 2 == parity
        assert found[f"auroc/{source}"] == pytest.approx(roc_auc_score(right[rows], judged.margin_J[rows]))
        assert found[f"n/{source}"] == 200
