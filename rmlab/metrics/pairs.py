"""Pairs: how often the preferred completion gets the higher reward, and whether the stated probabilities come true.

Left out: weights of rankings. They say how much to learn from a row; a held-out row counts once.
"""

from __future__ import annotations

from math import nan
from typing import final

import torch
from torch import Tensor

from rmlab.batch import Batch, Judgements
from rmlab.metrics.bootstrap import estimates, mean_statistic, prompts_of
from rmlab.metrics.calibration import (
    brier_N,
    calibration_error,
    calibration_statistic,
    equal_mass,
    nll_N,
    top_label,
)
from rmlab.metrics.rows import JudgementMetric, per_source, with_interval


def bayes_accuracy(gold_N: Tensor) -> float:
    """Returns the accuracy of knowing the true reward, mean of max(p, 1 - p); nan unless every p is known."""
    return float(torch.maximum(gold_N, 1 - gold_N).mean()) if len(gold_N) else nan


def won_N(margin_N: Tensor, outcome_N: Tensor) -> Tensor:
    """Returns whether the more probable side has the strictly higher reward, [N] bool: a tie is not a win."""
    return ((margin_N > 0) & (outcome_N > 0.5)) | ((margin_N < 0) & (outcome_N < 0.5))


def pair_numbers(rows: Judgements) -> dict[str, float]:
    """Returns the numbers of `PairMetrics` from gathered rows."""
    outcome, margin = rows.outcome_J, rows.margin_J
    decided = outcome != 0.5
    prompt, prompts = prompts_of(rows.group_J)
    confidence, correct = top_label(rows.probability_J, outcome)
    statistics = {
        "accuracy": mean_statistic(won_N(margin, outcome), decided, prompt, prompts),
        "ece": calibration_statistic(confidence, correct, prompt, prompts),
    }
    return estimates(statistics, prompts, biased=("ece",)) | {
        "margin": float((margin * (outcome - 0.5).sign())[decided].mean()),
        "ece_equal_mass": calibration_error(confidence, correct, equal_mass(confidence)),
        "brier": float(brier_N(rows.probability_J, outcome).mean()),
        "nll": float(nll_N(margin, outcome).mean()),
        "n": float(len(margin)),
        "ties": float((margin == 0).sum()),
        "bayes_accuracy": bayes_accuracy(rows.gold_J[decided]),
    }


@final
class PairMetrics(JudgementMetric):
    """Keys, over all pairs (K completions in order are K(K-1)/2 pairs) unless said otherwise:

    - `accuracy`, `accuracy_low`, `accuracy_high`: share won. A soft label is won if the side with probability > 1/2 has
      the higher reward; a label of exactly 1/2 prefers nobody and is left out here, in `margin` and `bayes_accuracy`.
    - `margin`: mean reward difference in favour of the preferred side, in reward units.
    - `ece` with interval, `ece_equal_mass`: expected calibration error of the preferred side's probability, 15 bins.
    - `brier`, `nll` (nats): of the stated order's probability against the (soft) label; `nll` takes `margin_J` as
      its log-odds.
    - `n`: pairs. `ties`: pairs of equal reward.
    - `bayes_accuracy`: the best reachable, nan unless the true reward of every pair is known.
    """

    PER_SOURCE = (*with_interval("accuracy"), "margin", "ece", "n", "bayes_accuracy")

    def update(self, judged: Judgements, score_S: Tensor, batch: Batch) -> None:
        self._add(judged)

    def compute(self) -> dict[str, float]:
        rows = self._gathered()
        return per_source(rows, rows.source_J, self.sources, pair_numbers, self.PER_SOURCE)
