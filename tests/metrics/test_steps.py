"""Step metrics against scikit-learn and brute force."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from rmlab.batch import Batch, Judgements
from rmlab.losses.prm import ProcessReward
from rmlab.metrics.steps import StepMetrics

Make = Callable[..., Judgements]


def _compute(judged: Judgements, batch: Batch, sources: tuple[str, ...] = ()) -> dict[str, float]:
    metric = StepMetrics(sources)
    metric.update(judged, torch.zeros(0), batch)
    return metric.compute()


def _random(make: Make, seed: int, prompts: int = 60, classes: tuple[int, ...] = (-1, 0, 1)) -> Judgements:
    """Two solutions a prompt, 1 to 5 steps each at rising token offsets, in any order of rows."""
    rng = np.random.default_rng(seed)
    at = [(p, s, 3 * m + 2) for p in range(prompts) for s in range(2) for m in range(rng.integers(1, 6))]
    group, slot, step = np.array(at)[rng.permutation(len(at))].T
    chance = [0.15 if c < 1 else 1 - 0.15 * (len(classes) - 1) for c in classes]
    label = rng.choice(classes, len(at), p=chance)
    predicted = np.where(rng.random(len(at)) < 0.8, label, rng.choice([-1, 0, 1], len(at)))
    margin = predicted + rng.normal(size=len(at))
    more = {"slot_J": slot, "step_J": step, "label_J": label, "predicted_J": predicted, "source_J": group % 2}
    return make(margin, label == 1, group, **{name: torch.as_tensor(value) for name, value in more.items()})


def _solutions(
    judged: Judgements, wanted: Callable[[int], bool] = lambda prompt: True
) -> list[tuple[int | None, int | None]]:
    """The first labelled and the first predicted error of each solution, by a loop."""
    steps = defaultdict(list)
    for p, s, m, label, guess in zip(
        *(getattr(judged, f"{n}_J").tolist() for n in ("group", "slot", "step", "label", "predicted")), strict=True
    ):
        if wanted(p):
            steps[p, s].append((m, label, guess))
    return [
        tuple(next((step[0] for step in sorted(found) if step[of] == -1), None) for of in (1, 2))  # type: ignore[misc]
        for found in steps.values()
    ]


def _process_bench(solutions: list[tuple[int | None, int | None]]) -> float:
    wrong = np.mean([a == b for a, b in solutions if a is not None])
    right = np.mean([a == b for a, b in solutions if a is None])
    return float(2 * wrong * right / (wrong + right))


@pytest.mark.parametrize("classes", [(-1, 0, 1), (-1, 1)])
def test_classes_are_scikit_learns(judgements: Make, blank_batch: Batch, classes: tuple[int, ...]) -> None:
    judged = _random(judgements, 0, classes=classes)
    label, predicted = judged.label_J.numpy(), judged.predicted_J.numpy()
    found = _compute(judged, blank_batch)
    macro = f1_score(label, predicted, labels=list(classes), average="macro")
    assert found["macro_f1"] == pytest.approx(macro)
    assert found["macro_f1_low"] < macro < found["macro_f1_high"]
    assert found["accuracy"] == pytest.approx(accuracy_score(label, predicted))
    table = precision_recall_fscore_support(label, predicted, labels=[-1, 0, 1], zero_division=0)
    for i, name in enumerate(("incorrect", "neutral", "correct")):
        if i - 1 in classes:
            numbers = [found[f"{key}/{name}"] for key in ("precision", "recall", "f1", "n")]
            assert numbers == pytest.approx([column[i] for column in table])
    assert found["n"] == len(label)


def test_first_errors_are_those_of_a_loop(judgements: Make, blank_batch: Batch) -> None:
    judged = _random(judgements, 1)
    solutions = _solutions(judged)
    found = _compute(judged, blank_batch, ("even", "odd"))
    assert found["first_error_accuracy"] == pytest.approx(np.mean([a == b for a, b in solutions]))
    assert found["process_bench_f1"] == pytest.approx(_process_bench(solutions))
    assert found["process_bench_f1_low"] < found["process_bench_f1"] < found["process_bench_f1_high"]
    assert found["solutions"] == len(solutions) == 120
    assert found["process_bench_f1/even"] == pytest.approx(_process_bench(_solutions(judged, lambda p: p % 2 == 0)))


def test_worked_numbers(judgements: Make, blank_batch: Batch) -> None:
    """Solution (0, 0): steps + -, predicted + -: hit. (0, 1): + +, predicted - +: miss. (1, 0): - -, predicted + -:
    miss. (1, 1): +, predicted +: hit. First errors: 2 of 4; erroneous 1/2, all-correct 1/2, so ProcessBench F1 = 1/2.
    F1: incorrect 2*2/(3+3), correct 2*3/(4+4)."""
    judged = judgements(
        np.zeros(7),
        [1, 0, 1, 1, 0, 0, 1],
        [0, 0, 0, 0, 1, 1, 1],
        slot_J=torch.tensor([0, 0, 1, 1, 0, 0, 1]),
        step_J=torch.tensor([1, 2, 1, 2, 1, 2, 1]),
        label_J=torch.tensor([1, -1, 1, 1, -1, -1, 1]),
        predicted_J=torch.tensor([1, -1, -1, 1, 1, -1, 1]),
    )
    found = _compute(judged, blank_batch)
    assert (found["first_error_accuracy"], found["process_bench_f1"]) == (0.5, 0.5)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert math.isnan(found["recall/neutral"])


def test_solutions_of_one_kind_have_no_process_bench_f1(judgements: Make, blank_batch: Batch) -> None:
    where = {name: torch.zeros(2, dtype=torch.long) for name in ("slot_J", "step_J")}
    ones = torch.ones(2, dtype=torch.long)
    found = _compute(judgements([1, 1], [1, 1], [0, 1], label_J=ones, predicted_J=ones, **where), blank_batch)
    assert math.isnan(found["process_bench_f1"])
    assert (found["macro_f1"], found["first_error_accuracy"]) == (1, 1)


def test_never_naming_the_first_error_is_zero_not_undefined(judgements: Make, blank_batch: Batch) -> None:
    """The model calls right what is wrong and the reverse: both accuracies are 0, and so is their harmonic mean."""
    zero = torch.zeros(2, dtype=torch.long)
    judged = judgements(
        [1, -1],
        [0, 1],
        [0, 1],
        slot_J=zero,
        step_J=zero,
        label_J=torch.tensor([-1, 1]),
        predicted_J=torch.tensor([1, -1]),
    )
    assert _compute(judged, blank_batch)["process_bench_f1"] == 0


def test_best_is_known_in_a_generated_world_only(judgements: Make, blank_batch: Batch, generated_batch: Batch) -> None:
    judged = _random(judgements, 2, prompts=3)
    assert _compute(judged, generated_batch)["macro_f1_best"] == 1
    assert math.isnan(_compute(judged, blank_batch)["macro_f1_best"])


def test_a_process_loss_gives_what_is_needed(random_batches: Callable[..., list[Batch]]) -> None:
    """Outputs that put all weight on the labelled class are perfect in every number, whatever the batches."""
    metric, loss = StepMetrics(), ProcessReward()
    for batch in random_batches(12):
        out_NC = 50.0 * torch.nn.functional.one_hot(batch.label_M + 1, 3)
        metric.update(loss.judge(out_NC, batch), loss.score(out_NC, batch), batch)
    found = metric.compute()
    for key in ("macro_f1", "accuracy", "first_error_accuracy", "process_bench_f1", "macro_f1_best"):
        assert found[key] == 1
    assert found["nll"] < 1e-6
