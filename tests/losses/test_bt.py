"""Bradley-Terry: its algebra, and what a model trained with it recovers."""

from __future__ import annotations

from typing import Any

import choix
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rmlab.batch import Batch
from rmlab.errors import UsageError
from rmlab.heads.linear import LinearHead
from rmlab.losses.all_pairs import AllPairs
from rmlab.losses.bt import BradleyTerry
from rmlab.losses.margin import Margin
from rmlab.losses.pairs import pair_nll, pairs_of

rewards = st.floats(-20, 20)


def bt(reward: list[float], batch: Batch, **options: Any) -> float:
    result = BradleyTerry(**options)(torch.tensor(reward, dtype=torch.float64)[:, None], batch)
    return float(result.total / result.weight)


@given(a=rewards, b=rewards, q=st.floats(0, 1))
def test_softplus_form_is_the_naive_form(facts: Any, a: float, b: float, q: float) -> None:
    """-[q log s(d) + (1 - q) log(1 - s(d))], s(d) = 1 / (1 + exp(-d)), written out."""
    batch = facts.ranked([0, 1], probability=[q])
    q = float(batch.probability_R[0])  # as fp32 holds it
    s = 1 / (1 + np.exp(-(a - b))), 1 / (1 + np.exp(a - b))
    assert bt([a, b], batch) == pytest.approx(-(q * np.log(s[0]) + (1 - q) * np.log(s[1])), rel=1e-9, abs=1e-9)


@given(a=rewards, b=rewards, shift=st.floats(-100, 100))
def test_only_differences_matter(facts: Any, a: float, b: float, shift: float) -> None:
    batch = facts.ranked([0, 1])
    assert bt([a + shift, b + shift], batch) == pytest.approx(bt([a, b], batch), abs=1e-9)


def test_a_tie_costs_log_2(facts: Any) -> None:
    assert bt([1.5, 1.5], facts.ranked([0, 1])) == pytest.approx(np.log(2), abs=1e-12)


@pytest.mark.parametrize(("margin", "expected"), [(1000.0, 0.0), (-1000.0, 1000.0)])
def test_finite_at_extreme_margins(margin: float, expected: float) -> None:
    """log(1 + exp(1000)) = 1000 where the naive form gives inf."""
    logit = torch.tensor([margin], requires_grad=True)
    loss = pair_nll(logit, torch.ones(1))
    loss.sum().backward()
    assert float(loss.detach()) == pytest.approx(expected)
    assert logit.grad is not None
    assert float(logit.grad) == pytest.approx(-1.0 if margin < 0 else 0.0)


@given(i=st.floats(-5, 5), j=st.floats(-5, 5))
def test_sigmoid_of_the_difference_is_the_share_of_strength(facts: Any, i: float, j: float) -> None:
    """s(r_i - r_j) = p_i / (p_i + p_j) with p = exp(r)."""
    out = torch.tensor([[i], [j]], dtype=torch.float64)
    judged = BradleyTerry().judge(out, facts.ranked([0, 1]))
    assert float(judged.probability_J) == pytest.approx(np.exp(i) / (np.exp(i) + np.exp(j)), rel=1e-9)


def test_label_smoothing_is_a_softer_label(facts: Any) -> None:
    """0.1 on a certain label states 0.9 for the first."""
    smoothed = bt([0.3, -0.4], facts.ranked([0, 1]), label_smoothing=0.1)
    assert smoothed == pytest.approx(bt([0.3, -0.4], facts.ranked([0, 1], probability=[0.9])), rel=1e-6)


@pytest.mark.parametrize("loss", [BradleyTerry, AllPairs, Margin])
@pytest.mark.parametrize("value", [-0.1, 0.5])
def test_label_smoothing_out_of_range(loss: Any, value: float) -> None:
    with pytest.raises(UsageError, match=r"loss\.label_smoothing is .*\[0, 0\.5\)"):
        loss(label_smoothing=value)


def test_weights_are_a_weighted_mean(facts: Any) -> None:
    """Weights 3 and 1 on losses log(1 + e^-1) and log(1 + e^1)."""
    batch = facts.ranked([0, 1], [1, 0], weight=[3.0, 1.0])
    assert bt([1.0, 0.0], batch) == pytest.approx((3 * np.log1p(np.exp(-1)) + np.log1p(np.e)) / 4)


def test_pairs_of_a_list_leave_out_ties_and_padding(facts: Any) -> None:
    """2 > {0, 3} > 1 as a list of four, and 0 > 1 as a pair padded to four: five pairs and one."""
    batch = facts.ranked([2, 0, 3, 1], [0, 1], completions=4, grades=[[5.0, 2.0, 2.0, 1.0], []])
    pairs = pairs_of(batch)
    rows = zip(*(t[pairs.real_P].tolist() for t in (pairs.first_P, pairs.second_P, pairs.ranking_P)), strict=True)
    assert sorted(rows) == [(0, 1, 0), (0, 1, 1), (2, 0, 0), (2, 1, 0), (2, 3, 0), (3, 1, 0)]
    assert float(BradleyTerry().weight(batch)) == 6.0


def fit(batch: Batch, items: int) -> Tensor:
    """Returns the strengths of a linear model on one-hot items, trained to the optimum with rmlab's loss and head."""
    torch.manual_seed(0)
    head, loss, one_hot = LinearHead(items, 1).double(), BradleyTerry(), torch.eye(items, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10)
    states = one_hot[batch.token_T[loss.positions(batch)] - 10]

    def closure() -> Tensor:
        optimizer.zero_grad()
        result = loss(head(states), batch)
        (result.total / result.weight).backward()
        return result.total / result.weight

    optimizer.step(closure)
    strength = head(one_hot)[:, 0].detach()
    return strength - strength.mean()


def test_a_linear_model_recovers_what_a_maximum_likelihood_package_finds(facts: Any) -> None:
    """8 items, 3,000 noisy comparisons; `choix` fits the same likelihood with its own code."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=8)
    pairs = [tuple(rng.choice(8, 2, replace=False).tolist()) for _ in range(3000)]
    wins = [(a, b) if rng.random() < 1 / (1 + np.exp(true[b] - true[a])) else (b, a) for a, b in pairs]
    expected = choix.opt_pairwise(8, wins)
    found = fit(facts.ranked(*wins, completions=8), 8)
    np.testing.assert_allclose(found.numpy(), expected - expected.mean(), atol=1e-2)


@pytest.mark.parametrize("said", ["as a probability", "as ten votes"])
def test_seven_labelers_of_ten(facts: Any, said: str) -> None:
    """The optimum is P(A > B) = 0.70, whichever way the disagreement is written down."""
    votes = facts.ranked(*[[0, 1]] * 7, *[[1, 0]] * 3)
    batch = facts.ranked([0, 1], probability=[0.7]) if said == "as a probability" else votes
    a, b = fit(batch, 2)
    assert float(torch.sigmoid(a - b)) == pytest.approx(0.70, abs=1e-3)
