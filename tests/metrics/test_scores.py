"""The score table: rewards, best-of-N against brute force, and the rows for the report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmlab.batch import Batch, Judgements
from rmlab.data.pack import pack
from rmlab.metrics.scores import ScoredCompletions, ScoreTable, majority_outcomes

UNUSED = Judgements(**dict.fromkeys(("probability_J", "outcome_J", "margin_J", "group_J", "source_J"), torch.zeros(0)))


def _table(batches: list[Batch], scores: list[torch.Tensor], sources: tuple[str, ...] = ()) -> ScoreTable:
    table = ScoreTable(sources)
    for batch, score in zip(batches, scores, strict=True):
        table.update(UNUSED, score, batch)
    return table


def test_worked_numbers(record: Callable[..., dict[str, object]]) -> None:
    """Three prompts with outcomes 0 1 1, 1 0 and 0 0, and one completion alone. Scores pick the second, both of the
    second prompt (a tie: 1/2) and a wrong one: (1 + 1/2 + 0) / 3. Oracle 2/3, first 1/3; the lonely one is left out."""
    batch = pack(
        [
            record(1, 3, outcome=[0.0, 1, 1]),
            record(2, 2, outcome=[1.0, 0]),
            record(3, 3, outcome=[0.0, 0, math.nan]),
            record(4, 2, outcome=[1.0, math.nan]),
        ]
    )
    found = _table([batch], [torch.tensor([0.0, 2, 1, 3, 3, 1, 0, 9, 1, 1])]).compute()
    assert found["best_of_n"] == 0.5
    assert found["best_of_n_oracle"] == pytest.approx(2 / 3)
    assert found["best_of_n_first"] == pytest.approx(1 / 3)
    assert found["best_of_n_prompts"] == 3
    assert (found["reward_mean"], found["reward_min"], found["reward_max"]) == (2.1, 0, 9)
    assert found["reward_std"] == pytest.approx(np.std([0, 2, 1, 3, 3, 1, 0, 9, 1, 1]))


def test_a_majority_of_final_answers(record: Callable[..., dict[str, object]]) -> None:
    """Answers 5 6 6 (6 is right): 1. Answers 1 2 (level, the first is wrong): 0. One vote, right, one abstains: 1.
    Nobody answers: 0. So 2 of 4."""
    batch = pack(
        [
            record(1, 3, outcome=[0.0, 1, 1], answer=["5", "6", "6"]),
            record(2, 2, outcome=[0.0, 1], answer=["1", "2"]),
            record(3, 2, outcome=[0.0, 1], answer=["", "7"]),
            record(4, 2, outcome=[1.0, 0]),
        ]
    )
    found = _table([batch], [torch.arange(9.0)]).compute()
    assert (found["best_of_n_majority"], found["best_of_n_prompts"]) == (0.5, 4)
    silent = _table([pack([record(1, 2, outcome=[0.0, 1])])], [torch.arange(2.0)]).compute()
    assert math.isnan(silent["best_of_n_majority"])


@given(answers=st.lists(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=2, max_size=6), min_size=1, max_size=6))
def test_a_majority_agrees_with_counting(answers: list[list[str]]) -> None:
    """`Counter.most_common` gives the earliest of answers level; here every "b" is right."""
    counts = [len(given) for given in answers]
    slots = [[given.index(answer) if answer else -1 for answer in given] for given in answers]
    flat = [answer for given in answers for answer in given]
    rows = dict.fromkeys(("slot_S", "source_S", "length_S", "score_S", "gold_S"), torch.zeros(len(flat)))
    prompt = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    outcome = torch.tensor([float(answer == "b") for answer in flat], dtype=torch.float64)
    answer = torch.tensor([slot for given in slots for slot in given])
    table = ScoredCompletions(prompt_S=prompt, outcome_S=outcome, answer_S=answer, **rows)
    found = majority_outcomes(table, prompt, len(counts))
    voted = [Counter(a for a in given if a).most_common(1) for given in answers]
    if any(flat):
        assert found.tolist() == [float(bool(v) and v[0][0] == "b") for v in voted]
    else:
        assert bool(found.isnan().all())


def test_random_batches_agree_with_a_loop(random_batches: Callable[..., list[Batch]]) -> None:
    batches = random_batches(50, seed=1)
    scores = [torch.randn(len(b.gold_S), generator=torch.Generator().manual_seed(i)) for i, b in enumerate(batches)]
    table = _table(batches, scores, ("first", "second"))
    found, picked, oracle, first = table.compute(), {}, {}, {}
    for batch, score in zip(batches, scores, strict=True):
        for g, prompt in enumerate(batch.prompt_G.tolist()):
            own = batch.group_S == g
            outcome = batch.outcome_S[own]
            if len(outcome) > 1:
                picked[prompt] = float(outcome[score[own].argmax()])
                oracle[prompt], first[prompt] = float(outcome.max()), float(outcome[0])
    assert found["best_of_n"] == pytest.approx(np.mean(list(picked.values())))
    assert found["best_of_n_oracle"] == pytest.approx(np.mean(list(oracle.values())))
    assert found["best_of_n_first"] == pytest.approx(np.mean(list(first.values())))
    assert found["best_of_n/first"] == pytest.approx(np.mean([v for p, v in picked.items() if p % 2 == 0]))
    assert found["reward_mean"] == pytest.approx(float(torch.cat(scores).mean()), abs=1e-6)
    assert found["best_of_n_low"] < found["best_of_n"] < found["best_of_n_high"]


def test_no_outcomes_no_best_of_n(record: Callable[..., dict[str, object]]) -> None:
    found = _table([pack([record(1, 2), record(2, 2)])], [torch.arange(4.0)]).compute()
    assert all(math.isnan(value) for key, value in found.items() if key.startswith("best_of_n"))
    assert found["reward_mean"] == 1.5


def test_rows_are_sorted_and_outlive_reset(random_batches: Callable[..., list[Batch]]) -> None:
    batches = random_batches(10, seed=2)
    table = _table(batches[::-1], [b.gold_S for b in batches[::-1]])
    table.compute()
    table.reset()
    rows = table.rows()
    keys = list(zip(rows.prompt_S.tolist(), rows.slot_S.tolist(), strict=True))
    assert keys == sorted(keys)
    assert torch.equal(rows.score_S, rows.gold_S)
    for name, values in (
        ("length_S", [b.length_S for b in batches]),
        ("outcome_S", [b.outcome_S for b in batches]),
    ):
        assert torch.equal(getattr(rows, name), torch.cat(values).to(getattr(rows, name).dtype))
