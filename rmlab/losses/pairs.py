"""Rankings as pairs: the one expansion that every pairwise loss and judgement shares.

A ranking of K completions stands for its K(K-1)/2 pairs (first above second). Pairs with equal grades are ties and
are left out: nobody ordered them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from rmlab.batch import Batch, Judgements


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """P pairs: the completions (indices into the S axis), the ranking each comes from, and grade_first - grade_second."""

    first_P: Tensor
    second_P: Tensor
    ranking_P: Tensor
    gap_P: Tensor  # nan where there are no grades


@lru_cache(maxsize=64)
def _upper(k: int) -> tuple[Tensor, Tensor]:
    i, j = torch.triu_indices(k, k, offset=1).unbind()
    return i, j


def pairs_of(batch: Batch) -> Pairs:
    """Returns all ordered pairs of all rankings of the batch, ties left out."""
    i, j = (index.to(batch.order_RK.device) for index in _upper(batch.order_RK.shape[1]))
    first, second = batch.order_RK[:, i], batch.order_RK[:, j]
    gap = batch.grade_RK[:, i] - batch.grade_RK[:, j]
    kept = (first >= 0) & (second >= 0) & (gap != 0)  # nan != 0: ungraded pairs are kept
    ranking, _ = kept.nonzero(as_tuple=True)
    return Pairs(first_P=first[kept], second_P=second[kept], ranking_P=ranking, gap_P=gap[kept])


def judge_pairs(reward_S: Tensor, batch: Batch) -> Judgements:
    """Returns one judgement per pair: P = sigmoid(r_first - r_second) (Bradley & Terry 1952)."""
    pairs = pairs_of(batch)
    reward_S = reward_S.float()
    margin = reward_S[pairs.first_P] - reward_S[pairs.second_P]
    group = batch.group_S[pairs.first_P]
    return Judgements(
        probability_J=margin.sigmoid(),
        outcome_J=batch.probability_R[pairs.ranking_P],
        margin_J=margin,
        group_J=batch.prompt_G[group],
        source_J=batch.source_G[group],
        slot_J=batch.slot_S[pairs.first_P],
        second_J=batch.slot_S[pairs.second_P],
        gold_J=(batch.gold_S[pairs.first_P] - batch.gold_S[pairs.second_P]).sigmoid(),
    )
