"""The one visibility rule, in the forms a backend needs.

Token q sees token k exactly if `k <= q < until_T[k]` (causal), or if both stand in the same sequence (bidirectional).
`Plan` cuts the flat axis into runs (stretches whose positions count up by one) and gives each run the keys that
anything in it can see: its ancestors in the prefix tree and itself. Runs of similar size are computed together, padded
only inside attention, so that every linear layer of the model sees each token once. `flat_attention` is registered
with transformers under the name `rmlab_flat`; `additive_mask` is the same rule for models with their own attention.

Left out: a single T x T mask. It is quadratic in the whole micro-batch and no kernel on CPU skips its empty blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from rmlab.batch import Batch

NAME = "rmlab_flat"


def visible(query: Tensor, key: Tensor, until_T: Tensor) -> Tensor:
    """Returns whether flat token `query` sees flat token `key` (broadcast): the rule, word for word."""
    return (key <= query) & (query < until_T[key])


def runs_of(position_T: np.ndarray, until_T: np.ndarray, causal: bool) -> list[tuple[int, int, np.ndarray]]:
    """Returns (begin, end, ancestors) of every run; ancestors are the flat indices before it that it can see."""
    cuts = np.flatnonzero(np.diff(position_T) != 1) + 1
    begins, ends = np.r_[0, cuts], np.r_[cuts, len(position_T)]
    runs = []
    group = 0  # where the current prefix tree begins: its tokens alone can be ancestors
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        if position_T[begin] == 0:
            group = begin
        ancestors = np.flatnonzero(until_T[group:begin] > begin) + group if causal else np.empty(0, np.int64)
        runs.append((begin, end, ancestors))
    return runs


@dataclass(slots=True)
class Bucket:
    """Runs computed in one call: `query_BQ` and `key_BK` are flat indices, padded with 0 where `*_valid` is False."""

    query_BQ: Tensor
    query_valid_BQ: Tensor
    key_BK: Tensor
    key_valid_BK: Tensor
    plain: bool  # every run is one whole sequence, so the kernel's own causal rule is the visibility rule
    masks: dict[int | None, Tensor | None] = field(default_factory=dict)  # by sliding window


@dataclass(slots=True)
class Plan:
    """How a flat batch meets attention; made once a micro-batch and shared by all layers."""

    buckets: list[Bucket]
    restore_T: Tensor  # where token t's output stands among the buckets' valid outputs
    position_T: Tensor
    until_T: Tensor
    causal: bool

    @classmethod
    def of(cls, batch: Batch, causal: bool) -> Plan:
        """Returns the plan of a batch. The indices are worked out on the host, from tensors already there on CPU."""
        position, until = batch.position_T.cpu().numpy(), batch.until_T.cpu().numpy()
        runs = runs_of(position, until, causal)
        device = batch.token_T.device
        buckets = [_bucket(chunk, until, device) for chunk in _chunks(runs)]
        order = torch.cat([b.query_BQ[b.query_valid_BQ] for b in buckets])
        restore = torch.empty_like(order)
        restore[order] = torch.arange(len(order), device=device)
        return cls(buckets, restore, batch.position_T, batch.until_T, causal)

    def mask(self, bucket: Bucket, window: int | None) -> Tensor | None:
        """Returns the bool mask [B, 1, Q, K] of a bucket, or None where the kernel needs none."""
        if window not in bucket.masks:
            bucket.masks[window] = self._mask(bucket, window)
        return bucket.masks[window]

    def _mask(self, bucket: Bucket, window: int | None) -> Tensor | None:
        longest = bucket.key_BK.shape[1]
        if bucket.plain and self.causal and (window is None or longest <= window):
            return None
        if bucket.plain and not self.causal and bool(bucket.key_valid_BK.all()):
            return None
        q, k = bucket.query_BQ[:, :, None], bucket.key_BK[:, None, :]
        seen = visible(q, k, self.until_T) if self.causal else (self.until_T[k] > k).expand(-1, q.shape[1], -1)
        if window is not None:
            seen = seen & (self.position_T[q] - self.position_T[k] < window)
        seen = seen & bucket.key_valid_BK[:, None, :]
        seen[..., 0] |= ~bucket.query_valid_BQ  # a padded query must see something, or softmax gives nan
        return seen[:, None]


def _chunks(runs: list[tuple[int, int, np.ndarray]]) -> list[list[tuple[int, int, np.ndarray]]]:
    """Groups runs of similar size: a chunk may hold at most a quarter (and a few thousand cells) of padding."""
    chunks: list[list[tuple[int, int, np.ndarray]]] = []
    used = 0
    for run in sorted(runs, key=lambda r: (len(r[2]) > 0, len(r[2]) + r[1] - r[0], r[1] - r[0])):
        cells = (run[1] - run[0]) * (len(run[2]) + run[1] - run[0])
        if chunks and (len(run[2]) > 0) == (len(chunks[-1][0][2]) > 0):
            queries = max(run[1] - run[0], max(r[1] - r[0] for r in chunks[-1]))
            area = queries * (len(run[2]) + run[1] - run[0]) * (len(chunks[-1]) + 1)
            if area <= 1.25 * (used + cells) + 4096:
                chunks[-1].append(run)
                used += cells
                continue
        chunks.append([run])
        used = cells
    return chunks


def _bucket(runs: list[tuple[int, int, np.ndarray]], until: np.ndarray, device: torch.device) -> Bucket:
    queries = [np.arange(begin, end) for begin, end, _ in runs]
    keys = [np.r_[ancestors, own] for (_, _, ancestors), own in zip(runs, queries, strict=True)]
    plain = all(len(a) == 0 and bool((until[b:e] >= e).all()) for b, e, a in runs)
    query, query_valid = _padded(queries)
    key, key_valid = _padded(keys)
    q, q_valid, k, k_valid = (torch.from_numpy(x).to(device) for x in (query, query_valid, key, key_valid))
    return Bucket(q, q_valid, k, k_valid, plain)


def _padded(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    width = max(map(len, rows))
    index, valid = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        index[i, : len(row)], valid[i, : len(row)] = row, True
    return index, valid


def flat_attention(
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
    plan: Plan,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of a flat batch: query [1, H, T, D], key and value [1, H_kv, T, D] -> [1, T, H, D].

    transformers calls it from every architecture on its attention interface; `plan` travels through the model's
    keyword arguments.
    """
    groups = query.shape[1] // key.shape[1]
    flat_THD = [x[0].transpose(0, 1) for x in (query, key, value)]
    outputs = []
    for bucket in plan.buckets:
        q, k, v = (
            _rows(x, index) for x, index in zip(flat_THD, (bucket.query_BQ, bucket.key_BK, bucket.key_BK), strict=True)
        )
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        mask = plan.mask(bucket, sliding_window)
        out = _attend(q, k, v, mask, plan.causal, scaling, dropout, softcap)
        outputs.append(out.transpose(1, 2)[bucket.query_valid_BQ])
    return torch.cat(outputs)[plan.restore_T][None], None


