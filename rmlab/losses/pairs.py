"""Rankings as pairs: the one expansion that every ranking loss and judgement shares, and the likelihood of a pair.

A ranking of K completions stands for its K(K-1)/2 pairs (first above second). Pairs with equal grades are ties and
are left out: nobody ordered them. The expansion is dense (a pair that does not exist weighs nothing), so that training
never waits for the device to say how many there are; P = R K(K-1)/2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite

import torch
import torch.nn.functional as F
from torch import Tensor

from rmlab.batch import Batch, Example, Judgements, Ranking
from rmlab.errors import UsageError
from rmlab.losses.base import at_least_fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """P pairs: the completions (indices into the S axis), the ranking each comes from, and grade_first - grade_second.

    Where `real_P` is False the pair is padding or a tie: `weight_P` is 0 there and the indices are only in range.
    """

    first_P: Tensor
    second_P: Tensor
    ranking_P: Tensor
    gap_P: Tensor  # nan where there are no grades
    real_P: Tensor
    weight_P: Tensor

    def only(self, mask_P: Tensor) -> Pairs:
        """Returns the same pairs, those outside the mask no longer real."""
        real = self.real_P & mask_P
        return replace(self, real_P=real, weight_P=torch.where(real, self.weight_P, 0.0))


@lru_cache(maxsize=64)
def _upper(k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    i, j = torch.triu_indices(k, k, offset=1, device=device).unbind()
    return i, j


def pairs_of(batch: Batch) -> Pairs:
    """Returns all ordered pairs of all rankings of the batch, each with its ranking's weight."""
    rankings, k = batch.order_RK.shape
    i, j = _upper(k, batch.order_RK.device)
    first, second = batch.order_RK[:, i], batch.order_RK[:, j]
    gap = batch.grade_RK[:, i] - batch.grade_RK[:, j]
    real = (first >= 0) & (second >= 0) & (gap != 0)  # nan != 0: ungraded pairs are kept
    ranking = torch.arange(rankings, device=first.device)[:, None].expand_as(first)
    return Pairs(
        first_P=first.clamp(min=0).flatten(),
        second_P=second.clamp(min=0).flatten(),
        ranking_P=ranking.flatten(),
        gap_P=gap.flatten(),
        real_P=real.flatten(),
        weight_P=torch.where(real, batch.weight_R[:, None], 0.0).flatten(),
    )


def shared_weight(pairs: Pairs, owner_P: Tensor, owners: int) -> Pairs:
    """Returns the pairs with each weight divided by the number of real pairs of its owner (a prompt or a ranking)."""
    count = pairs.weight_P.new_zeros(owners).index_add(0, owner_P, pairs.real_P.to(pairs.weight_P.dtype))
    return replace(pairs, weight_P=pairs.weight_P / count[owner_P].clamp(min=1))


def difference(reward_S: Tensor, pairs: Pairs) -> Tensor:
    """Returns r_first - r_second, [P], in at least fp32."""
    reward_S = at_least_fp32(reward_S)
    return reward_S[pairs.first_P] - reward_S[pairs.second_P]


def pair_nll(logit_P: Tensor, probability_P: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Returns -[q log s(x) + (1 - q) log s(-x)] in nats, x the logit that the first is preferred, s the sigmoid.

    q is the stated probability moved towards 1/2 by `label_smoothing`. In softplus form: finite at any logit.
    """
    q = probability_P.to(logit_P.dtype) * (1 - 2 * label_smoothing) + label_smoothing
    return q * F.softplus(-logit_P) + (1 - q) * F.softplus(logit_P)


def checked_smoothing(label_smoothing: float) -> float:
    """Returns it, or raises `UsageError` if it is outside [0, 0.5)."""
    if not 0 <= label_smoothing < 0.5:
        raise UsageError(f"loss.label_smoothing is {label_smoothing}, expected a number in [0, 0.5)")
    return label_smoothing


def judge_pairs(margin_P: Tensor, pairs: Pairs, batch: Batch) -> Judgements:
    """Returns one judgement per real pair: P = sigmoid(r_first - r_second) (Bradley & Terry 1952)."""
    real = pairs.real_P
    first, second, margin = pairs.first_P[real], pairs.second_P[real], margin_P[real]
    group = batch.group_S[first]
    return Judgements(
        probability_J=margin.sigmoid(),
        outcome_J=batch.probability_R[pairs.ranking_P[real]],
        margin_J=margin,
        group_J=batch.prompt_G[group],
        source_J=batch.source_G[group],
        slot_J=batch.slot_S[first],
        second_J=batch.slot_S[second],
        gold_J=(batch.gold_S[first] - batch.gold_S[second]).sigmoid(),
    )


def _malformed(ranking: Ranking) -> str | None:
    if not 0 <= ranking.probability <= 1:
        return f"probability is {ranking.probability}, expected a number from 0 to 1 (column probability)"
    if ranking.probability != 1 and len(ranking.order) > 2:
        return (
            f"probability is {ranking.probability} for a ranking of {len(ranking.order)} completions, "
            "it can only be said of two (column probability)"
        )
    if not (isfinite(ranking.weight) and ranking.weight >= 0):
        return f"weight is {ranking.weight}, expected a number from 0 (column weight)"
    return None


def check_rankings(example: Example) -> str | None:
    """Returns why an example's rankings give no ordered pair, or None if they give at least one."""
    malformed = next((reason for r in example.rankings if (reason := _malformed(r))), None)
    if malformed:
        return malformed
    lists = [r for r in example.rankings if len(r.order) > 1]
    if not lists:
        return "no ranking of two or more completions (columns chosen and rejected)"
    if all(r.grades and len(set(r.grades)) == 1 for r in lists):
        return "all completions have the same grade, so none is preferred (column of the grades)"
    return None
