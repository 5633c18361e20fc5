"""Many probabilities, one score: the rules that make a completion's tokens or steps into a single number.

Everything here is in log space: log-probabilities come in (nats, at most 0) and the logarithm of the aggregate goes
out, so a product over thousands of tokens neither under- nor overflows, and product <= min <= mean <= max holds
exactly. What a loss hands out as `score` is the probability itself, in [0, 1], except for `product`, whose score stays
a log-probability: the product over a 4,000-token completion is not a representable number. Either way higher is better.

A completion without any token or step read has no score: nan. Sums run in fp64; nothing waits for the device.
"""

from __future__ import annotations

from math import inf, nan
from typing import Literal, get_args

import torch
from torch import Tensor

from rmlab.errors import UsageError

Rule = Literal["mean", "min", "product", "last"]
RULES: tuple[Rule, ...] = get_args(Rule)


def checked_rule(rule: str) -> Rule:
    """Returns the rule, or raises `UsageError` if there is none of that name."""
    for known in RULES:
        if rule == known:
            return known
    raise UsageError(f"loss.rule is {rule}, expected one of {', '.join(RULES)}")


def _extreme(log_N: Tensor, segment_N: Tensor, segments: int, which: Literal["amin", "amax"]) -> Tensor:
    start = log_N.new_full((segments,), inf if which == "amin" else -inf)
    return start.scatter_reduce(0, segment_N, log_N, which)


def log_mean(log_N: Tensor, segment_N: Tensor, segments: int) -> Tensor:
    """Returns the log of the mean probability of each segment, [segments]."""
    highest = _extreme(log_N, segment_N, segments, "amax")
    share = (log_N - highest[segment_N]).exp()
    total = torch.zeros_like(highest).index_add(0, segment_N, share)
    count = torch.zeros_like(highest).index_add(0, segment_N, torch.ones_like(share))
    return highest + (total / count).log()


def log_last(log_N: Tensor, segment_N: Tensor, segments: int) -> Tensor:
    """Returns each segment's last value in the order given, [segments]."""
    place = torch.arange(log_N.numel(), device=log_N.device)
    last = place.new_zeros(segments).scatter_reduce(0, segment_N, place, "amax")
    padded = torch.cat([log_N, log_N.new_zeros(1)])  # so that an empty axis can be indexed
    return padded[last]


def log_aggregate(log_N: Tensor, segment_N: Tensor, segments: int, rule: Rule) -> Tensor:
    """Returns the log of each segment's aggregated probability, [segments], nan for an empty one.

    log_N: log-probabilities. segment_N: the completion each belongs to, a completion's own in order.
    """
    wide = log_N.double()
    if rule == "mean":
        result = log_mean(wide, segment_N, segments)
    elif rule == "min":
        result = _extreme(wide, segment_N, segments, "amin")
    elif rule == "product":
        result = wide.new_zeros(segments).index_add(0, segment_N, wide)
    else:
        result = log_last(wide, segment_N, segments)
    empty = torch.ones(segments, dtype=torch.bool, device=log_N.device).index_fill(0, segment_N, False)
    return result.masked_fill(empty, nan).to(log_N.dtype)


def as_score(log_S: Tensor, rule: Rule) -> Tensor:
    """Returns the score of a rule: a probability, and for `product` a log-probability."""
    return log_S if rule == "product" else log_S.exp()


def log_odds(log_N: Tensor) -> Tensor:
    """Returns log(p / (1 - p)) of log-probabilities, finite even where p rounds to 1."""
    below = log_N.clamp(max=-torch.finfo(log_N.dtype).tiny)
    return below - torch.log(-torch.expm1(below))
