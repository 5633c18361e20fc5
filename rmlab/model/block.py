"""The decoder block of the Llama family on CPU, as one function with its backward pass written out.

Llama, Mistral, Qwen 2 and 3 and many others share one block: RMS norm, rotary attention, RMS norm, gated unit. Run
operation by operation it keeps every intermediate result and walks over all of them again, which on a CPU costs as much
as a third of the matrix products and most of the memory. Here it keeps its input, what its products made of it and the
attention's output, and recomputes norms, rotations and gates, which is cheap. Queries, keys and values are one
product, gates another. In the last block only the tokens that are read get past the attention.

What a block computes is not assumed from its class: `fuse` replaces a layer's `forward` only if its parts have this
structure and both give the same numbers. Wherever a call is not the one it was made for (another device or precision,
an adapter in place of a linear map, gathered weights, recomputation of activations) the layer's own forward runs.

Left out: biases and soft-capping (the layer's own forward has them), and a GPU version: there `model.compile=true`,
for which `unfuse` undoes this.

T tokens, X tokens behind the attention, D hidden size, H heads, J key-value heads, d head size, F inner size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from rmlab.batch import Batch
from rmlab.model.attend import attend, attend_backward
from rmlab.model.attention import Plan
from rmlab.model.layers import layers_of, windows_of

WEIGHTS = 11  # of a block
ROWS = 128  # tokens whose gates are computed at once: what a core's cache holds


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a block does besides its weights."""

    heads: int
    shared: int  # key-value heads
    size: int  # of a head
    eps: float
    scale: float
    window: int | None


@dataclass(slots=True)
class _Call:
    """One call's arguments that are no weights: cosine and sine [T, d], and those of the queries."""

    shape: _Shape
    plan: Plan  # whose queries are the X tokens
    read_X: Tensor | None  # the X tokens, None = all
    cos_Td: Tensor
    sin_Td: Tensor


def _inverse(x: Tensor, eps: float) -> Tensor:
    """Returns 1 / root mean square of the last axis, kept."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _norm_backward(grad: Tensor, x: Tensor, inverse: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients of x and of the weight for y = x inverse weight; overwrites `grad`."""
    unit = x * inverse
    product = grad * unit
    along = (product @ weight)[..., None] / len(weight)
    grad.mul_(weight)
    return torch.addcmul(grad, unit, along, value=-1).mul_(inverse), product.sum(0)


def _rotate(x_THd: Tensor, cos_Td: Tensor, sin_Td: Tensor, sign: int) -> Tensor:
    """Returns the vectors turned by their positions; `sign` -1 turns back."""
    half = x_THd.shape[-1] // 2
    cos, sin = cos_Td[:, None], sin_Td[:, None]
    out = x_THd * cos
    out[..., :half].addcmul_(x_THd[..., half:], sin[..., :half], value=-sign)
    out[..., half:].addcmul_(x_THd[..., :half], sin[..., half:], value=sign)
    return out


def _turned(raw_THd: Tensor, weight: Tensor | None, eps: float, cos_Td: Tensor, sin_Td: Tensor) -> Tensor:
    """Returns queries or keys as the attention takes them, fp32."""
    x = raw_THd.float()
    if weight is not None:
        x = (x * _inverse(x, eps)).mul_(weight)
    return _rotate(x, cos_Td, sin_Td, 1)


def _turned_backward(
    grad: Tensor, raw_THd: Tensor, weight: Tensor | None, eps: float, cos_Td: Tensor, sin_Td: Tensor
) -> tuple[Tensor, Tensor | None]:
    grad = _rotate(grad, cos_Td, sin_Td, -1)
    if weight is None:
        return grad, None
    raw = raw_THd.float()
    dx, dw = _norm_backward(grad, raw, _inverse(raw, eps), weight)
    return dx, dw.sum(0)


def _gated(gate_up: Tensor, out_XF: Tensor) -> Tensor:
    """Returns silu(gate) up in `out_XF`."""
    for rows, out in zip(gate_up.split(ROWS), out_XF.split(ROWS), strict=True):
        gate, up = rows.chunk(2, 1)
        torch.mul(F.silu(gate), up, out=out)
    return out_XF


