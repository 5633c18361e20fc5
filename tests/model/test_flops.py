"""FLOPs against torch's own counter on plain dense runs, against formulas, and distinct tokens by brute force."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rmlab.data.pack import pack
from rmlab.heads.mlp import MLPHead
from rmlab.model.backbone import Backbone
from rmlab.model.flops import Cost, cost_of, distinct, matmul_rate, matrix_shapes
from rmlab.model.layers import Freeze
from rmlab.model.load import take_pooler
from tests.worlds import SIZES, random_record, random_records, tiny_model


def model_of(family: str, ratio: float):
    model = tiny_model(family)
    take_pooler(model)
    Freeze(ratio=ratio).apply(model)
    return model


def cost(family: str, ratio: float = 0.0, head: tuple[nn.Module, ...] = ()) -> Cost:
    return cost_of(Backbone(model_of(family, ratio)), head)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("family", SIZES)
def test_costs_equal_what_torch_counts_on_a_dense_run(family: str, ratio: float) -> None:
    """Three rows of 21 tokens, eager: 63 tokens and 3 x 21 x 21 pairs, none masked out of the arithmetic."""
    found, plain = cost(family, ratio), model_of(family, ratio)
    plain.set_attn_implementation("eager")
    token = torch.full((3, 21), 5)
    with FlopCounterMode(display=False) as forward:
        state = plain(input_ids=token).last_hidden_state
    with FlopCounterMode(display=False) as backward:
        state.sum().backward()
    work = found.fixed + found.token.times(63) + found.pair.times(3 * 21 * 21)
    assert work.forward == forward.get_total_flops()
    assert work.backward == backward.get_total_flops()
    assert ratio == 0 or work.backward < 1.6 * work.forward  # half the layers have no backward pass


def test_costs_of_gpt2_by_hand() -> None:
    """2 layers of width 32: 12 x 32 x 32 weights each, 2 FLOPs a weight and token; a pair costs 2 x 2 x 32 a layer."""
    found = cost("gpt2")
    assert (found.token.forward, found.token.backward) == (2 * 2 * 12 * 32 * 32, 2 * 2 * 2 * 12 * 32 * 32)
    assert (found.pair.forward, found.pair.backward) == (2 * 4 * 32, 2 * 8 * 32)
    assert found.fixed.total == 0


def test_a_head_is_counted_where_it_reads() -> None:
    """32 -> 8 -> 2: 272 weights; behind a frozen backbone the first matrix passes no gradient down."""
    head = MLPHead(32, 2, hidden_features=8)
    whole, frozen = cost("gpt2", 0.0, (head,)), cost("gpt2", 1.0, (head,))
    assert (whole.read.forward, whole.read.backward) == (2 * 272, 4 * 272)
    assert (frozen.read.forward, frozen.read.backward) == (2 * 272, 2 * (256 + 2 * 16))
    assert (frozen.token.backward, frozen.pair.backward) == (0, 0)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_model("llama")
    backbone = Backbone(model.train())
    implementation, state = model.config._attn_implementation, torch.get_rng_state()
    cost_of(backbone, ())
    matmul_rate(matrix_shapes(model), tokens=8, dtype=torch.float32, device="cpu", seconds=0.01)
    assert model.config._attn_implementation == implementation
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def nodes(records: list[dict], causal: bool) -> list[int]:
    """Returns how many keys each distinct token sees, from sets of prefixes."""
    seen = []
    for record in records:
        whole = [tuple(record["prompt_ids"] + ids) for ids in record["completion_ids"]]
        prefixes = {s[: i + 1] for s in whole for i in range(len(s))}
        seen += [len(p) for p in prefixes] if causal else [len(s) for s in set(whole) for _ in s]
    return seen


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), window=st.sampled_from([None, 1, 4]), share=st.booleans(), opening=st.integers(0, 4))
def test_distinct_tokens_are_the_nodes_of_the_prefix_tree(
    seed: int, window: int | None, share: bool, opening: int
) -> None:
    """However the batch is packed, and also where completions begin alike."""
    records = random_records(seed, count=3)
    for record in records:
        record["completion_ids"] = [[7] * opening + ids for ids in record["completion_ids"]]
    batch = pack(records, share=share, ghost_id=0)
    expected = nodes(records, causal=True)
    assert distinct(batch, causal=True, windows=(None, window)) == (
        len(expected),
        sum(expected) / 2 + sum(min(n, window or n) for n in expected) / 2,
    )


def test_an_encoder_computes_every_sequence() -> None:
    records = random_records(seed=1, count=2)
    expected = nodes(records, causal=False)
    assert distinct(pack(records, share=False), causal=False) == (len(expected), sum(expected))


def test_work_of_a_batch_is_that_of_its_distinct_tokens() -> None:
    """A prompt of 2, completions of 1 and 2 tokens: 5 nodes that see 1 + 2 + 3 + 3 + 4 keys; 2 reads."""
    record = random_record(Random(0), 2, steps=True, prompt=[5, 6])
    record["completion_ids"], record["step_end"] = [[8], [9, 10]], [[0], [1]]
    record["step_label"] = [[1], [1]]
    found = cost("gpt2", head=(nn.Linear(32, 1),))
    for share in (True, False):
        work = found.of(pack([record], share=share), reads=2)
        assert work.forward == 5 * found.token.forward + 13 * found.pair.forward + 2 * 2 * 32


def test_the_rate_of_a_larger_product_is_a_number_of_this_machine() -> None:
    """Only its kind can be tested: positive, finite, and taken over all shapes."""
    model = tiny_model("llama")
    shapes = matrix_shapes(model)
    assert shapes == Counter({(32, 32): 4, (32, 16): 4, (32, 48): 4, (48, 32): 2})
    rate = matmul_rate(shapes, tokens=16, dtype=torch.bfloat16, device="cpu", seconds=0.01)
    assert 1e6 < rate < 1e17
