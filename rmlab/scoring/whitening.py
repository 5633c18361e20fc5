"""Rewards with mean 0 and variance 1, as a policy gradient wants them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rmlab.errors import UsageError

FLAT = 1e-9  # a spread below this share of the largest reward is what summing in fp64 leaves of none


def whiten(rewards: Any, groups: Any = None) -> Tensor:
    """Returns (reward - mean) / standard deviation of the population, [S] in fp32; zeros where there is no variance.

    rewards: [S] numbers. groups: [S] whole numbers; mean and deviation are then those of each group (the completions
    of one prompt, as GRPO takes them). Raises `UsageError` for a NaN or for groups of another length.
    """
    reward_S = torch.as_tensor(rewards).double().flatten()
    group_S = torch.zeros(len(reward_S), dtype=torch.long) if groups is None else torch.as_tensor(groups).flatten()
    group_S = group_S.to(reward_S.device)
    if len(group_S) != len(reward_S):
        raise UsageError(f"whiten was given {len(reward_S)} rewards and {len(group_S)} groups, expected as many")
    if not reward_S.isfinite().all():
        raise UsageError("whiten was given a reward that is not a finite number; leave it out")
    if not len(reward_S):
        return reward_S.float()
    _, group_S = group_S.unique(return_inverse=True)
    count_G = torch.bincount(group_S)
    zeros_G = reward_S.new_zeros(len(count_G))
    centred_S = reward_S - (zeros_G.index_add(0, group_S, reward_S) / count_G)[group_S]
    std_G = (zeros_G.index_add(0, group_S, centred_S.square()) / count_G).sqrt()
    largest_G = zeros_G.scatter_reduce(0, group_S, reward_S.abs(), "amax")
    varies_S = (std_G > FLAT * largest_G)[group_S]
    return torch.where(varies_S, centred_S / std_G[group_S], 0.0).float()
