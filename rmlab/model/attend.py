"""Attention of a flat batch, computed as its `Plan` says.

`flat_attention` is registered with transformers under the name `rmlab_flat`. On CPU it is `attend`: batched matrix
products and one softmax a bucket, with the backward pass written out. torch's own CPU kernel splits a sequence into
blocks that are too small for its matrix products: forward and backward took two (fp32) to six (bf16) times as long on
sequences of a few hundred tokens. Elsewhere, and with soft-capping or dropout, torch does it.

X queries, H heads, J key-value heads (G = H / J), d the size of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from rmlab.model.attention import Bucket, Plan

NAME = "rmlab_flat"
CELLS = 2**19  # scores computed at once: what a core's cache holds
KEPT = 2**22  # attention weights of a layer that are kept for the backward pass (16 MB); more are computed again
NEVER = -1e30  # added to the score of a key that a query does not see; finite, so that nothing becomes nan


@dataclass(slots=True)
class _Tile:
    """One bucket: its rows among all gathered queries and keys, and what is added to its scores."""

    queries: slice
    keys: slice
    bias_BQK: Tensor


@dataclass(slots=True)
class _Tiles:
    """A plan's buckets as rows of [tokens * heads, d]: gathered in one go, in the layout that products need."""

    tiles: list[_Tile]
    query_R: Tensor  # the row of each query and head
    restore_R: Tensor  # where the output of each row stands
    padded_R: Tensor  # which of `query_R` are padding
    key_R: Tensor
    cells: int  # scores of all heads

    @classmethod
    def of(cls, plan: Plan, heads: int, shared: int, window: int | None) -> _Tiles:
        """Returns (and keeps with the plan) its tiles for some numbers of heads and a sliding window."""
        found = plan.tiles.get((heads, shared, window))
        if not isinstance(found, _Tiles):
            found = plan.tiles[heads, shared, window] = cls._made(plan, heads, shared, window)
        return found

    @classmethod
    def _made(cls, plan: Plan, heads: int, shared: int, window: int | None) -> _Tiles:
        tiles, query, key, real = [], [], [], []
        q = k = 0
        for bucket in plan.buckets:
            query.append(_by_head(bucket.place_BQ, heads))
            key.append(_by_head(bucket.key_BK, shared))
            real.append(bucket.query_valid_BQ[:, None].expand(-1, heads, -1).reshape(-1))
            bias = torch.zeros(1).masked_fill(~plan.seen(bucket, window), NEVER)
            tiles.append(_Tile(slice(q, q := q + len(query[-1])), slice(k, k := k + len(key[-1])), bias))
        query_R, real_R = torch.cat(query), torch.cat(real)
        restore = torch.empty(int(real_R.sum()), dtype=torch.long)
        rows = real_R.nonzero()[:, 0]
        restore[query_R[rows]] = rows
        cells = heads * sum(tile.bias_BQK.numel() for tile in tiles)
        return cls(tiles, query_R, restore, (~real_R).nonzero()[:, 0], torch.cat(key), cells)


def _by_head(index_BL: Tensor, heads: int) -> Tensor:
    """Returns rows of [tokens * heads, d], ordered by [B, heads, L]."""
    return (index_BL[:, None, :] * heads + torch.arange(heads)[:, None]).reshape(-1)


