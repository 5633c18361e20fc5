"""How much arithmetic a batch needs, and how fast this machine multiplies matrices: the two numbers of an MFU.

Useful work is counted over distinct tokens: the sequences of a prompt are a prefix tree, and each of its nodes is
computed once and sees its ancestors and itself, however the batch was packed. An encoder's tokens depend on the whole
sequence, so there each sequence counts in full. What one token and one visible pair cost, forward and backward, is not
a formula per architecture: torch's own counter watches a plain, dense, eager run of the model itself over three short
rows, and work(L) = fixed + token L + pair L^2 is solved exactly. What is frozen shows in the backward count.

Left out: recomputation (gradient checkpointing is work, but not useful), element-wise operations, mixtures of experts
whose kernel the counter does not know.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rmlab.batch import Batch
from rmlab.model.backbone import Backbone
from rmlab.model.layers import layers_of, windows_of

ROWS = (4, 6, 8)  # lengths of the counted runs, in tokens; three unknowns


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Floating-point operations, a multiplication and an addition counted as two."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Both passes."""
        return self.forward + self.backward

    def __add__(self, other: Work) -> Work:
        return Work(forward=self.forward + other.forward, backward=self.backward + other.backward)

    def times(self, count: float) -> Work:
        """Returns the work of doing this `count` times."""
        return Work(forward=self.forward * count, backward=self.backward * count)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a model costs: `fixed` a micro-batch, `token` a distinct token, `pair` a visible pair in all layers
    together, `read` a position that the head reads. `windows` holds each layer's sliding window, None = all."""

    fixed: Work
    token: Work
    pair: Work
    read: Work
    windows: tuple[int | None, ...]
    causal: bool

    def of(self, batch: Batch, reads: int) -> Work:
        """Returns the useful work of a forward and backward pass over a batch whose loss reads `reads` positions."""
        tokens, pairs = distinct(batch, causal=self.causal, windows=self.windows)
        return self.fixed + self.token.times(tokens) + self.pair.times(pairs) + self.read.times(reads)


def cost_of(backbone: Backbone, head: Sequence[nn.Module]) -> Cost:
    """Returns what a backbone costs with the modules that work on its read-out (head, pooler): frozen as they are."""
    fixed, token, pair = _solved([_dense(backbone.model, length) for length in ROWS])
    matrices = [p for module in head for p in module.parameters() if p.ndim == 2]
    # The state that is read needs a gradient only if something below the head is trained.
    below = any(p.requires_grad for p in backbone.parameters())
    read = Work(
        forward=2.0 * sum(p.numel() for p in matrices),
        backward=2.0 * sum(p.numel() * (p.requires_grad + (below or i > 0)) for i, p in enumerate(matrices)),
    )
    return Cost(
        fixed=fixed, token=token, pair=pair, read=read, windows=windows_of(backbone.model), causal=backbone.causal
    )


def _dense(model: PreTrainedModel, length: int) -> Work:
    """Counts one row of `length` tokens, run eagerly; leaves the model, its gradients and the random state alone."""
    was, training = model.config._attn_implementation, model.training
    trained = [p for p in model.parameters() if p.requires_grad]
    token = torch.zeros((1, length), dtype=torch.long, device=model.device)
    try:
        model.eval()  # neither dropout nor recomputation
        model.set_attn_implementation("eager")  # no other has a formula on every device
        with torch.compiler.set_stance("force_eager"), torch.enable_grad():
            with FlopCounterMode(display=False) as forward:
                state: Tensor = model(input_ids=token, attention_mask=torch.ones_like(token)).last_hidden_state
            with FlopCounterMode(display=False) as backward:
                if state.requires_grad:
                    torch.autograd.grad(state.sum(), trained, allow_unused=True)
    finally:
        model.set_attn_implementation(was)
        model.train(training)
    return Work(forward=forward.get_total_flops(), backward=backward.get_total_flops())


def _solved(found: Sequence[Work]) -> tuple[Work, Work, Work]:
    """Returns fixed, token and pair work from the counts at `ROWS`."""
    parts = zip(*(_quadratic([x.forward for x in found]), _quadratic([x.backward for x in found])), strict=True)
    fixed, token, pair = (Work(forward=forward, backward=backward) for forward, backward in parts)
    return fixed, token, pair


