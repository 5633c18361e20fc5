"""Scoring rules: in order, exact in log space, nan where there is nothing to score."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rmlab.errors import UsageError
from rmlab.losses.aggregate import RULES, Rule, as_score, checked_rule, log_aggregate, log_odds

logs = st.lists(st.tuples(st.floats(-60, 0, width=32), st.integers(0, 3)), min_size=1, max_size=30)


def split(pairs: list[tuple[float, int]]) -> tuple[Tensor, Tensor]:
    pairs = sorted(pairs, key=lambda p: p[1])
    return torch.tensor([p[0] for p in pairs]), torch.tensor([p[1] for p in pairs])


def in_order(log_N: Tensor, segment_N: Tensor, segments: int) -> bool:
    value = {rule: log_aggregate(log_N, segment_N, segments, rule) for rule in RULES}
    highest = log_N.new_full((segments,), -torch.inf).scatter_reduce(0, segment_N, log_N, "amax")
    seen = ~value["mean"].isnan()
    chain = [value["product"], value["min"], value["mean"], highest]
    return all(bool((low[seen] <= high[seen]).all()) for low, high in itertools.pairwise(chain))


@given(pairs=logs)
def test_product_min_mean_max_are_in_order(pairs: list[tuple[float, int]]) -> None:
    assert in_order(*split(pairs), 4)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 100), low=st.floats(-90, -1e-2))
def test_four_thousand_tokens_neither_under_nor_overflow(seed: int, low: float) -> None:
    log_N = torch.empty(8000, dtype=torch.float64).uniform_(low, 0, generator=torch.Generator().manual_seed(seed))
    segment = torch.arange(2).repeat_interleave(4000)
    assert in_order(log_N, segment, 2)
    for rule in RULES:
        score = as_score(log_aggregate(log_N, segment, 2, rule), rule)
        assert bool(score.isfinite().all())
        assert score[0] != score[1]


def test_even_odds_over_four_thousand_tokens() -> None:
    """0.5 ** 4000 = exp(-4000 log 2), which no float holds; its logarithm does. The mean stays 0.5."""
    log_N, segment = torch.full((4000,), 0.5).log(), torch.zeros(4000, dtype=torch.long)
    assert float(as_score(log_aggregate(log_N, segment, 1, "product"), "product")) == pytest.approx(-4000 * np.log(2))
    assert float(as_score(log_aggregate(log_N, segment, 1, "mean"), "mean")) == pytest.approx(0.5, rel=1e-6)


@given(pairs=logs)
def test_against_numpy(pairs: list[tuple[float, int]]) -> None:
    log_N, segment = split(pairs)
    plain: dict[Rule, Any] = {"mean": np.mean, "min": np.min, "product": np.prod, "last": lambda p: p[-1]}
    for rule, function in plain.items():
        found = log_aggregate(log_N.double(), segment, 4, rule)
        for s in set(segment.tolist()):
            expected = function(log_N[segment == s].double().exp().numpy())
            if expected > 1e-300:  # numpy's product does underflow
                assert float(found[s]) == pytest.approx(np.log(expected), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_to_score_is_nan(rule: Rule) -> None:
    """Completion 1 of three has no step; with no step at all every completion is nan."""
    some = log_aggregate(torch.tensor([-1.0, -2.0]), torch.tensor([0, 2]), 3, rule)
    assert some.tolist() == pytest.approx([-1.0, float("nan"), -2.0], nan_ok=True)
    none = log_aggregate(torch.empty(0), torch.empty(0, dtype=torch.long), 2, rule)
    assert bool(none.isnan().all())
    assert len(none) == 2


@given(logit=st.floats(-60, 80))
def test_log_odds_invert_log_sigmoid(logit: float) -> None:
    x = torch.tensor([logit], dtype=torch.float64)
    assert float(log_odds(torch.nn.functional.logsigmoid(x))) == pytest.approx(logit, rel=1e-9, abs=1e-9)


def test_log_odds_stay_finite() -> None:
    assert bool(log_odds(torch.tensor([0.0, -1e5])).isfinite().all())


def test_unknown_rule() -> None:
    with pytest.raises(UsageError, match=r"loss\.rule is median, expected one of mean, min, product, last"):
        checked_rule("median")
