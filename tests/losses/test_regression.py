"""Squared error on ratings or grades, nan left out."""

from __future__ import annotations

from math import nan
from typing import Any

import pytest
import torch

from rmlab.batch import Completion, Example, Ranking
from rmlab.errors import UsageError
from rmlab.losses.regression import Regression


def test_ratings(facts: Any) -> None:
    """Errors 1 and 2 of two known ratings of the first, 3 of one of the second: 1 + 4 + 9 over 3."""
    batch = facts.batch([facts.record([1], [[10], [11]], attributes=[[4.0, 1.0], [nan, 2.0]])])
    result = Regression(2)(torch.tensor([[5.0, 3.0], [9.0, -1.0]]), batch)
    assert (float(result.total), float(result.weight)) == (14.0, 3.0)


def test_a_batch_without_ratings_weighs_nothing(facts: Any) -> None:
    batch = facts.ranked([0, 1])
    result = Regression(2)(torch.zeros(2, 2, requires_grad=True), batch)
    result.total.backward()
    assert (float(result.total.detach()), float(result.weight)) == (0.0, 0.0)


def test_grades_weigh_what_their_ranking_does(facts: Any) -> None:
    """Grades 3 and 1 for completions 1 and 0, outputs 2 and 1: errors 1 and 0. Then a list, one grade missing."""
    batch = facts.ranked([1, 0], [0, 1, 2], completions=3, grades=[[3.0, 1.0], [2.0, nan, 0.0]], weight=[0.5, 2.0])
    result = Regression()(torch.tensor([[1.0], [2.0], [-1.0]]), batch)
    assert float(result.total) == pytest.approx(0.5 * (1 + 0) + 2 * (1 + 1))
    assert float(result.weight) == pytest.approx(0.5 * 2 + 2 * 2)


def test_scores_and_pairs(facts: Any) -> None:
    batch, out = facts.ranked([0, 1]), torch.tensor([[1.0, 3.0], [2.0, 0.0]])
    assert Regression(2).score(out, batch).tolist() == [2.0, 1.0]
    weighted = Regression(2, [1.0, -0.5])
    assert weighted.score(out, batch).tolist() == [-0.5, 2.0]
    assert weighted.judge(out, batch).margin_J.tolist() == [-2.5]
    assert (Regression(2).rule, weighted.rule) == ("mean", "weighted")


@pytest.mark.parametrize(
    ("attributes", "example", "reason"),
    [
        (2, Example(prompt="p", completions=(Completion(text="a", attributes=(1.0, 2.0)), Completion(text="b"))), None),
        (2, Example(prompt="p", completions=(Completion(text="a", attributes=(1.0,)),)), "has 1 ratings, expected 2"),
        (2, Example(prompt="p", completions=(Completion(text="a", attributes=(nan, nan)),)), "no ratings"),
        (0, Example(prompt="p", completions=(Completion(text="a", attributes=(1.0,)),)), "no grades"),
        (
            0,
            Example(prompt="p", completions=(Completion(text="a"),), rankings=(Ranking(order=(0,), grades=(4.0,)),)),
            None,
        ),
    ],
)
def test_check(attributes: int, example: Example, reason: str | None) -> None:
    found = Regression(attributes).check(example)
    assert found is None if reason is None else found is not None and reason in found


@pytest.mark.parametrize(
    "options", [{"attributes": -1}, {"attributes": 2, "score_weights": [1.0]}, {"score_weights": [1.0]}]
)
def test_options(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"loss\.attributes"):
        Regression(**options)
