"""The visibility rule as a FlexAttention block mask: one kernel call a layer, for CUDA.

Dong et al. 2024 (arXiv 2412.05496). The rule is evaluated on the device from `until_T`, whole blocks that nobody sees
are skipped, and the host plans nothing, so a step never waits for it. `flex_attention_flat` is registered with
transformers under the name `rmlab_flex`.

Left out: CPU. There FlexAttention has no backward pass; the buckets of `rmlab/model/attention.py` are made for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface

from rmlab.batch import Batch

NAME = "rmlab_flex"
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(slots=True)
class FlexPlan:
    """What FlexAttention needs to know of a flat batch; made once a micro-batch and shared by all layers."""

    position_T: Tensor
    until_T: Tensor
    causal: bool
    masks: dict[int | None, BlockMask] = field(default_factory=dict)  # by sliding window

    @classmethod
    def of(cls, batch: Batch, causal: bool) -> FlexPlan:
        """Returns the plan of a batch; nothing is computed yet."""
        return cls(batch.position_T, batch.until_T, causal)

    def mask(self, window: int | None) -> BlockMask:
        """Returns the block mask over all [T, T] pairs of tokens."""
        if window not in self.masks:
            tokens, device = len(self.until_T), self.until_T.device
            make = _compiled(create_block_mask) if device.type == "cuda" else create_block_mask
            self.masks[window] = make(self._rule(window), None, None, tokens, tokens, device=device)
        return self.masks[window]

    def _rule(self, window: int | None) -> Rule:
        position_T, until_T, causal = self.position_T, self.until_T, self.causal

        def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            """The same as `attention.visible`; in a bidirectional sequence a token sees all but its ghosts."""
            if causal:
                seen = (key <= query) & (query < until_T[key])
            else:
                same = query - position_T[query] == key - position_T[key]
                seen = same & (until_T[key] > key)
            return seen if window is None else seen & ((position_T[query] - position_T[key]).abs() < window)

        return rule


def flex_attention_flat(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    *,
    plan: FlexPlan,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of a flat batch: query [1, H, T, D], key and value [1, H_kv, T, D] -> [1, T, H, D].

    Raises `ValueError` for dropout, which FlexAttention does not have.
    """
    if dropout:
        raise ValueError("FlexAttention has no dropout: use the buckets")
    attend: Any = _compiled(flex_attention) if query.device.type == "cuda" else flex_attention
    out: Tensor = attend(
        query,
        key,
        value,
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=plan.mask(sliding_window),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2), None


def _capped(softcap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)  # Gemma 2

    return capped


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)  # every micro-batch has another number of tokens


# A compiled layer leaves its graph here: it would otherwise be compiled anew for the mask of every micro-batch.
AttentionInterface.register(NAME, torch.compiler.disable(flex_attention_flat, recursive=False))
