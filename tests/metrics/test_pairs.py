"""Pair metrics: worked numbers, and what must not change them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmlab.batch import Batch, Judgements
from rmlab.losses.bt import BradleyTerry
from rmlab.metrics.pairs import PairMetrics, won_N

Make = Callable[..., Judgements]
NO_SCORES = torch.zeros(0)


def _compute(judged: Judgements, batch: Batch, sources: tuple[str, ...] = ()) -> dict[str, float]:
    metric = PairMetrics(sources)
    metric.update(judged, NO_SCORES, batch)
    return metric.compute()


def test_worked_numbers(judgements: Make, blank_batch: Batch) -> None:
    """Margins 2, -1, 0, 3, 5 for labels 1, 1, 1, 0.3, 0.5.

    Decided: the first four. Won: the first (2 > 0, label 1); -1 and 0 are not wins; 3 disagrees with 0.3. So 1/4.
    Margin in favour of the preferred: (2 - 1 + 0 - 3) / 4 = -1/2. One tie among five pairs.
    """
    judged = judgements([2, -1, 0, 3, 5], [1, 1, 1, 0.3, 0.5], [0, 0, 1, 1, 2])
    found = _compute(judged, blank_batch)
    assert found["accuracy"] == 0.25
    assert found["margin"] == -0.5
    assert (found["n"], found["ties"]) == (5, 1)
    p, q = judged.probability_J.double().numpy(), np.array([1, 1, 1, 0.3, 0.5])
    assert found["brier"] == pytest.approx(((p - q) ** 2).mean(), abs=1e-7)
    assert found["nll"] == pytest.approx(-(q * np.log(p) + (1 - q) * np.log(1 - p)).mean(), abs=1e-6)
    assert np.isnan(found["bayes_accuracy"])


def test_interval_is_over_prompts(judgements: Make, blank_batch: Batch) -> None:
    """Prompts are all won or all lost, ten pairs each: half-width 1.96 * 0.5 / sqrt(100), not / sqrt(1000)."""
    won = np.repeat(np.arange(100) % 2, 10)
    found = _compute(judgements(won * 2.0 - 1, np.ones(1000), np.repeat(np.arange(100), 10)), blank_batch)
    assert found["accuracy"] == 0.5
    assert (found["accuracy_high"] - found["accuracy_low"]) / 2 == pytest.approx(0.098, abs=0.015)


def test_a_model_that_says_nothing_wins_nothing(judgements: Make, blank_batch: Batch) -> None:
    found = _compute(judgements(np.zeros(9), [1, 0, 0.7] * 3, range(9)), blank_batch)
    assert (found["accuracy"], found["ties"], found["ece"]) == (0, 9, pytest.approx(0, abs=0.2))


@given(st.floats(-5, 5), st.floats(0, 1))
def test_turning_a_pair_changes_nothing(margin: float, outcome: float) -> None:
    plain, turned = (won_N(torch.tensor([s * margin]), torch.tensor([o])) for s, o in ((1, outcome), (-1, 1 - outcome)))
    if outcome != 0.5 and 1 - outcome != 0.5:
        assert bool(plain) == bool(turned)
    if margin == 0:
        assert not plain


def test_best_reachable_accuracy(judgements: Make, blank_batch: Batch) -> None:
    """True probabilities 0.9 and 0.2: knowing them is right 0.9 and 0.8 of the time. A label of 1/2 is left out."""
    judged = judgements([1, 1, 1], [1, 0, 0.5], [0, 1, 2], gold_J=torch.tensor([0.9, 0.2, 0.5]))
    assert _compute(judged, blank_batch)["bayes_accuracy"] == pytest.approx(0.85)


def test_best_reachable_accuracy_needs_every_true_reward(judgements: Make, blank_batch: Batch) -> None:
    gold, source = torch.tensor([0.9, torch.nan]), torch.tensor([0, 1])
    judged = judgements([1, 1], [1, 1], [0, 1], gold_J=gold, source_J=source)
    found = _compute(judged, blank_batch, ("world", "file"))
    assert np.isnan(found["bayes_accuracy"])
    assert np.isnan(found["bayes_accuracy/file"])
    assert found["bayes_accuracy/world"] == pytest.approx(0.9)


def test_gold_model_reaches_the_best(random_batches: Callable[..., list[Batch]]) -> None:
    """Labels drawn from the true probability: the true reward as score reaches the Bayes accuracy, within noise."""
    rng, metric, loss = torch.Generator().manual_seed(0), PairMetrics(), BradleyTerry()
    for batch in random_batches(400, per_batch=50):
        judged = loss.judge(batch.gold_S[:, None], batch)
        drawn = (torch.rand(judged.gold_J.shape, generator=rng) < judged.gold_J).float()
        metric.update(replace(judged, outcome_J=drawn), batch.gold_S, batch)
    found = metric.compute()
    assert found["accuracy_low"] < found["bayes_accuracy"] < found["accuracy_high"]
    assert found["ece"] < 0.03


def test_per_source(judgements: Make, blank_batch: Batch) -> None:
    judged = judgements([1, 1, -1], [1, 1, 1], [0, 1, 2], source_J=torch.tensor([0, 1, 1]))
    found = _compute(judged, blank_batch, ("one", "two"))
    assert (found["accuracy/one"], found["accuracy/two"]) == (1, 0.5)
    assert (found["n/one"], found["n/two"], found["n"]) == (1, 2, 3)
    assert not any("/" in key for key in _compute(judged, blank_batch, ("one",)))


@given(seed=st.integers(0, 2**31), cuts=st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=25, deadline=None)
def test_order_and_batches_change_no_digit(judgements: Make, blank_batch: Batch, seed: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    judged = judgements(rng.integers(-3, 4, 40) / 2, rng.choice([0.0, 0.3, 0.5, 1.0], 40), rng.integers(0, 9, 40))
    whole, parts = PairMetrics(), PairMetrics()
    whole.update(judged, NO_SCORES, blank_batch)
    for rows in np.split(rng.permutation(40), sorted(cuts)):
        filled = [f.name for f in fields(judged) if len(getattr(judged, f.name))]
        part = replace(judged, **{name: getattr(judged, name)[torch.from_numpy(rows)] for name in filled})
        parts.update(part, NO_SCORES, blank_batch)
    np.testing.assert_equal(parts.compute(), whole.compute())


def test_rows_name_the_pairs_for_the_report(random_batches: Callable[..., list[Batch]]) -> None:
    metric, loss, (batch,) = PairMetrics(), BradleyTerry(), random_batches(3)
    metric.update(loss.judge(batch.gold_S[:, None], batch), batch.gold_S, batch)
    metric.compute()
    metric.reset()
    rows = metric.rows()
    places = zip(batch.prompt_G[batch.group_S].tolist(), batch.slot_S.tolist(), strict=True)
    score = dict(zip(places, batch.gold_S.tolist(), strict=True))
    for group, first, second, margin in zip(rows.group_J, rows.slot_J, rows.second_J, rows.margin_J, strict=True):
        expected = score[int(group), int(first)] - score[int(group), int(second)]
        assert float(margin) == pytest.approx(expected, abs=1e-6)
    assert rows.group_J.tolist() == sorted(rows.group_J.tolist())
