"""The plan of steps: every prompt once an epoch, never split, the same whatever the machine."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmlab.data.sampler import StepSampler, cut
from rmlab.errors import UsageError

sizes = st.lists(st.integers(1, 50), min_size=1, max_size=60).map(lambda x: np.array(x))


def sampler(tokens: np.ndarray, **options: Any) -> StepSampler:
    defaults = dict(cost=tokens, prompts_per_step=4, max_tokens=100, seed=1, shuffle=True)
    return StepSampler(tokens, **(defaults | options))


def prompts(step: list[tuple[int, ...]]) -> list[int]:
    return [p for micro in step for p in micro]


@settings(deadline=None)
@given(
    tokens=sizes,
    per_step=st.integers(1, 9),
    ranks=st.integers(1, 3),
    epoch=st.integers(0, 3),
    limit=st.integers(50, 500),
)
def test_every_prompt_once_and_the_same_steps_for_any_number_of_ranks_and_any_budget(
    tokens: np.ndarray, per_step: int, ranks: int, epoch: int, limit: int
) -> None:
    whole = sampler(tokens, prompts_per_step=per_step)
    whole.set_epoch(epoch)
    parts = [sampler(tokens, prompts_per_step=per_step, max_tokens=limit, rank=r, ranks=ranks) for r in range(ranks)]
    for part in parts:
        part.set_epoch(epoch)
    one, many = [sorted(prompts(s)) for s in whole], list(zip(*parts, strict=True))
    assert sorted(chain(*one)) == list(range(len(tokens)))
    assert [sorted(chain(*(prompts(rank) for rank in step))) for step in many] == one
    assert all(len({len(rank) for rank in step}) == 1 for step in many)  # ranks meet after each micro-batch


@settings(deadline=None)
@given(
    tokens=sizes,
    limit=st.integers(50, 200),
    ranks=st.integers(1, 4),
    pair_cost=st.sampled_from([0.0, 0.01, 0.3, 5.0]),
)
def test_micro_batches_respect_the_budget_and_ranks_the_balance(
    tokens: np.ndarray, limit: int, ranks: int, pair_cost: float
) -> None:
    """No prompt lost or split, no budget exceeded; neither in a round nor over the step do two ranks differ by more
    than the dearest prompt."""
    cost = tokens + pair_cost * tokens**2
    parts = cut(range(len(tokens)), tokens, cost, limit, ranks)
    assert sorted(prompts([m for rank in parts for m in rank])) == list(range(len(tokens)))
    assert max(int(tokens[list(micro)].sum()) for rank in parts for micro in rank) <= limit
    load = np.array([[cost[list(micro)].sum() for micro in rank] for rank in parts])
    dearest = cost.max() * (1 + 1e-9)
    assert np.ptp(load, axis=0).max() <= dearest
    assert np.ptp(load.sum(1)) <= dearest


def test_micro_batches_are_balanced() -> None:
    """8 prompts of 10 to 80 tokens, 360 in all, budget 200: two micro-batches of 180."""
    tokens = np.arange(10, 90, 10)
    (rank,) = cut(range(8), tokens, tokens, 200)
    assert [int(tokens[list(m)].sum()) for m in rank] == [180, 180]


def test_attention_counts_in_the_balance() -> None:
    """One prompt of 60 tokens and six of 20, budget 120. At 0.05 tokens a pair the long one costs 60 + 180 and the six
    20 + 20 each: 240 on either side. By tokens alone two or three short ones stand beside it."""
    tokens = np.array([60, *[20] * 6])
    by_cost = cut(range(7), tokens, tokens + 0.05 * tokens**2, 120)
    assert by_cost == [[(0,), (1, 2, 3, 4, 5, 6)]]
    assert sorted(len(micro) for micro in cut(range(7), tokens, tokens, 120)[0]) == [3, 4]


def test_epochs_differ_and_seeds_decide() -> None:
    tokens = np.full(40, 3)
    first, again, other = sampler(tokens), sampler(tokens), sampler(tokens, seed=2)
    assert list(first) == list(again)
    assert list(first) != list(other)
    again.set_epoch(1)
    assert list(first) != list(again)


def test_resume_gives_the_rest_of_the_epoch_once() -> None:
    tokens = np.full(40, 3)
    s = sampler(tokens)
    s.set_epoch(2)
    whole = list(s)
    s.resume(epoch=2, step=7)
    assert list(s) == whole[7:]
    assert list(s) == whole


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"data\.prompts_per_step is 0, expected 1 or more"):
        sampler(np.ones(3, int), prompts_per_step=0)
    with pytest.raises(UsageError, match=r"data\.max_tokens is 0"):
        sampler(np.ones(3, int), max_tokens=0)
