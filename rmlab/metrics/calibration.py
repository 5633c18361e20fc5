"""Does a stated probability come true as often as it says? Calibration error, Brier score and negative log-likelihood.

Two readings of "a probability and whether it came true" are in use, and each kind of fact has its own:
- Outcome and step labels: the probability of the positive class against the label, as for any binary classifier.
- Pairs: data often lists the preferred completion first, so the label is 1 in every row and the first reading would
  call a perfect model uncalibrated. `top_label` makes it free of orientation: how sure is the model of the side it
  prefers, and how often is that side preferred (Guo et al. 2017, eq. 3, with two classes).

Written here and not taken from torchmetrics because labels may be soft (7 of 10 annotators), bins may hold equal mass,
and the intervals want the sums per bin of each prompt; the tests compare with torchmetrics, netcal and scikit-learn.

Axes: N rows, E edges, E - 1 bins, P prompts, B resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rmlab.metrics.bootstrap import Statistic, sums_per_prompt

BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """What a reliability diagram shows, per bin: rows in it, mean confidence, how often it came true (nan if empty)."""

    edge_E: Tensor
    count_B: Tensor
    confidence_B: Tensor
    correct_B: Tensor


def top_label(probability_N: Tensor, outcome_N: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the confidence in the preferred side, in [1/2, 1], and the probability the data states for that side.

    At exactly 1/2 neither side is preferred, so either is right half of the time.
    """
    confidence = torch.maximum(probability_N, 1 - probability_N)
    stated = torch.where(probability_N > 0.5, outcome_N, 1 - outcome_N)
    return confidence, torch.where(probability_N == 0.5, 0.5, stated)


def equal_width(bins: int = BINS) -> Tensor:
    """Returns the edges of `bins` bins of equal width over [0, 1], [bins + 1]."""
    return torch.linspace(0, 1, bins + 1, dtype=torch.float64)


def equal_mass(confidence_N: Tensor, bins: int = BINS) -> Tensor:
    """Returns edges at the quantiles of the confidences; equal confidences share a bin, so there may be fewer."""
    if len(confidence_N) == 0:
        return equal_width(bins)
    edges = torch.quantile(confidence_N.double(), torch.linspace(0, 1, bins + 1, dtype=torch.float64))
    edges = torch.unique(edges)
    return edges if len(edges) > 1 else equal_width(1)


def _bin(confidence_N: Tensor, edge_E: Tensor) -> Tensor:
    """A bin holds its left edge; the last one holds both."""
    return (torch.bucketize(confidence_N.double(), edge_E, right=True) - 1).clamp(0, len(edge_E) - 2)


def _sums(confidence_N: Tensor, correct_N: Tensor, edge_E: Tensor, prompt_N: Tensor, prompts: int) -> Tensor:
    """Returns rows, summed confidence and summed correctness of each prompt in each bin, [P, bins, 3]."""
    bins = len(edge_E) - 1
    columns = torch.stack([torch.ones_like(confidence_N), confidence_N, correct_N], dim=1)
    cell_N = prompt_N * bins + _bin(confidence_N, edge_E)
    return sums_per_prompt(columns, cell_N, prompts * bins).view(prompts, bins, 3)


def reliability(confidence_N: Tensor, correct_N: Tensor, edge_E: Tensor | None = None) -> Reliability:
    """Returns the diagram's bins; `edge_E` is `equal_width()` unless given."""
    edge_E = equal_width() if edge_E is None else edge_E
    one_prompt = torch.zeros(len(confidence_N), dtype=torch.long)
    count, confidence, correct = _sums(confidence_N, correct_N, edge_E, one_prompt, 1)[0].unbind(1)
    return Reliability(edge_E=edge_E, count_B=count, confidence_B=confidence / count, correct_B=correct / count)


def calibration_error(confidence_N: Tensor, correct_N: Tensor, edge_E: Tensor | None = None) -> float:
    """Returns the expected calibration error, sum over bins of n_b / n |mean confidence - mean correct|, in [0, 1]."""
    one_prompt = torch.zeros(len(confidence_N), dtype=torch.long)
    statistic = calibration_statistic(confidence_N, correct_N, one_prompt, 1, edge_E)
    return float(statistic(torch.ones(1, 1, dtype=torch.float64)))


def calibration_statistic(
    confidence_N: Tensor, correct_N: Tensor, prompt_N: Tensor, prompts: int, edge_E: Tensor | None = None
) -> Statistic:
    """Returns the expected calibration error as a statistic of how often each prompt is drawn (edges stay fixed)."""
    edge_E = equal_width() if edge_E is None else edge_E
    sums_PX3 = _sums(confidence_N, correct_N, edge_E, prompt_N, prompts)

    def error(count_BP: Tensor) -> Tensor:
        count_BX, confidence_BX, correct_BX = (count_BP @ sums_PX3.flatten(1)).view(len(count_BP), -1, 3).unbind(2)
        return (confidence_BX - correct_BX).abs().sum(1) / count_BX.sum(1)

    return error


def brier_N(probability_N: Tensor, outcome_N: Tensor) -> Tensor:
    """Returns each row's squared error of the probability (Brier 1950), [N]."""
    return (probability_N - outcome_N) ** 2


def nll_N(margin_N: Tensor, outcome_N: Tensor) -> Tensor:
    """Returns each row's negative log-likelihood in nats, [N], from log-odds, so that sure models do not overflow.

    Infinite log-odds cost nothing where they are right, and inf where they are not.
    """
    for_yes = torch.where(outcome_N > 0, outcome_N * F.softplus(-margin_N), 0.0)
    return for_yes + torch.where(outcome_N < 1, (1 - outcome_N) * F.softplus(margin_N), 0.0)