def _quadratic(y: Sequence[float]) -> tuple[float, float, float]:
    (a, b, c), (u, v, w) = (map(Fraction, ROWS), map(Fraction, y))
    slope = (v - u) / (b - a)
    pair = ((w - v) / (c - b) - slope) / (c - a)
    token = slope - pair * (a + b)
    return float(u - token * a - pair * a * a), float(token), float(pair)


def distinct(batch: Batch, *, causal: bool, windows: Sequence[int | None] = (None,)) -> tuple[int, float]:
    """Returns the distinct tokens of a batch and the pairs (query, key) visible in a layer, the mean over `windows`.

    Causal: nodes of each prompt's prefix tree, each seeing its ancestors and itself. Otherwise: every token of every
    sequence, seeing all of it. Ghosts (see `Batch`) count nothing.
    """
    tokens, pairs, kinds = 0, 0.0, Counter(windows)
    for begin, length in _branches(batch, causal):
        depth = np.arange(begin, length) + 1 if causal else np.full(length, length)
        tokens += len(depth)
        for window, layers in kinds.items():
            pairs += layers / len(windows) * float(np.minimum(depth, window or length).sum())
    return tokens, pairs


def _branches(batch: Batch, causal: bool) -> list[tuple[int, int]]:
    """Returns (first depth not shared with a sequence before, length) of every sequence."""
    token, position, until, start_group, end = (
        x.cpu().numpy() for x in (batch.token_T, batch.position_T, batch.until_T, batch.group_S, batch.end_S)
    )
    roots = np.flatnonzero(position == 0)
    sequences: dict[int, list[bytes]] = {}
    for group, last in zip(start_group.tolist(), end.tolist(), strict=True):
        root = int(roots[np.searchsorted(roots, last, side="right") - 1])
        seen = np.flatnonzero(until[root : last + 1] > last) + root
        sequences.setdefault(group, []).append(token[seen].astype(">i8").tobytes())
    if not causal:
        return [(0, len(s) // 8) for row in sequences.values() for s in row]
    return [branch for row in sequences.values() for branch in _tree(sorted(row))]


def _tree(row: list[bytes]) -> list[tuple[int, int]]:
    """Neighbours in sorted order share the most: what a sequence shares with any before it, it shares with the last."""
    branches, before = [], np.empty(0, np.int64)
    for sequence in row:
        ids = np.frombuffer(sequence, ">i8")
        n = min(len(ids), len(before))
        differ = np.flatnonzero(ids[:n] != before[:n])
        branches.append((int(differ[0]) if len(differ) else n, len(ids)))
        before = ids
    return branches


def matrix_shapes(model: nn.Module) -> Counter[tuple[int, int]]:
    """Returns how often a matrix of each (inputs, outputs) stands in a model's layers."""
    shapes: Counter[tuple[int, int]] = Counter()
    for module in layers_of(model).modules():
        if isinstance(module, nn.Linear):
            shapes[module.in_features, module.out_features] += 1
        elif isinstance(module, Conv1D):
            shapes[module.weight.shape[0], module.weight.shape[1]] += 1
    return shapes


def matmul_rate(
    shapes: Counter[tuple[int, int]],
    *,
    tokens: int,
    dtype: torch.dtype,
    device: torch.device | str,
    seconds: float = 1.0,
) -> float:
    """Returns how many floating-point operations a second this machine does in matrix products of a model's shapes.

    tokens: rows, as many as a micro-batch has. Each shape is timed for its share of `seconds` and its fastest product
    counts, weighted by how often the model has it: what a step could reach if it did nothing else.
    """
    device = torch.device(device)
    source = torch.Generator(device).manual_seed(0)  # a GPU multiplies zeros faster; the run's own numbers stay its own
    work = taken = 0.0
    for (inputs, outputs), count in shapes.items():
        x = torch.randn(tokens, inputs, device=device, generator=source).to(dtype)
        w = torch.randn(inputs, outputs, device=device, generator=source).to(dtype)
        work += count * 2.0 * tokens * inputs * outputs
        taken += count * _fastest(x, w, seconds / len(shapes))
    return work / taken


def _fastest(x: Tensor, w: Tensor, budget: float) -> float:
    times: list[float] = []
    deadline = time.perf_counter() + budget
    while len(times) < 4 or time.perf_counter() < deadline:
        _wait(x.device)
        begin = time.perf_counter()
        torch.mm(x, w)
        _wait(x.device)
        times.append(time.perf_counter() - begin)
    return min(times[1:])  # the first one warms up


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
