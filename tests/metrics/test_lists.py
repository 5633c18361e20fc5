"""K-wise metrics against scipy's tau-b, scikit-learn's NDCG and brute force."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.metrics import ndcg_score

from rmlab.batch import Batch, Judgements
from rmlab.data.pack import pack
from rmlab.metrics.lists import ListMetrics, kendall_tau, ndcg, strict_tau, top1, truth_of

UNUSED = Judgements(**dict.fromkeys(("probability_J", "outcome_J", "margin_J", "group_J", "source_J"), torch.zeros(0)))
Records = Callable[..., dict[str, object]]
few_levels = st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=2, max_size=7)


def _padded(rows: list[tuple[float, float]], width: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores and truth of one ranking with junk behind them, and which places are real."""
    both = torch.full((2, 1, width), 99.0, dtype=torch.float64)
    both[:, 0, : len(rows)] = torch.tensor(rows, dtype=torch.float64).T
    return both[0], both[1], torch.arange(width)[None] < len(rows)


@given(rows=few_levels)
@settings(max_examples=200, deadline=None)
def test_tau_is_scipys(rows: list[tuple[float, float]]) -> None:
    ours = float(kendall_tau(*_padded(rows)))
    score, truth = zip(*rows, strict=True)
    if len(set(truth)) == 1:
        assert math.isnan(ours)
    elif len(set(score)) == 1:
        assert ours == 0
    else:
        assert ours == pytest.approx(kendalltau(score, truth, variant="b").statistic, abs=1e-12)


@given(rows=few_levels)
@settings(max_examples=200, deadline=None)
def test_ndcg_is_scikit_learns(rows: list[tuple[float, float]]) -> None:
    ours = float(ndcg(*_padded(rows)))
    score, truth = (np.array([column]) for column in zip(*rows, strict=True))
    if len(set(truth[0])) == 1:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(ndcg_score(truth - truth.min(), score), abs=1e-12)


@given(rows=few_levels)
@settings(max_examples=100, deadline=None)
def test_top1_needs_every_pick_to_be_best(rows: list[tuple[float, float]]) -> None:
    score, truth = zip(*rows, strict=True)
    picks = [i for i in range(len(rows)) if score[i] == max(score)]
    assert float(top1(*_padded(rows))) == all(truth[i] == max(truth) for i in picks)


def test_truth_is_grades_else_order_else_the_stated_chance() -> None:
    order = torch.tensor([[4, 2, 7], [4, 2, 7], [4, 2, -1], [4, 2, -1]])
    grade = torch.full((4, 3), torch.nan)
    grade[0] = torch.tensor([5.0, 5, 1])
    grade[3, :2] = torch.tensor([2.0, 1])
    truth = truth_of(order, grade, torch.tensor([1.0, 1, 0.3, 0.1]))
    assert truth[0].tolist() == [5, 5, 1]
    assert truth[1].tolist() == [2, 1, 0]
    assert truth[2, :2].tolist() == pytest.approx([0.3, 0.7])
    assert truth[3, :2].tolist() == [2, 1]


def _lists(record: Records) -> Batch:
    """Prompt 0: A > B > C, true rewards swap A and B. Prompt 1: two grades alike. Prompt 2: all alike."""
    return pack(
        [
            record(50, 3, order=[[0, 1, 2]], grades=[[]], probability=[1.0], weight=[1.0], gold=[1.0, 2.0, 0.0]),
            record(51, 3, order=[[0, 1, 2]], grades=[[2, 1, 1]], probability=[1.0], weight=[1.0], gold=[3.0, 0, 1]),
            record(52, 2, order=[[0, 1]], grades=[[4, 4]], probability=[1.0], weight=[1.0], gold=[0.0, 1.0]),
        ]
    )


def _compute(batch: Batch, score: torch.Tensor, sources: tuple[str, ...] = ()) -> dict[str, float]:
    metric = ListMetrics(sources)
    metric.update(UNUSED, score, batch)
    return metric.compute()