def _gated_backward(grad_XF: Tensor, gate_up: Tensor) -> tuple[Tensor, Tensor]:
    """Returns silu(gate) up, and the gradient of `gate_up`."""
    value, grad = torch.empty_like(grad_XF), torch.empty_like(gate_up)
    for g, rows, out, dx in zip(*(x.split(ROWS) for x in (grad_XF, gate_up, value, grad)), strict=True):
        gate, up = rows.chunk(2, 1)
        dgate, dup = dx.chunk(2, 1)
        active = F.silu(gate)
        torch.mul(active, up, out=out)
        torch.mul(g, active, out=dup)
        torch.ops.aten.silu_backward.grad_input(g * up, gate, grad_input=dgate)
    return value, grad


def _picked(x: Tensor, read_X: Tensor | None) -> Tensor:
    return x if read_X is None else x.index_select(0, read_X)


@final
class _Block(torch.autograd.Function):
    """x [T, D] -> [T, D], and the gradients of x and of the weights. Tokens that are not read get zeros."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, call: _Call, dtype: torch.dtype, *weights: Any) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            out, saved, kept = _forward(x_TD, call, dtype, *weights)
        ctx.call, ctx.dtype = call, dtype
        ctx.save_for_backward(x_TD, *saved, *weights, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> Any:  # type: ignore[override]
        trained = any(ctx.needs_input_grad[3:])
        x_TD, query, key_value, mixed, middle, gate_up, *rest = ctx.saved_tensors
        saved, weights, kept = (query, key_value, mixed, middle, gate_up), rest[:WEIGHTS], rest[WEIGHTS:]
        with torch.autocast("cpu", enabled=False):
            dx, grads = _backward(grad_TD, x_TD, saved, kept, ctx.call, ctx.dtype, weights, trained)
        kept = (g if need else None for g, need in zip(grads, ctx.needs_input_grad[3:], strict=True))
        return dx, None, None, *kept


def _project(h: Tensor, *weights: Tensor) -> Tensor:
    """Returns h W' for the matrices one below the other."""
    return h @ torch.cat([w.to(h.dtype) for w in weights]).t()


def _forward(
    x: Tensor, call: _Call, dtype: torch.dtype, n1: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, nq: Tensor | None,
    nk: Tensor | None, wo: Tensor, n2: Tensor, wg: Tensor, wu: Tensor, wd: Tensor,
) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:  # fmt: skip
    kept: list[Tensor] = []
    s, read = call.shape, call.read_X
    h = (x * _inverse(x, s.eps)).mul_(n1).to(dtype)
    if read is None:
        query, key_value = _project(h, wq, wk, wv).split([s.heads * s.size, 2 * s.shared * s.size], 1)
    else:
        query, key_value = _project(h[read], wq), _project(h, wk, wv)
    q, k, v = _attended(query, key_value, call, nq, nk)
    mixed = attend(q, k, v, call.plan, s.scale, s.window, kept).to(dtype).flatten(1)
    middle = (mixed @ wo.to(dtype).t()).add(_picked(x, read))  # in fp32, as residuals are
    h = (middle * _inverse(middle, s.eps)).mul_(n2).to(dtype)
    gate_up = _project(h, wg, wu)
    out = (_gated(gate_up, h.new_empty(len(h), len(wg))) @ wd.to(dtype).t()).add(middle)
    if read is not None:
        out = torch.zeros_like(x).index_copy_(0, read, out)
    return out, (query, key_value, mixed, middle, gate_up), kept


def _attended(query: Tensor, key_value: Tensor, call: _Call, nq: Tensor | None, nk: Tensor | None) -> list[Tensor]:
    """Returns queries [X, H, d], keys and values [T, J, d] from what the products made."""
    s = call.shape
    key, value = (x.unflatten(1, (s.shared, s.size)) for x in key_value.chunk(2, 1))
    q = _turned(
        query.unflatten(1, (s.heads, s.size)), nq, s.eps, _picked(call.cos_Td, call.read_X),
        _picked(call.sin_Td, call.read_X),
    )  # fmt: skip
    return [q, _turned(key, nk, s.eps, call.cos_Td, call.sin_Td), value]


