"""A prompt counts once, however many pairs it has and however they are written down."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from rmlab.losses.all_pairs import AllPairs


def naive(reward: list[float], pairs: list[tuple[int, int]]) -> float:
    return float(np.mean([np.log1p(np.exp(reward[b] - reward[a])) for a, b in pairs]))


def run(reward: list[float], batch: Any) -> tuple[float, float]:
    result = AllPairs()(torch.tensor(reward, dtype=torch.float64)[:, None], batch)
    return float(result.total), float(result.weight)


def test_a_list_is_the_mean_of_its_pairs(facts: Any) -> None:
    reward, order = [0.3, -1.0, 2.0, 0.7], [2, 0, 3, 1]
    total, weight = run(reward, facts.ranked(order, completions=4))
    assert (total, weight) == pytest.approx((naive(reward, list(combinations(order, 2))), 1.0))


def test_ties_are_not_among_the_pairs(facts: Any) -> None:
    """2 > {0, 3}: two pairs of three, each weighing a half."""
    reward = [0.3, -1.0, 2.0, 0.7]
    total, weight = run(reward, facts.ranked([2, 0, 3], completions=4, grades=[[2.0, 1.0, 1.0]]))
    assert (total, weight) == pytest.approx((naive(reward, [(2, 0), (2, 3)]), 1.0))


def test_pairs_that_share_a_prompt_count_as_their_list_does(facts: Any) -> None:
    """TRL-style pairs 0 > 1, 0 > 2, 1 > 2 of one prompt, merged by the packer, equal the list 0 > 1 > 2."""
    records = [facts.record([1], [[10 + a], [10 + b]], order=[[0, 1]]) for a, b in [(0, 1), (0, 2), (1, 2)]]
    reward = [0.5, -0.2, 0.1]
    assert run(reward, facts.batch(records)) == pytest.approx(run(reward, facts.ranked([0, 1, 2], completions=3)))


def test_nine_completions_weigh_as_two(facts: Any) -> None:
    nine = facts.record([1], [[10 + i] for i in range(9)], order=[list(range(9))])
    two = facts.record([2], [[10], [11]], order=[[0, 1]])
    reward = [*np.linspace(1, -1, 9).tolist(), 0.0, 0.4]
    expected = naive(reward, list(combinations(range(9), 2))) + naive(reward, [(9, 10)])
    assert run(reward, facts.batch([nine, two])) == pytest.approx((expected, 2.0))
