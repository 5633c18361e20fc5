"""Calibration against torchmetrics, netcal, scikit-learn and plain loops."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from netcal.metrics import ECE
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from rmlab.metrics.calibration import (
    brier_N,
    calibration_error,
    calibration_statistic,
    equal_mass,
    equal_width,
    nll_N,
    reliability,
    top_label,
)


def _sample(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    probability = rng.random(n)
    return torch.from_numpy(probability), torch.from_numpy((rng.random(n) < probability**2).astype(float))


def _loop(confidence: np.ndarray, correct: np.ndarray, edges: np.ndarray) -> float:
    total = 0.0
    for i, (low, high) in enumerate(pairwise(edges)):
        inside = (confidence >= low) & ((confidence <= high) if i == len(edges) - 2 else (confidence < high))
        if inside.any():
            total += inside.sum() * abs(confidence[inside].mean() - correct[inside].mean())
    return total / len(confidence)


def test_equal_width_as_torchmetrics_netcal_and_a_loop_have_it() -> None:
    probability, label = _sample(2000)
    ours = calibration_error(probability, label)
    assert ours == pytest.approx(float(binary_calibration_error(probability, label.long(), n_bins=15)), abs=1e-6)
    assert ours == pytest.approx(ECE(15).measure(probability.numpy(), label.numpy().astype(int)), abs=1e-9)
    assert ours == pytest.approx(_loop(probability.numpy(), label.numpy(), np.linspace(0, 1, 16)), abs=1e-12)
    assert ours > 0.05


def test_pairs_take_the_multiclass_reading() -> None:
    probability, label = _sample(2000, seed=1)
    classes = torch.stack([1 - probability, probability], dim=1)
    expected = multiclass_calibration_error(classes, label.long(), num_classes=2, n_bins=15)
    assert calibration_error(*top_label(probability, label)) == pytest.approx(float(expected), abs=1e-6)


def test_worked_example() -> None:
    """P = 0.9, 0.9 (one of them won) and 0.2 (lost): the preferred sides have 0.9, 0.9 and 0.8, right 1, 0 and 1.

    Bins of 1/15: 0.9 lies in [13/15, 14/15) and 0.8 (= 1 - 0.2) in [12/15, 13/15), so ECE = (2 * 0.4 + 1 * 0.2) / 3.
    """
    probability = torch.tensor([0.9, 0.9, 0.2], dtype=torch.float64) + torch.tensor([0, 0, -1e-9])
    confidence, correct = top_label(probability, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    assert correct.tolist() == [1, 0, 1]
    assert calibration_error(confidence, correct) == pytest.approx(1 / 3, abs=1e-6)
    assert reliability(confidence, correct).count_B.nonzero()[:, 0].tolist() == [12, 13]


@given(
    rows=st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.booleans()), min_size=1),
)
@settings(max_examples=50, deadline=None)
def test_top_label_is_free_of_orientation(rows: list[tuple[float, float, bool]]) -> None:
    """Naming the other completion first turns (p, q) into (1 - p, 1 - q) and is no other fact."""
    rows = [(round(p, 3), q, turn) for p, q, turn in rows]
    plain = torch.tensor([(p, q) for p, q, _ in rows], dtype=torch.float64)
    turned = torch.tensor([(1 - p, 1 - q) if turn else (p, q) for p, q, turn in rows], dtype=torch.float64)
    first, second = top_label(*plain.unbind(1)), top_label(*turned.unbind(1))
    torch.testing.assert_close(first, second)


def test_pairs_listed_best_first_can_be_calibrated() -> None:
    """All labels are 1: the reading by positive class calls a perfectly calibrated model badly wrong, the other not."""
    rng = np.random.default_rng(0)
    p = rng.random(50_000)
    best_first = torch.from_numpy(np.where(rng.random(50_000) < p, p, 1 - p))
    ones = torch.ones_like(best_first)
    assert calibration_error(best_first, ones) > 0.2
    assert calibration_error(*top_label(best_first, ones)) < 0.01


def test_equal_scores_are_calibrated_for_pairs() -> None:
    assert calibration_error(*top_label(torch.full((5,), 0.5), torch.ones(5))) == 0


def test_equal_mass_as_scikit_learn_and_a_loop_have_it() -> None:
    probability, label = _sample(1500, seed=2)
    edges = equal_mass(probability)
    ours = calibration_error(probability, label, edges)
    assert ours == pytest.approx(
        _loop(probability.numpy(), label.numpy(), np.quantile(probability, np.linspace(0, 1, 16)))
    )
    true, predicted = calibration_curve(label, probability, n_bins=15, strategy="quantile")
    table = reliability(probability, label, edges)
    np.testing.assert_allclose(table.correct_B, true)
    np.testing.assert_allclose(table.confidence_B, predicted)
    assert table.count_B.tolist() == [100] * 15


def test_equal_mass_keeps_ties_together() -> None:
    confidence = torch.tensor([0.5] * 10 + [0.9] * 2)
    table = reliability(confidence, torch.ones(12), equal_mass(confidence, 3))
    assert table.count_B.sum() == 12
    assert calibration_error(
        torch.full((4,), 0.7), torch.tensor([1.0, 1, 1, 0]), equal_mass(torch.full((4,), 0.7))
    ) == (pytest.approx(0.05, abs=1e-6))


def test_own_probabilities_are_calibrated_and_coin_flips_are_not() -> None:
    """n = 300,000: labels drawn from the model's own probabilities, and from a coin."""
    rng = np.random.default_rng(3)
    probability = torch.sigmoid(torch.from_numpy(rng.normal(0, 1.5, 300_000)))
    own = (torch.from_numpy(rng.random(300_000)) < probability).double()
    coin = torch.from_numpy(rng.integers(0, 2, 300_000)).double()
    for reading in (top_label, lambda p, q: (p, q)):
        assert calibration_error(*reading(probability, own)) < 0.02
        assert calibration_error(*reading(probability, coin)) > 0.1


def test_statistic_counts_prompts_as_repeated_rows() -> None:
    probability, label = _sample(60, seed=4)
    prompt = torch.arange(60) // 4
    count = torch.randint(0, 4, (1, 15), generator=torch.Generator().manual_seed(0))
    drawn = torch.repeat_interleave(torch.arange(60), count[0][prompt])
    statistic = calibration_statistic(probability, label, prompt, 15)
    assert float(statistic(count.double())) == pytest.approx(calibration_error(probability[drawn], label[drawn]))


def test_brier_and_nll_as_scikit_learn_has_them() -> None:
    probability, label = _sample(500, seed=5)
    assert float(brier_N(probability, label).mean()) == pytest.approx(brier_score_loss(label, probability))
    assert float(nll_N(probability.logit(), label).mean()) == pytest.approx(log_loss(label, probability))


def test_nll_of_a_soft_label() -> None:
    """p = 3/4 (log-odds log 3), label 0.7: -0.7 log(3/4) - 0.3 log(1/4)."""
    nll = nll_N(torch.tensor([3.0]).log(), torch.tensor([0.7]))
    assert float(nll) == pytest.approx(-0.7 * np.log(0.75) - 0.3 * np.log(0.25), abs=1e-6)


def test_nll_stays_finite_where_the_probability_saturates() -> None:
    margin = torch.tensor([1000.0, -1000.0, torch.inf, -torch.inf])
    assert nll_N(margin, torch.tensor([0.0, 1.0, 1.0, 0.0])).tolist() == [1000, 1000, 0, 0]


def test_edges() -> None:
    assert len(equal_width()) == 16
    assert reliability(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])).count_B.nonzero()[:, 0].tolist() == [0, 14]
