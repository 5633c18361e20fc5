"""The margin shapes the training and not the judgement."""

from __future__ import annotations

from math import e, log, log1p, nan
from typing import Any

import pytest
import torch
from torch import Tensor

from rmlab.errors import UsageError
from rmlab.losses.bt import BradleyTerry
from rmlab.losses.margin import Margin


def out(*reward: float) -> Tensor:
    return torch.tensor(reward, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"margin_scale": 0.5}, log(2)),  # d = 1, m = 0.5 * 2 = 1
        ({}, log1p(e)),  # d - m = 1 - 2 = -1
        ({"margin_cap": 1.0}, log(2)),  # m = min(2, 1) = 1
        ({"margin_scale": 10.0, "margin_cap": 1.0}, log(2)),
    ],
)
def test_worked_numbers(facts: Any, options: dict[str, float], expected: float) -> None:
    """Rewards 1 and 0, grades 3 and 1."""
    result = Margin(**options)(out(1.0, 0.0), facts.ranked([0, 1], grades=[[3.0, 1.0]]))
    assert float(result.total) == pytest.approx(expected)
    assert float(result.weight) == 1.0


def test_the_margin_is_left_out_of_the_judgement(facts: Any) -> None:
    batch = facts.ranked([0, 1], grades=[[3.0, 1.0]])
    ours, plain = Margin().judge(out(1.0, 0.0), batch), BradleyTerry().judge(out(1.0, 0.0), batch)
    assert torch.equal(ours.probability_J, plain.probability_J)


def test_pairs_without_grades_weigh_nothing(facts: Any) -> None:
    """Of 0 > 1 > 2 with grades 2, nan, 1 only the pair (0, 2) has a margin: d = 3, m = 1."""
    batch = facts.ranked([0, 1, 2], completions=3, grades=[[2.0, nan, 1.0]])
    result = Margin()(out(3.0, 1.0, 0.0), batch)
    assert float(result.total) == pytest.approx(log1p(e**-2))
    assert float(result.weight) == 1.0


def test_a_soft_label_moves_the_optimum_by_the_margin(facts: Any) -> None:
    """At d = m + log(q / (1 - q)) the gradient is zero: q = 0.7, m = 2."""
    batch = facts.ranked([0, 1], grades=[[3.0, 1.0]], probability=[0.7])
    reward = out(2 + log(0.7 / 0.3), 0.0).requires_grad_()
    Margin()(reward, batch).total.backward()
    assert reward.grad is not None
    assert reward.grad.abs().max() < 1e-7


@pytest.mark.parametrize("options", [{"margin_scale": 0.0}, {"margin_scale": nan}, {"margin_cap": 0.0}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"loss.{next(iter(options))} is .* expected a number above 0"):
        Margin(**options)