def test_worked_numbers(record: Records) -> None:
    """Scores 3, 1, 2 for A, B, C: 2 of 3 pairs agree, tau = (2 - 1) / 3. Scores 0, 1, 0 for grades 2, 1, 1:
    pairs -, 0, + with truth +, +, 0: tau-b = -1 / sqrt(2 * 2). The third ranking orders nothing and is left out.
    The true reward: tau = 1/3 and (2 * 1) / sqrt(3 * 2).
    """
    found = _compute(_lists(record), torch.tensor([3.0, 1, 2, 0, 1, 0, 5, 5]))
    assert found["rankings"] == 2
    assert found["top1"] == 0.5
    assert found["kendall_tau"] == pytest.approx((1 / 3 - 1 / 2) / 2, abs=1e-7)
    assert found["kendall_tau_best"] == pytest.approx((1 / 3 + 2 / math.sqrt(6)) / 2, abs=1e-7)
    first = ndcg_score([[2, 1, 0]], [[3, 1, 2]])
    assert found["ndcg"] == pytest.approx((first + ndcg_score([[1, 0, 0]], [[0, 1, 0]])) / 2, abs=1e-7)


def test_strict_tau_is_the_mean_over_broken_ties() -> None:
    """Scores 2, 2, 1 against 3, 2, 1: broken one way tau = 1, the other way 1/3; the mean is 2/3."""
    score, truth, valid = torch.tensor([[2.0, 2, 1]]), torch.tensor([[3.0, 2, 1]]), torch.ones(1, 3, dtype=torch.bool)
    broken = [kendalltau(s, [3, 2, 1]).statistic for s in ([2.1, 2, 1], [2, 2.1, 1])]
    assert strict_tau(score, truth, valid).item() == pytest.approx(sum(broken) / 2)
    assert strict_tau(score, truth, valid).item() == pytest.approx(2 / 3)


def test_equal_scores_get_nothing(record: Records) -> None:
    found = _compute(_lists(record), torch.zeros(8))
    assert (found["kendall_tau"], found["top1"]) == (0, 0)


def test_best_is_unknown_without_the_true_reward(record: Records) -> None:
    batch = _lists(record)
    gold = batch.gold_S.clone()
    gold[0] = torch.nan
    assert math.isnan(_compute(replace(batch, gold_S=gold), torch.zeros(8))["kendall_tau_best"])


def test_pairs_are_lists_of_two(record: Records) -> None:
    """Scores say first, second; labels say first (1.0), second (0.2), nobody (0.5, left out): tau 1 and -1."""
    records = [
        record(60 + i, 2, order=[[0, 1]], grades=[[]], probability=[p], weight=[1.0])
        for i, p in enumerate((1, 0.2, 0.5))
    ]
    found = _compute(pack(records), torch.tensor([1.0, 0, 1, 0, 1, 0]))
    assert (found["rankings"], found["kendall_tau"], found["top1"]) == (2, 0, 0.5)


def test_random_batches_agree_with_a_loop(random_batches: Callable[..., list[Batch]]) -> None:
    metric, taus, prompts = ListMetrics(("first", "second")), [], []
    for batch in random_batches(40, seed=3):
        score = torch.round(torch.randn(len(batch.gold_S), generator=torch.Generator().manual_seed(len(taus))))
        metric.update(UNUSED, score, batch)
        truth = truth_of(batch.order_RK, batch.grade_RK, batch.probability_R)
        for order, best in zip(batch.order_RK, truth, strict=True):
            real = order >= 0
            if len(set(best[real].tolist())) > 1:
                tau = kendalltau(score[order[real]], best[real]).statistic
                taus.append(0.0 if math.isnan(tau) else tau)
                prompts.append(int(batch.prompt_G[batch.group_S[order[0]]]))
    found = metric.compute()
    assert found["rankings"] == len(taus) > 40
    assert found["kendall_tau"] == pytest.approx(np.mean(taus), abs=1e-7)
    for parity, source in enumerate(("first", "second")):
        expected = np.mean([t for t, p in zip(taus, prompts, strict=True) if p % 2 == parity])
        assert found[f"kendall_tau/{source}"] == pytest.approx(expected, abs=1e-7)
    assert found["kendall_tau_low"] < found["kendall_tau"] < found["kendall_tau_high"]