def _backward(
    grad: Tensor, x: Tensor, saved: tuple[Tensor, ...], kept: list[Tensor], call: _Call, dtype: torch.dtype,
    weights: Any, trained: bool,
) -> tuple[Tensor | None, list[Tensor | None]]:  # fmt: skip
    query, key_value, mixed, middle, gate_up = saved
    n1, wq, wk, wv, nq, nk, wo, n2, wg, wu, wd = weights
    s, read = call.shape, call.read_X
    grad = _picked(grad, read)
    inverse = _inverse(middle, s.eps)
    h = (middle * inverse).mul_(n2).to(dtype)
    g = grad.to(dtype)
    value, dgate_up = _gated_backward(g @ wd.to(dtype), gate_up)
    dwd = g.t() @ value if trained else None
    del value
    dwgu = dgate_up.t() @ h if trained else None
    dmiddle, dn2 = _norm_backward((dgate_up @ torch.cat([wg.to(dtype), wu.to(dtype)])).float(), middle, inverse, n2)
    del dgate_up
    dmiddle += grad
    g = dmiddle.to(dtype)
    dwo = g.t() @ mixed if trained else None
    dmixed = (g @ wo.to(dtype)).unflatten(1, (s.heads, s.size))
    dqkv, dnq, dnk = _attended_backward(dmixed, query, key_value, kept, call, nq, nk)
    inverse = _inverse(x, s.eps)
    h = (x * inverse).mul_(n1).to(dtype)
    if read is None:
        dh = (dqkv[0] @ torch.cat([w.to(dtype) for w in (wq, wk, wv)])).float()
    else:
        dh = (dqkv[1] @ torch.cat([wk.to(dtype), wv.to(dtype)])).float()
        dh.index_add_(0, read, (dqkv[0] @ wq.to(dtype)).float())
    dx, dn1 = _norm_backward(dh, x, inverse, n1)
    dx = dx.add_(dmiddle) if read is None else dx.index_add_(0, read, dmiddle)
    if dwd is None or dwgu is None or dwo is None:
        return dx, [None] * WEIGHTS
    parts = [dqkv[0].t() @ h] if read is None else [dqkv[0].t() @ h[read], dqkv[1].t() @ h]
    dwq, dwk, dwv = torch.cat(parts).float().split([len(wq), len(wk), len(wv)])
    dwg, dwu = dwgu.float().chunk(2)
    return dx, [dn1, dwq, dwk, dwv, dnq, dnk, dwo.float(), dn2, dwg, dwu, dwd.float()]


def _attended_backward(
    grad: Tensor,
    query: Tensor,
    key_value: Tensor,
    kept: list[Tensor],
    call: _Call,
    nq: Tensor | None,
    nk: Tensor | None,
) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    """Returns the gradient of queries, keys and values (one matrix, or queries apart where they are fewer)."""
    s, dtype = call.shape, query.dtype
    q, k, v = _attended(query, key_value, call, nq, nk)
    dq, dk, dv = attend_backward(grad, q, k, v, call.plan, s.scale, s.window, kept)
    cos, sin = _picked(call.cos_Td, call.read_X), _picked(call.sin_Td, call.read_X)
    dq, dnq = _turned_backward(dq, query.unflatten(1, (s.heads, s.size)), nq, s.eps, cos, sin)
    key = key_value.chunk(2, 1)[0].unflatten(1, (s.shared, s.size))
    dk, dnk = _turned_backward(dk, key, nk, s.eps, call.cos_Td, call.sin_Td)
    rows = [x.flatten(1).to(dtype) for x in (dq, dk, dv)]
    return ([torch.cat(rows, 1)] if call.read_X is None else [rows[0], torch.cat(rows[1:], 1)]), dnq, dnk


ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Reading:
    """The tokens that are read in the end, and how they meet the last attention; made once a micro-batch."""

    read_X: Tensor
    plan: Plan

    @classmethod
    def of(cls, batch: Batch, causal: bool, read_N: Tensor | None) -> Reading | None:
        """Returns it, or None where too much is read (or nobody says what) for it to be worth while."""
        if read_N is None or batch.token_T.device.type != "cpu":
            return None
        read_X = read_N.unique()  # a step in a shared opening is read by several completions
        if not 0 < 4 * len(read_X) <= batch.tokens:
            return None
        return cls(read_X, Plan.at(batch.position_T, batch.until_T, causal, read_X))


