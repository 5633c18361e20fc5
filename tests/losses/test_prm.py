"""Steps as classes: masked where unlabelled, merged as asked, weighted by class, scored by rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import log_loss
from torch import Tensor

from rmlab.batch import Batch, Completion, Example, Step
from rmlab.errors import UsageError
from rmlab.losses.prm import ProcessReward

LABELS = [1, 0, -1, -100, 0, 1]


@pytest.fixture
def batch(facts: Any) -> Batch:
    """Three completions with steps +1, 0, -1 | none | unlabelled, 0, +1; steps end at tokens 0, 2, 4 and 1, 2, 3."""
    record = facts.record(
        [1, 2],
        [[10, 11, 12, 13, 7], [14, 7], [15, 16, 17, 7]],
        step_end=[[0, 2, 4], [], [1, 2, 3]],
        step_label=[[1, 0, -1], [], [-100, 0, 1]],
    )
    return facts.batch([record])


def outputs(classes: int) -> Tensor:
    return torch.randn(6, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(classes))


def test_only_step_ends_are_read(batch: Batch) -> None:
    assert ProcessReward().positions(batch).tolist() == [2, 4, 6, 10, 11, 12]


@pytest.mark.parametrize("weights", [None, [2.0, 0.5, 1.0]])
def test_three_classes_against_scikit_learn(batch: Batch, weights: list[float] | None) -> None:
    out, kept = outputs(3), [0, 1, 2, 4, 5]
    truth = np.array(LABELS)[kept] + 1
    weight = np.array(weights or [1.0] * 3)[truth]
    expected = log_loss(truth, softmax(out[kept].numpy(), 1), normalize=False, sample_weight=weight, labels=[0, 1, 2])
    result = ProcessReward(class_weights=weights)(out, batch)
    assert float(result.total) == pytest.approx(expected)
    assert float(result.weight) == pytest.approx(weight.sum())


@pytest.mark.parametrize(("neutral", "truth"), [("correct", [1, 1, 0, 1, 1]), ("incorrect", [1, 0, 0, 0, 1])])
def test_two_classes_merge_neutral_as_asked(batch: Batch, neutral: str, truth: list[int]) -> None:
    out, kept, loss = outputs(2), [0, 1, 2, 4, 5], ProcessReward(2, neutral, [3.0, 1.0])
    weight = np.array([3.0, 1.0])[truth]
    expected = log_loss(truth, softmax(out[kept].numpy(), 1), normalize=False, sample_weight=weight)
    result, judged = loss(out, batch), loss.judge(out, batch)
    assert float(result.total) == pytest.approx(expected)
    assert float(result.weight) == pytest.approx(weight.sum())
    assert judged.outcome_J.tolist() == truth
    assert judged.label_J.tolist() == [2 * y - 1 for y in truth]
    assert judged.predicted_J.tolist() == [2 * y - 1 for y in out[kept].argmax(1).tolist()]


def test_unlabelled_steps_get_no_gradient(batch: Batch) -> None:
    out = outputs(3).requires_grad_()
    ProcessReward()(out, batch).total.backward()
    assert out.grad is not None
    assert out.grad.any(1).tolist() == [True, True, True, False, True, True]


def test_judgements_name_prompt_completion_and_step(batch: Batch) -> None:
    out = outputs(3)
    judged = ProcessReward().judge(out, batch)
    kept = [0, 1, 2, 4, 5]
    assert judged.slot_J.tolist() == [0, 0, 0, 2, 2]
    assert judged.step_J.tolist() == [0, 2, 4, 2, 3]
    assert judged.label_J.tolist() == [1, 0, -1, 0, 1]
    assert judged.outcome_J.tolist() == [1, 0, 0, 0, 1]
    assert judged.predicted_J.tolist() == (out[kept].argmax(1) - 1).tolist()
    assert judged.probability_J.tolist() == pytest.approx(softmax(out[kept].numpy(), 1)[:, 2].tolist())
    assert ProcessReward(add_neutral=True).judge(out, batch).outcome_J.tolist() == [1, 1, 0, 1, 1]


@pytest.mark.parametrize("add_neutral", [False, True])
@pytest.mark.parametrize("rule", ["min", "mean", "last", "product"])
def test_scores(batch: Batch, rule: str, add_neutral: bool) -> None:
    """The completion without steps has no score."""
    out, loss = outputs(3), ProcessReward(rule=rule, add_neutral=add_neutral)
    p = softmax(out.numpy(), 1)[:, 1 if add_neutral else 2 :].sum(1)
    function: Any = {"min": np.min, "mean": np.mean, "last": lambda x: x[-1], "product": lambda x: np.log(x).sum()}[
        rule
    ]
    assert loss.score(out, batch).tolist() == pytest.approx([function(p[:3]), np.nan, function(p[3:])], nan_ok=True)
    assert loss.local(out, batch).tolist() == pytest.approx(p.tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 4}, "loss.classes is 4, expected 3, or 2 with"),
        ({"classes": 2}, "type loss.neutral=correct or loss.neutral=incorrect"),
        ({"classes": 2, "neutral": "wrong"}, "loss.neutral is wrong"),
        ({"neutral": "correct"}, "type loss.classes=2"),
        ({"classes": 2, "neutral": "correct", "add_neutral": True}, "loss.add_neutral is true"),
        ({"class_weights": [1.0, 2.0]}, "expected 3 numbers above 0"),
        ({"class_weights": [1.0, 2.0, 0.0]}, "expected 3 numbers above 0"),
        ({"rule": "max"}, "loss.rule is max"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ProcessReward(**options)


@pytest.mark.parametrize(
    ("label", "reason"), [(2, "step label is 2, expected -1, 0 or 1"), (-100, "no step labels"), (0, None)]
)
def test_labels(label: int, reason: str | None) -> None:
    example = Example(prompt="p", completions=(Completion(text="ab", steps=(Step(end=2, label=label),)),))
    found = ProcessReward().check(example)
    assert found is None if reason is None else found is not None and reason in found