def _rows(x_THD: Tensor, index_BL: Tensor) -> Tensor:
    rows = x_THD.index_select(0, index_BL.flatten())
    return rows.view(*index_BL.shape, *x_THD.shape[1:]).transpose(1, 2)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
) -> Tensor:
    if softcap is None:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal and mask is None, scale=scaling
        )
    scores = (q @ k.transpose(-1, -2)) * (scaling if scaling is not None else q.shape[-1] ** -0.5)
    scores = softcap * torch.tanh(scores / softcap)  # Gemma 2; no fused kernel on CPU has it
    if mask is None and causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    return F.dropout(weights, dropout) @ v


# Buckets differ from batch to batch, in number and in size: a compiled layer leaves its graph here and comes back, or
# it would be compiled anew at every step.
AttentionInterface.register(NAME, torch.compiler.disable(flat_attention))


def additive_mask(index_BL: Tensor, until_T: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the additive float mask [B, 1, L, L] of rows of flat tokens (`index_BL`, padded with -1).

    Float, because some eager attentions add a bool mask instead of applying it.
    """
    valid = index_BL >= 0
    index = index_BL.clamp_min(0)
    seen = visible(index[:, :, None], index[:, None, :], until_T) & valid[:, None, :] & valid[:, :, None]
    seen = seen | torch.eye(index.shape[1], dtype=torch.bool, device=index.device)  # no row without a key
    return torch.zeros(seen.shape, dtype=dtype, device=index.device).masked_fill_(~seen, torch.finfo(dtype).min)[
        :, None
    ]
