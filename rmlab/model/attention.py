"""The one visibility rule, in the forms a backend needs.

Token q sees token k exactly if `k <= q < until_T[k]` (causal), or if both stand in the same sequence (bidirectional).
`Plan` cuts the flat axis into pieces: some queries, and the keys that any of them can see. Pieces of similar size are
computed together, padded only inside attention, so that every linear layer of the model sees each token once.
`additive_mask` is the same rule for models with their own attention. Who computes with it: `attend.py`.

Left out: a single T x T mask. It is quadratic in the whole micro-batch and no kernel on CPU skips its empty blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rmlab.batch import Batch

BLOCK = 128  # queries of a piece on CPU: half of what a longer causal one computes would be masked away
Run = tuple[int, int, np.ndarray]


def visible(query: Tensor, key: Tensor, until_T: Tensor) -> Tensor:
    """Returns whether flat token `query` sees flat token `key` (broadcast): the rule, word for word."""
    return (key <= query) & (query < until_T[key])


def runs_of(position_T: np.ndarray, until_T: np.ndarray, causal: bool) -> list[Run]:
    """Returns (begin, end, ancestors) of every stretch whose positions count up by one.

    Ancestors are the flat indices before it that it can see.
    """
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


@dataclass(frozen=True, slots=True)
class Piece:
    """Queries and the keys that any of them can see, as flat indices; `place` is a query's row among all queries.

    plain: it is one whole sequence, so a kernel's own causal rule is the visibility rule.
    """

    query: np.ndarray
    place: np.ndarray
    key: np.ndarray
    plain: bool


def _pieces(runs: list[Run], until: np.ndarray, causal: bool, block: int) -> Iterator[Piece]:
    for begin, end, ancestors in runs:
        whole = len(ancestors) == 0 and bool((until[begin:end] >= end).all())
        step = block if causal else end - begin
        for first in range(begin, end, step):
            query = np.arange(first, min(first + step, end))
            key = np.r_[ancestors, np.arange(begin, query[-1] + 1)]
            yield Piece(query, query, key, whole and first == begin)


def _reading(runs: list[Run], read_N: np.ndarray, causal: bool) -> Iterator[Piece]:
    """Yields pieces whose queries are the tokens in `read_N` alone."""
    place_N = np.argsort(read_N, kind="stable")
    cuts = np.searchsorted(read_N[place_N], [end for _, end, _ in runs[:-1]])
    for (begin, end, ancestors), place in zip(runs, np.split(place_N, cuts), strict=True):
        if len(place):
            query = read_N[place]
            yield Piece(query, place, np.r_[ancestors, np.arange(begin, query[-1] + 1 if causal else end)], False)


@dataclass(slots=True)
class Bucket:
    """Pieces computed in one call: indices padded with 0 where `*_valid` is False."""

    query_BQ: Tensor
    place_BQ: Tensor
    query_valid_BQ: Tensor
    key_BK: Tensor
    key_valid_BK: Tensor
    plain: bool
    masks: dict[int | None, Tensor | None] = field(default_factory=dict)  # by sliding window

    def to(self, device: torch.device | str) -> Bucket:
        """Returns the same bucket on another device."""
        query, place, query_valid, key, key_valid = (
            x.to(device) for x in (self.query_BQ, self.place_BQ, self.query_valid_BQ, self.key_BK, self.key_valid_BK)
        )
        return Bucket(query, place, query_valid, key, key_valid, self.plain)


@dataclass(slots=True)
class Plan:
    """How queries of a flat batch meet attention; made once a micro-batch and shared by all layers.

    restore_X: where the output of query x stands among the rows of all buckets, padded ones included.
    """

    buckets: list[Bucket]
    restore_X: Tensor
    position_T: Tensor
    until_T: Tensor
    causal: bool
    tiles: dict[tuple[int, int, int | None], object] = field(default_factory=dict)  # what `attend.py` keeps with it

    @classmethod
    def of(cls, batch: Batch, causal: bool) -> Plan:
        """Returns the plan of a batch.

        The indices are worked out on the host. A GPU is waited for here, once a micro-batch, and by no layer after it.
        """
        return cls.at(batch.position_T, batch.until_T, causal)

    @classmethod
    def at(cls, position_T: Tensor, until_T: Tensor, causal: bool, read_X: Tensor | None = None) -> Plan:
        """Returns the plan whose queries are the tokens `read_X` (None: all of them)."""
        position, until = position_T.cpu().numpy(), until_T.cpu().numpy()
        runs = runs_of(position, until, causal)
        block = BLOCK if position_T.device.type == "cpu" else len(position)
        if read_X is None:
            return cls._made(_pieces(runs, until, causal, block), position_T, until_T, causal)
        return cls._made(_reading(runs, read_X.cpu().numpy(), causal), position_T, until_T, causal)

    @classmethod
    def _made(cls, pieces: Iterator[Piece], position_T: Tensor, until_T: Tensor, causal: bool) -> Plan:
        device = position_T.device
        buckets = [_bucket(chunk) for chunk in _chunks(list(pieces))]
        place_R = torch.cat([b.place_BQ.flatten() for b in buckets])
        row_X = torch.cat([b.query_valid_BQ.flatten() for b in buckets]).nonzero()[:, 0]
        restore_X = torch.empty_like(row_X)
        restore_X[place_R[row_X]] = row_X
        return cls([b.to(device) for b in buckets], restore_X.to(device), position_T, until_T, causal)

    def mask(self, bucket: Bucket, window: int | None) -> Tensor | None:
        """Returns the bool mask [B, 1, Q, K] of a bucket, or None where a kernel needs none."""
        if window not in bucket.masks:
            bucket.masks[window] = None if self._needless(bucket, window) else self.seen(bucket, window)[:, None]
        return bucket.masks[window]

    def _needless(self, bucket: Bucket, window: int | None) -> bool:
        if not bucket.plain:
            return False
        near = window is None or bucket.key_BK.shape[1] <= window
        return near and (self.causal or bool(bucket.key_valid_BK.all()))

    def seen(self, bucket: Bucket, window: int | None) -> Tensor:
        """Returns which query of a bucket sees which key, bool [B, Q, K]; no row is without a key."""
        q, k = bucket.query_BQ[:, :, None], bucket.key_BK[:, None, :]
        seen = visible(q, k, self.until_T) if self.causal else (self.until_T[k] > k).expand(-1, q.shape[1], -1)
        if window is not None:
            seen = seen & ((self.position_T[q] - self.position_T[k]).abs() < window)  # an encoder's reaches both ways
        seen = seen & bucket.key_valid_BK[:, None, :]
        seen[..., 0] |= ~bucket.query_valid_BQ  # a padded query must see something, or softmax gives nan
        return seen


def _chunks(pieces: list[Piece]) -> list[list[Piece]]:
    """Groups pieces of similar size: a chunk may hold at most an eighth (and a few thousand cells) of padding."""
    chunks: list[list[Piece]] = []
    used = widest = 0
    for piece in sorted(pieces, key=lambda p: (not p.plain, len(p.key), len(p.query))):
        cells = len(piece.query) * len(piece.key)
        if chunks and piece.plain == chunks[-1][0].plain:
            queries = max(widest, len(piece.query))
            if queries * len(piece.key) * (len(chunks[-1]) + 1) <= 1.15 * (used + cells) + 4096:
                chunks[-1].append(piece)
                used, widest = used + cells, queries
                continue
        chunks.append([piece])
        used, widest = cells, len(piece.query)
    return chunks


def _bucket(pieces: list[Piece]) -> Bucket:
    query, query_valid = _padded([p.query for p in pieces])
    place, _ = _padded([p.place for p in pieces])
    key, key_valid = _padded([p.key for p in pieces])
    q, p, q_valid, k, k_valid = (torch.from_numpy(x) for x in (query, place, query_valid, key, key_valid))
    return Bucket(q, p, q_valid, k, k_valid, pieces[0].plain)


def _padded(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    width = max(map(len, rows))
    index, valid = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        index[i, : len(row)], valid[i, : len(row)] = row, True
    return index, valid


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
