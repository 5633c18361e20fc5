"""The outcome on every token of a completion and on none of the prompt."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, log_expit, logit
from sklearn.metrics import log_loss

from rmlab.batch import Batch, Completion, Example
from rmlab.errors import UsageError
from rmlab.losses.orm import OutcomeReward

RULES = {"mean": np.mean, "min": np.min, "last": lambda p: p[-1], "product": lambda p: np.log(p).sum()}


@pytest.fixture
def batch(facts: Any) -> Batch:
    """Two prompts; completions of 3, 2, 1 and 4 tokens that are right, wrong, unlabelled and right."""
    one = facts.record([1, 2, 3], [[10, 11, 7], [12, 7]], outcome=[1.0, 0.0])
    two = facts.record([4], [[13], [14, 15, 16, 7]], outcome=[nan, 1.0])
    return facts.batch([one, two])


def test_every_completion_token_and_no_prompt_token_is_read(batch: Batch) -> None:
    assert OutcomeReward().positions(batch).tolist() == [3, 4, 5, 6, 7, 9, 10, 11, 12, 13]


def test_cross_entropy_against_scikit_learn(batch: Batch) -> None:
    out = torch.randn(10, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    keep = [0, 1, 2, 3, 4, 6, 7, 8, 9]  # index 5 is the token of the unlabelled completion
    label = [1, 1, 1, 0, 0, 1, 1, 1, 1]
    result = OutcomeReward()(out, batch)
    assert float(result.total) == pytest.approx(log_loss(label, expit(out[keep, 0].numpy()), normalize=False))
    assert float(result.weight) == 9.0


def test_leaving_the_prompt_unmasked_would_change_the_result(batch: Batch) -> None:
    """The same outputs read on all tokens, the prompt's taking their completion's label, give another mean."""
    logit_T = torch.randn(batch.tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loss = OutcomeReward()
    result = loss(logit_T[loss.positions(batch), None], batch)
    first = slice(0, 6)  # prompt and first completion, which is right
    unmasked = torch.cat([-torch.nn.functional.logsigmoid(logit_T[first])]).mean()
    masked = -torch.nn.functional.logsigmoid(logit_T[3:6]).mean()
    assert abs(float(unmasked - masked)) > 1e-3
    moved = logit_T.clone()
    moved[:3] += 5
    assert torch.equal(loss(moved[loss.positions(batch), None], batch).total, result.total)


@pytest.mark.parametrize("rule", RULES)
def test_scores(batch: Batch, rule: str) -> None:
    out = torch.randn(10, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    p = np.split(expit(out[:, 0].numpy()), [3, 5, 6])
    expected = [RULES[rule](part) for part in p]
    assert OutcomeReward(rule).score(out, batch).tolist() == pytest.approx(expected)
    assert OutcomeReward(rule).local(out, batch).tolist() == pytest.approx(np.concatenate(p).tolist())


def test_judgements_are_labelled_completions_scored_by_the_rule(batch: Batch) -> None:
    out = torch.randn(10, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    judged = OutcomeReward("min").judge(out, batch)
    p = [expit(part).min() for part in np.split(out[:, 0].numpy(), [3, 5, 6])]
    assert judged.probability_J.tolist() == pytest.approx([p[0], p[1], p[3]])
    assert judged.margin_J.tolist() == pytest.approx(logit([p[0], p[1], p[3]]).tolist())
    assert judged.outcome_J.tolist() == [1.0, 0.0, 1.0]
    assert judged.slot_J.tolist() == [0, 1, 1]
    assert judged.group_J.tolist() == [0, 0, 1]


def test_a_long_completion_in_fp32(facts: Any) -> None:
    """4,000 tokens at logit -3: the log of the product is 4000 log s(-3) and its log-odds are the same number."""
    batch = facts.batch([facts.record([1], [[10] * 4000], outcome=[0.0])])
    loss, out = OutcomeReward("product"), torch.full((4000, 1), -3.0)
    assert float(loss.score(out, batch)) == pytest.approx(4000 * log_expit(-3.0), rel=1e-6)
    assert float(loss.judge(out, batch).margin_J) == pytest.approx(4000 * log_expit(-3.0), rel=1e-6)


def test_labels_outside_the_classes() -> None:
    example = Example(prompt="p", completions=(Completion(text="a"), Completion(text="b", outcome=0.3)))
    assert OutcomeReward().check(example) == "outcome is 0.3, expected 0 or 1 (column label)"
    with pytest.raises(UsageError, match=r"loss\.rule is max"):
        OutcomeReward("max")
