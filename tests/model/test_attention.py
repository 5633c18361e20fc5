"""The visibility rule against a brute-force reading of prefix trees, and the plan that attention is computed with."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmlab.batch import Batch
from rmlab.data.pack import pack
from rmlab.model.attend import flat_attention
from rmlab.model.attention import Plan, additive_mask, visible
from tests.worlds import random_records

Tree = tuple[int, list]  # length of a node's tokens, its children


def trees(depth: int) -> st.SearchStrategy[Tree]:
    children = st.just([]) if depth == 0 else st.lists(trees(depth - 1), max_size=3)
    return st.tuples(st.integers(1, 4), children)


def lay_out(forest: list[Tree]) -> tuple[list[int], list[int], list[set[int]]]:
    """Returns positions, until, and what each token sees, found by walking from the root."""
    position: list[int] = []
    until: list[int] = []
    sees: list[set[int]] = []

    def walk(node: Tree, ancestors: list[int]) -> None:
        length, children = node
        own = list(range(len(position), len(position) + length))
        for k in own:
            position.append(len(ancestors) + k - own[0])
            until.append(-1)
            sees.append({*ancestors, *range(own[0], k + 1)})
        for child in children:
            walk(child, ancestors + own)
        for k in own:
            until[k] = len(position)

    for tree in forest:
        walk(tree, [])
    return position, until, sees


def bare_batch(position: list[int], until: list[int]) -> Batch:
    empty = torch.empty(0, dtype=torch.long)
    names = [f for f in Batch.__dataclass_fields__ if f != "ids"]
    fields = dict.fromkeys(names, empty) | {
        "token_T": torch.tensor(position),
        "position_T": torch.tensor(position),
        "until_T": torch.tensor(until),
    }
    return Batch(**fields | {"ids": (), "completion_tokens": 0})


@settings(max_examples=60, deadline=None)
@given(st.lists(trees(3), min_size=1, max_size=4))
def test_the_rule_is_the_tree(forest: list[Tree]) -> None:
    _, until, sees = lay_out(forest)
    index = torch.arange(len(until))
    matrix = visible(index[:, None], index[None, :], torch.tensor(until))
    assert [set(row.nonzero()[:, 0].tolist()) for row in matrix] == sees


@settings(max_examples=60, deadline=None)
@given(st.lists(trees(3), min_size=1, max_size=4), st.sampled_from([None, 1, 2, 3]))
def test_the_plan_computes_every_token_once_and_lets_it_see_what_it_should(
    forest: list[Tree], window: int | None
) -> None:
    position, until, sees = lay_out(forest)
    plan = Plan.of(bare_batch(position, until), causal=True)
    seen: dict[int, set[int]] = {}
    for bucket in plan.buckets:
        mask = plan.mask(bucket, window)
        if mask is None:  # the kernel's own causal rule
            q, k = bucket.query_BQ.shape[1], bucket.key_BK.shape[1]
            mask = torch.ones(len(bucket.query_BQ), 1, q, k, dtype=torch.bool).tril()
        for b, i in bucket.query_valid_BQ.nonzero().tolist():
            token = int(bucket.query_BQ[b, i])
            assert token not in seen
            seen[token] = set(bucket.key_BK[b][mask[b, 0, i]].tolist())
    near = [{k for k in s if window is None or position[q] - position[k] < window} for q, s in enumerate(sees)]
    assert [seen[q] for q in range(len(position))] == near
    rows = torch.cat([bucket.query_BQ.masked_fill(~bucket.query_valid_BQ, -1).flatten() for bucket in plan.buckets])
    assert rows[plan.restore_X].tolist() == list(range(len(position)))


def test_layers_never_wait_for_a_device() -> None:
    """Where no tensor has values, whatever asks for one raises: what would be a wait in each layer on a GPU."""
    batch = pack(random_records(seed=4))
    plan = Plan.of(batch, causal=True)
    assert not all(bucket.query_valid_BQ.all() for bucket in plan.buckets)
    away = Plan(
        [bucket.to("meta") for bucket in plan.buckets],
        *(x.to("meta") for x in (plan.restore_X, plan.position_T, plan.until_T)),
        causal=True,
    )
    q, k, v = (torch.empty(1, 2, batch.tokens, 4, device="meta") for _ in range(3))
    for options in ({}, {"sliding_window": 5}, {"softcap": 2.0}):
        out, _ = flat_attention(torch.nn.Identity(), q, k, v, None, plan=away, **options)
        assert out.shape == (1, batch.tokens, 2, 4)


def test_additive_mask_of_a_pair_by_hand() -> None:
    """Prompt 0 1, completions 2 and 3 4: token 3 sees the prompt and itself, not token 2; the last is padding."""
    until = torch.tensor([5, 5, 3, 5, 5])
    mask = additive_mask(torch.tensor([[0, 1, 2, 3, 4, -1]]), until, torch.float32)[0, 0] == 0
    assert mask[:5].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
    ]