def _parts(tile: _Tile, shared: int, q_Rd: Tensor, *k_Rd: Tensor) -> Any:
    """Yields views [B J, G Q, d] of query rows and [B J, K, d] of key rows, few enough at a time, and their bias."""
    B, _, K = tile.bias_BQK.shape
    d = q_Rd.shape[1]
    q = q_Rd[tile.queries].view(B, shared, -1, d)
    k = [x[tile.keys].view(B, shared, K, d) for x in k_Rd]
    step = max(1, CELLS // (shared * q.shape[2] * K))
    for i in range(0, B, step):
        yield tile.bias_BQK[i : i + step], q[i : i + step].flatten(0, 1), *(x[i : i + step].flatten(0, 1) for x in k)


def _weights(bias_BQK: Tensor, q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Returns softmax(scale q k' + bias), [B J, G Q, K]."""
    B, Q, K = bias_BQK.shape
    scores = q.new_empty(*q.shape[:2], K)
    scores.view(B, -1, Q, K).copy_(bias_BQK[:, None])
    scores.baddbmm_(q, k.transpose(1, 2), alpha=scale)
    return torch.softmax(scores, -1, out=scores)


def attend(
    q_XHd: Tensor, k_TJd: Tensor, v_TJd: Tensor, plan: Plan, scale: float, window: int | None, kept: list[Tensor]
) -> Tensor:
    """Returns the attention's output [X, H, d] without autograd, and puts into `kept` what `attend_backward` takes.

    It is computed in fp32, whatever it comes in: these products are small, and oneDNN would compile a bf16 kernel for
    each of their many shapes and keep it.
    """
    d, shared = q_XHd.shape[2], k_TJd.shape[1]
    tiles = _Tiles.of(plan, q_XHd.shape[1], shared, window)
    q, k, v = _gathered(tiles, q_XHd, k_TJd, v_TJd)
    out_Rd = torch.empty_like(q)
    for tile in tiles.tiles:
        parts = zip(_parts(tile, shared, q, k, v), _parts(tile, shared, out_Rd), strict=True)
        for (bias, q_, k_, v_), (_, out) in parts:
            p = _weights(bias, q_, k_, scale)
            torch.bmm(p, v_, out=out)
            if tiles.cells <= KEPT:
                kept.append(p)
    return out_Rd.index_select(0, tiles.restore_R).view(-1, q_XHd.shape[1], d)


def _gathered(tiles: _Tiles, q_XHd: Tensor, *keys_TJd: Tensor) -> list[Tensor]:
    d = q_XHd.shape[2]
    rows = [q_XHd.reshape(-1, d).index_select(0, tiles.query_R)]
    rows += [x.reshape(-1, d).index_select(0, tiles.key_R) for x in keys_TJd]
    return [x.float() for x in rows]


def attend_backward(
    grad_XHd: Tensor,
    q_XHd: Tensor,
    k_TJd: Tensor,
    v_TJd: Tensor,
    plan: Plan,
    scale: float,
    window: int | None,
    kept: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of queries, keys and values from that of the output, in fp32.

    kept: the attention weights that the forward pass kept, all of them or none.
    """
    shared = k_TJd.shape[1]
    tiles = _Tiles.of(plan, q_XHd.shape[1], shared, window)
    q, k, v = _gathered(tiles, q_XHd, k_TJd, v_TJd)
    (g,) = _gathered(tiles, grad_XHd)
    g.index_fill_(0, tiles.padded_R, 0.0)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    ready = iter(kept)
    for tile in tiles.tiles:
        parts = zip(
            _parts(tile, shared, q, k, v), _parts(tile, shared, g, dk, dv), _parts(tile, shared, dq), strict=True
        )
        for (bias, q_, k_, v_), (_, g_, dk_, dv_), (_, dq_) in parts:
            p = next(ready) if kept else _weights(bias, q_, k_, scale)
            torch.bmm(p.transpose(1, 2), g_, out=dv_)
            ds = torch._softmax_backward_data(torch.bmm(g_, v_.transpose(1, 2)), p, -1, torch.float32).mul_(scale)
            torch.bmm(ds, k_, out=dq_)
            torch.bmm(ds.transpose(1, 2), q_, out=dk_)
    own = [torch.zeros(k_TJd.shape, dtype=torch.float32).view(-1, k.shape[1]) for _ in range(2)]
    dk_TJd, dv_TJd = (
        total.index_add_(0, tiles.key_R, x).view(k_TJd.shape) for total, x in zip(own, (dk, dv), strict=True)
    )
    return dq.index_select(0, tiles.restore_R).view(q_XHd.shape), dk_TJd, dv_TJd


@final
class _Attend(torch.autograd.Function):
    """`attend` with its backward pass."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, window: int | None) -> Tensor:
        kept: list[Tensor] = []
        ctx.rest = (plan, scale, window)
        with torch.autocast("cpu", enabled=False):
            out = attend(q, k, v, plan, scale, window, kept).to(v.dtype)
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        q, k, v, *kept = ctx.saved_tensors
        plan, scale, window = ctx.rest
        with torch.autocast("cpu", enabled=False):
            grads = attend_backward(grad, q, k, v, plan, scale, window, kept)
        return *(g.to(x.dtype) for g, x in zip(grads, (q, k, v), strict=True)), None, None, None


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
    flat_THD = [x[0].transpose(0, 1) for x in (query, key, value)]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.device.type == "cpu" and query.dtype != torch.float64 and softcap is None and dropout == 0:
        out: Tensor = _Attend.apply(*flat_THD, plan, scale, sliding_window)
        return out[None], None
    outputs = [_bucket(flat_THD, b, plan, scale, dropout, sliding_window, softcap) for b in plan.buckets]
    return torch.cat(outputs)[plan.restore_X][None], None


def _bucket(
    flat_THD: list[Tensor],
    bucket: Bucket,
    plan: Plan,
    scale: float,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Returns the outputs of a bucket's queries, [B Q, H, D]."""
    indices = (bucket.place_BQ, bucket.key_BK, bucket.key_BK)
    q, k, v = (_rows(x, index) for x, index in zip(flat_THD, indices, strict=True))
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    mask = plan.mask(bucket, window)
    causal = plan.causal and mask is None
    if softcap is None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale)
    else:
        out = _capped(q, k, v, mask, causal, scale, dropout, softcap)
    return out.transpose(1, 2).flatten(0, 1)  # padded rows too: to pick the others here, a GPU would be waited for


def _rows(x_THD: Tensor, index_BL: Tensor) -> Tensor:
    rows = x_THD.index_select(0, index_BL.flatten())
    return rows.view(*index_BL.shape, *x_THD.shape[1:]).transpose(1, 2)


def _capped(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    dropout: float,
    softcap: float,
) -> Tensor:
    """Attention with capped scores (Gemma 2); no fused kernel on CPU has it."""
    scores = softcap * torch.tanh(q @ k.transpose(-1, -2) * scale / softcap)
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    return F.dropout(weights, dropout) @ v


# Buckets differ from batch to batch, in number and in size: a compiled layer leaves its graph here and comes back, or
# it would be compiled anew at every step.
AttentionInterface.register(NAME, torch.compiler.disable(flat_attention))
