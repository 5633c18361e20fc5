"""Packing: every token once, nothing lost, shared prompts shared."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmlab.data.flat import opening_of
from rmlab.data.pack import pack
from tests.worlds import random_records


def record(prompt: list[int], completions: list[list[int]], order: list[int], **facts: object) -> dict:
    n = len(completions)
    base = dict(
        prompt_ids=prompt,
        completion_ids=completions,
        outcome=[float("nan")] * n,
        answer=[""] * n,
        gold=[float("nan")] * n,
        step_end=[[]] * n,
        step_label=[[]] * n,
        attributes=[[]] * n,
        order=[order],
        grades=[[]],
        probability=[1.0],
        weight=[1.0],
        source="s",
        id="x",
    )
    return base | facts


def test_a_pair_by_hand() -> None:
    """Prompt 7 8, completions 3 and 4 5 (the second is better): tokens 7 8 3 4 5, positions 0 1 2 2 3."""
    batch = pack([record([7, 8], [[3], [4, 5]], [1, 0], step_end=[[0], [0, 1]], step_label=[[1], [0, -1]])])
    assert batch.token_T.tolist() == [7, 8, 3, 4, 5]
    assert batch.position_T.tolist() == [0, 1, 2, 2, 3]
    assert batch.until_T.tolist() == [5, 5, 3, 5, 5]
    assert (batch.start_S.tolist(), batch.end_S.tolist()) == ([2, 3], [2, 4])
    assert batch.order_RK.tolist() == [[1, 0]]
    assert (batch.end_M.tolist(), batch.segment_M.tolist(), batch.label_M.tolist()) == (
        [2, 3, 4],
        [0, 1, 1],
        [1, 0, -1],
    )


def test_unshared_repeats_the_prompt() -> None:
    batch = pack([record([7, 8], [[3], [4, 5]], [1, 0])], share=False)
    assert batch.token_T.tolist() == [7, 8, 3, 7, 8, 4, 5]
    assert batch.position_T.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert batch.until_T.tolist() == [3, 3, 3, 7, 7, 7, 7]


def test_rows_of_one_prompt_become_one_group_and_equal_completions_one() -> None:
    """A over B and A over C of the same prompt: one prompt, three completions, two rankings."""
    batch = pack([record([7], [[1], [2]], [0, 1]), record([9], [[4], [5]], [0, 1]), record([7], [[1], [3]], [0, 1])])
    assert batch.token_T.tolist() == [7, 1, 2, 3, 9, 4, 5]
    assert batch.group_S.tolist() == [0, 0, 0, 1, 1]
    assert batch.slot_S.tolist() == [0, 1, 2, 0, 1]
    assert batch.order_RK.tolist() == [[0, 1], [0, 2], [3, 4]]


def test_equal_texts_with_different_facts_stay_apart() -> None:
    batch = pack(
        [record([7], [[1], [2]], [0, 1], outcome=[1.0, 0.0]), record([7], [[1], [2]], [0, 1], outcome=[0.0, 0.0])]
    )
    assert batch.outcome_S.tolist() == [1.0, 0.0, 0.0]


def test_lists_of_different_length_are_padded_with_minus_one() -> None:
    batch = pack([record([7], [[1], [2], [3]], [2, 0, 1], grades=[[3.0, 2.0, 2.0]]), record([8], [[4], [5]], [1, 0])])
    assert batch.order_RK.tolist() == [[2, 0, 1], [4, 3, -1]]
    assert batch.grade_RK[0].tolist() == [3.0, 2.0, 2.0]
    assert batch.grade_RK[1].isnan().all()


def test_ghosts_reach_the_longest_and_are_seen_by_nobody() -> None:
    """Completions of 1 and 3 tokens: two ghosts after the first, positions counting on, until_T[k] = k."""
    batch = pack([record([7], [[1], [2, 3, 4]], [0, 1])], ghost_id=0)
    assert batch.token_T.tolist() == [7, 1, 0, 0, 2, 3, 4]
    assert batch.position_T.tolist() == [0, 1, 2, 3, 1, 2, 3]
    assert batch.until_T.tolist() == [7, 4, 2, 3, 7, 7, 7]
    assert batch.end_S.tolist() == [1, 6]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 6), share=st.booleans())
def test_every_completion_can_be_read_back(seed: int, count: int, share: bool) -> None:
    records = random_records(seed, count)
    batch = pack(records, share=share)
    expected = [(r["prompt_ids"], c) for r in records for c in r["completion_ids"]]
    index = torch.arange(batch.tokens)
    for s, (prompt, completion) in enumerate(expected):
        end = batch.end_S[s]
        seen = index[(index <= end) & (end < batch.until_T)]
        assert batch.token_T[seen].tolist() == prompt + completion
        assert batch.position_T[seen].tolist() == list(range(len(seen)))
    stems = [[len(r["prompt_ids"]) + opening_of(r["completion_ids"])] for r in records]
    if not share:
        assert batch.tokens == sum(len(prompt) + len(completion) for prompt, completion in expected)
    else:
        own = sum(len(c) - opening_of(r["completion_ids"]) for r in records for c in r["completion_ids"])
        assert batch.tokens == sum(map(sum, stems)) + own


@given(
    opening=st.lists(st.integers(0, 2), max_size=5),
    rests=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=2, max_size=4),
)
def test_the_opening_is_the_longest_common_one_that_leaves_each_a_token(
    opening: list[int], rests: list[list[int]]
) -> None:
    completions = [opening + rest for rest in rests]
    found = opening_of(completions)
    common = [len({tuple(c[:n]) for c in completions}) == 1 for n in range(min(map(len, completions)))]
    assert found == max(n for n, same in enumerate(common) if same)


def test_a_common_opening_is_stored_once_and_steps_in_it_are_found() -> None:
    """Prompt 7, completions 1 2 3 and 1 2 4 5: tokens 7 1 2 | 3 | 4 5; a step that ends in the opening is both's."""
    steps = dict(step_end=[[0, 2], [1, 3]], step_label=[[1, 0], [-1, 1]])
    batch = pack([record([7], [[1, 2, 3], [1, 2, 4, 5]], [0, 1], **steps)])
    assert batch.token_T.tolist() == [7, 1, 2, 3, 4, 5]
    assert batch.position_T.tolist() == [0, 1, 2, 3, 3, 4]
    assert batch.until_T.tolist() == [6, 6, 6, 4, 6, 6]
    assert (batch.start_S.tolist(), batch.own_S.tolist(), batch.end_S.tolist()) == ([1, 1], [3, 4], [3, 5])
    assert batch.length_S.tolist() == [3, 4]
    assert (batch.end_M.tolist(), batch.segment_M.tolist()) == ([1, 3, 2, 5], [0, 0, 1, 1])
    whole = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    assert batch.at(whole, torch.tensor([0, 1, 2, 0, 1, 2, 3])).tolist() == [1, 2, 3, 1, 2, 4, 5]


def test_equal_final_answers_point_to_the_first() -> None:
    batch = pack([record([7], [[1], [2], [3], [4]], [0, 1], answer=["5", "", "6", "5"])])
    assert batch.answer_S.tolist() == [0, -1, 2, 0]
