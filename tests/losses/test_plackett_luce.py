"""Plackett-Luce: a distribution over orders, Bradley-Terry at K = 2, silent about ties."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import choix
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rmlab.batch import Batch
from rmlab.losses.bt import BradleyTerry
from rmlab.losses.plackett_luce import PlackettLuce

reward_lists = st.lists(st.floats(-10, 10), min_size=3, max_size=6)


def nll(reward: list[float], batch: Batch) -> float:
    return float(PlackettLuce()(torch.tensor(reward, dtype=torch.float64)[:, None], batch).total)


@given(a=st.floats(-50, 50), b=st.floats(-50, 50), q=st.floats(0, 1), weight=st.floats(0.1, 3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_bradley_terry_for_two(
    facts: Any, a: float, b: float, q: float, weight: float, dtype: torch.dtype
) -> None:
    batch = facts.ranked([0, 1], probability=[q], weight=[weight])
    out = torch.tensor([[a], [b]], dtype=dtype)
    ours, bt = PlackettLuce()(out, batch), BradleyTerry()(out, batch)
    torch.testing.assert_close(ours.total, bt.total, rtol=1e-7, atol=1e-7)
    assert torch.equal(ours.weight, bt.weight)


@given(reward=reward_lists, data=st.data())
def test_the_likelihood_of_an_order(facts: Any, reward: list[float], data: st.DataObject) -> None:
    """`choix` computes the same likelihood with its own code."""
    order = data.draw(st.permutations(range(len(reward))))
    expected = -choix.log_likelihood_rankings([list(order)], np.array(reward))
    assert nll(reward, facts.ranked(order, completions=len(reward))) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_the_probabilities_of_all_orders_add_up_to_one(facts: Any) -> None:
    reward = [0.4, -1.2, 2.0, 0.0]
    logs = [-nll(reward, facts.ranked(order, completions=4)) for order in permutations(range(4))]
    assert np.exp(logs).sum() == pytest.approx(1.0, rel=1e-9)


def test_ties_are_not_ordered_against_each_other(facts: Any) -> None:
    """Grades 2, 1, 1, 0 for rewards r: i beats {j, k, l}; j and k, each without the other, beat l.

    log(e^ri + e^rj + e^rk + e^rl) - ri + log(e^rj + e^rl) - rj + log(e^rk + e^rl) - rk, by hand.
    """
    r = np.array([1.0, 0.5, -0.5, 0.2])
    strength = np.exp(r)
    expected = (
        np.log(strength.sum()) + np.log(strength[1] + strength[3]) + np.log(strength[2] + strength[3]) - r[:3].sum()
    )
    for order in ([0, 1, 2, 3], [0, 2, 1, 3]):
        batch = facts.ranked(order, completions=4, grades=[[2.0, 1.0, 1.0, 0.0]])
        assert nll(r.tolist(), batch) == pytest.approx(expected, rel=1e-9)


def test_a_tied_pair_weighs_nothing_and_moves_nothing(facts: Any) -> None:
    batch = facts.ranked([0, 1], grades=[[1.0, 1.0]])
    out: Tensor = torch.tensor([[3.0], [-2.0]], requires_grad=True)
    result = PlackettLuce()(out, batch)
    result.total.backward()
    assert float(result.weight) == 0
    assert float(result.total.detach()) == 0
    assert out.grad is not None
    assert not out.grad.any()


def test_a_long_list_counts_once(facts: Any) -> None:
    batch = facts.ranked([0, 1, 2], [1, 0], completions=3, weight=[2.0, 0.5])
    assert float(PlackettLuce().weight(batch)) == pytest.approx(2.5)