@final
class Fused:
    """Stands in for a layer's forward."""

    def __init__(self, layer: Any, shape: _Shape, last: bool) -> None:
        self.layer, self.shape, self.last = layer, shape, last

    def _own(self, hidden_states: Tensor, **options: Any) -> Any:
        return type(self.layer).forward(self.layer, hidden_states, **options)

    def _weights(self) -> list[Tensor | None] | None:
        """Returns the block's weights, or None where something else than plain linear maps stands there now."""
        maps = _maps(self.layer)
        if any(type(m) is not nn.Linear or type(m.weight) is not nn.Parameter or m.weight.ndim != 2 for m in maps):
            return None  # an adapter, or weights that are spread over ranks
        q, k, v, o, gate, up, down = (m.weight for m in maps)
        norms = (getattr(getattr(self.layer.self_attn, name, None), "weight", None) for name in ("q_norm", "k_norm"))
        first, second = self.layer.input_layernorm.weight, self.layer.post_attention_layernorm.weight
        return [first, q, k, v, *norms, o, second, gate, up, down]

    def _ordinary(self, hidden_states: Tensor, options: dict[str, Any]) -> bool:
        """Returns whether this call needs the layer's own forward."""
        layer = self.layer
        if not isinstance(options.get("plan"), Plan):
            return True
        if hidden_states.device.type != "cpu" or hidden_states.dtype != torch.float32:
            return True
        if any(m._forward_hooks or m._forward_pre_hooks for m in layer.modules() if m is not layer):
            return True  # somebody wants to see the parts
        return bool(layer.training and (layer.gradient_checkpointing or layer.self_attn.attention_dropout > 0))

    def __call__(self, hidden_states: Tensor, **options: Any) -> Any:
        """Takes and gives what the layer's own forward does; tokens that are not read come out as zeros."""
        weights = None if self._ordinary(hidden_states, options) else self._weights()
        if weights is None:
            return self._own(hidden_states, **options)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        cos, sin = options["position_embeddings"]
        reading: Reading | None = options.get("reading") if self.last else None
        plan, read = (options["plan"], None) if reading is None else (reading.plan, reading.read_X)
        out: Tensor = _Block.apply(
            hidden_states[0], _Call(self.shape, plan, read, cos[0].float(), sin[0].float()), dtype, *weights
        )
        return out[None]

    @torch.no_grad()
    def agrees(self, far: int) -> bool:
        """Returns whether both forwards give the same for five tokens, the last two at position `far` and behind."""
        first = self.layer.input_layernorm.weight
        if first.device.type != "cpu" or first.dtype != torch.float32:
            return False
        source = torch.Generator().manual_seed(0)
        x = torch.randn(1, 5, first.shape[0], generator=source)
        position, until = torch.tensor([0, 1, 2, far, far + 1]), torch.full((5,), 5)
        angle = position[:, None] * torch.rand(self.shape.size // 2, generator=source).repeat(2)
        options: dict[str, Any] = dict(
            position_embeddings=(angle.cos()[None], angle.sin()[None]),
            plan=Plan.at(position, until, True),
            attention_mask=None,
            position_ids=position[None],
        )
        expected = self._own(x, **options)
        return isinstance(expected, Tensor) and torch.allclose(self(x, **options), expected, atol=1e-4, rtol=1e-4)


def _maps(layer: Any) -> list[Any]:
    return [getattr(layer.self_attn, n, None) for n in ATTENTION] + [getattr(layer.mlp, n, None) for n in MLP]


def _shape_of(layer: Any, window: int | None) -> _Shape | None:
    """Returns a layer's shape if its parts are those of the block, else None."""
    names = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
    if {name for name, _ in layer.named_children()} != names or "forward" in layer.__dict__:
        return None
    maps = _maps(layer)
    if any(type(m) is not nn.Linear or m.bias is not None for m in maps):
        return None
    attention = layer.self_attn
    facts: list[Any] = [getattr(attention, name, None) for name in ("head_dim", "scaling", "attention_dropout")]
    eps = getattr(layer.input_layernorm, "variance_epsilon", None)
    if None in facts or eps is None or eps != getattr(layer.post_attention_layernorm, "variance_epsilon", None):
        return None
    size, scale, _ = facts
    norms = [getattr(getattr(attention, name, None), "weight", None) for name in ("q_norm", "k_norm")]
    if any(weight is not None and weight.shape != (size,) for weight in norms):
        return None
    return _Shape(maps[0].out_features // size, maps[1].out_features // size, size, eps, scale, window)


def unfuse(model: nn.Module) -> None:
    """Gives every layer its own forward back."""
    for layer in layers_of(model):
        if isinstance(layer.forward, Fused):
            del layer.forward


def fuse(model: PreTrainedModel) -> None:
    """Replaces the forward of the layers that compute this block, on a CPU; leaves the others as they are."""
    layers, config = layers_of(model), model.config
    window = getattr(config, "sliding_window", None) or 9
    far = max(window, (getattr(config, "max_position_embeddings", None) or 0) - 3) + 1
    for i, (layer, own) in enumerate(zip(layers, windows_of(model), strict=True)):
        shape = _shape_of(layer, own)
        if shape is None:
            continue
        fused = Fused(layer, shape, last=i == len(layers) - 1)
        if fused.agrees(far):  # layers of the same parts may differ: in SmolLM3 every fourth does not rotate
            layer.forward = fused
