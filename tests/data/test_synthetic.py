"""The generated world against a reader of its own that knows only the texts, and against Bradley-Terry's formula."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from math import exp
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmlab.batch import Example
from rmlab.data.synthetic import World
from rmlab.data.tokenize import Encoder
from rmlab.errors import UsageError
from rmlab.model.builtin import byte_tokenizer

SMALL: dict[str, Any] = {"prompts": 300, "val_prompts": 100}


def read(world: World, split: str) -> list[Example]:
    items = list(world.read(split))
    assert all(isinstance(item, Example) for item in items)
    return [item for item in items if isinstance(item, Example)]


def judged(prompt: str, solution: str) -> tuple[list[int], float]:
    """Returns the labels of a solution's lines and whether its last digit is the answer, from the texts alone."""
    stated = re.fullmatch(r"Exercise \d+: start at (\d), add ([\d ]+)\n\n", prompt)
    assert stated
    start, amounts = int(stated[1]), [int(amount) for amount in stated[2].split()]
    labels, digit, turned = [], start, []
    for line in solution.split("\n"):
        if still := re.fullmatch(r"still (\d)", line):
            assert int(still[1]) == digit, "a redundant line is true"
            labels.append(0)
            continue
        turn = re.fullmatch(r"\+(\d) = (\d)", line)
        assert turn, line
        labels.append(1 if str(digit + int(turn[1]))[-1] == turn[2] else -1)
        turned.append(int(turn[1]))
        digit = int(turn[2])
    assert turned == amounts, "a solution turns the dial as the prompt says"
    return labels, float(str(start + sum(amounts))[-1] == str(digit))


def test_the_reader_judges_the_docstrings_example_as_it_says() -> None:
    prompt = "Exercise 48: start at 8, add 1 2 1\n\n"
    assert judged(prompt, "+1 = 9\nstill 9\n+2 = 6\n+1 = 7") == ([1, 0, -1, 1], 0.0)
    assert judged(prompt, "+1 = 9\n+2 = 1\n+1 = 2") == ([1, 1, 1], 1.0)


def test_labels_outcomes_and_gold_are_what_the_texts_say() -> None:
    """Gold: -1 for every wrong line and -1/4 for every redundant one, divided by the temperature 0.5."""
    world = World(**SMALL, temperature=0.5)
    seen: Counter[object] = Counter()
    for example in read(world, "train") + read(world, "val"):
        for completion in example.completions:
            text = str(completion.text)
            labels, outcome = judged(str(example.prompt), text)
            assert [step.label for step in completion.steps] == labels
            assert completion.outcome == outcome
            assert completion.gold == pytest.approx(-2.0 * labels.count(-1) - 0.5 * labels.count(0))
            begins = [0, *(step.end + 1 for step in completion.steps)]  # + 1: the newline is in no step
            spans = zip(begins, (step.end for step in completion.steps), strict=False)
            assert [text[begin:end] for begin, end in spans] == text.split("\n")
            seen.update([("label", label) for label in labels] + [("outcome", outcome)])
            seen["right by two errors"] += outcome == 1.0 and -1 in labels
    assert min(seen.values()) > 0
    assert len(seen) == 6


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(2, 8),
    noise=st.floats(0.05, 0.8),
    neutral=st.floats(0.0, 0.8),
    completions=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_any_world_is_consistent(length: int, noise: float, neutral: float, completions: int, seed: int) -> None:
    world = World(3, 3, completions=completions, length=length, noise=noise, neutral=neutral, seed=seed)
    for example in read(world, "train") + read(world, "val"):
        texts = [str(c.text) for c in example.completions]
        assert len(set(texts)) == completions, "the solutions of a prompt differ"
        for completion, text in zip(example.completions, texts, strict=True):
            assert [s.label for s in completion.steps] == judged(str(example.prompt), text)[0]
        assert len(example.rankings) == (completions > 1)
        for ranking in example.rankings:
            assert sorted(ranking.order) == list(range(completions))
            assert list(ranking.grades) == sorted(ranking.grades, reverse=True)


def test_noise_and_neutral_are_the_rates_they_say() -> None:
    """Of 1,000 x 4 x 5 turns 30 % are wrong and 10 % are followed by a redundant line, within 4 standard errors
    (solutions of a prompt differ, which shifts the rates by less than that)."""
    labels = Counter(
        step.label
        for example in read(World(1000, 1, length=5, noise=0.3, neutral=0.1), "train")
        for completion in example.completions
        for step in completion.steps
    )
    turns = labels[-1] + labels[1]
    assert turns == 20_000
    assert labels[-1] / turns == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / turns) ** 0.5)
    assert labels[0] / turns == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / turns) ** 0.5)


def test_every_pair_of_the_drawn_order_is_bradley_terry() -> None:
    """By gold gap g, the share of pairs in which the better one is above is sigmoid(g), within 4 binomial errors."""
    above: Counter[float] = Counter()
    pairs: Counter[float] = Counter()
    for example in read(World(4000, 1, temperature=1.0), "train"):
        for first, second in combinations(example.rankings[0].order, 2):
            gap = round(example.completions[first].gold - example.completions[second].gold, 6)
            pairs[abs(gap)] += 1
            above[abs(gap)] += gap > 0
    checked = {gap: count for gap, count in pairs.items() if gap > 0 and count >= 200}
    assert len(checked) >= 8
    for gap, count in checked.items():
        expected = 1 / (1 + exp(-gap))
        error = (expected * (1 - expected) / count) ** 0.5
        assert above[gap] / count == pytest.approx(expected, abs=4 * error), gap


def test_the_whole_order_is_plackett_luce() -> None:
    """P(best, then next, then last) = e^a/(e^a+e^b+e^c) e^b/(e^b+e^c): of the draws with the three commonest golds."""
    drawn: dict[tuple[float, ...], Counter[tuple[float, ...]]] = {}
    for example in read(World(6000, 1, completions=3, length=2, temperature=1.0), "train"):
        golds = [c.gold for c in example.completions]
        if len(set(golds)) == 3:
            order = tuple(golds[i] for i in example.rankings[0].order)
            drawn.setdefault(tuple(sorted(golds)), Counter())[order] += 1
    orders = max(drawn.values(), key=Counter.total)
    total = orders.total()
    assert total > 200
    for order, count in orders.items():
        a, b, c = map(exp, order)
        expected = a / (a + b + c) * b / (b + c)
        assert count / total == pytest.approx(expected, abs=4 * (expected * (1 - expected) / total) ** 0.5)


def test_an_example_does_not_depend_on_what_else_is_made() -> None:
    few, many = World(prompts=5, val_prompts=5), World(prompts=50, val_prompts=20)
    for split in ("train", "val"):
        assert read(few, split) == read(many, split)[:5] == [many.example(split, i) for i in range(5)]
    assert read(few, "train") == read(few, "train")
    assert World(5, 5, seed=2).example("train", 0) != few.example("train", 0)


def test_no_prompt_comes_twice() -> None:
    world = World(prompts=2000, val_prompts=1000)
    prompts = [str(example.prompt) for split in world.splits() for example in read(world, split)]
    assert len(set(prompts)) == 3000


def test_the_prompt_decides_what_is_right() -> None:
    """Read under the prompt of another start, a right solution's first line is wrong and so is its answer."""
    solution = "+1 = 9\n+2 = 1"
    assert judged("Exercise 0: start at 8, add 1 2\n\n", solution) == ([1, 1], 1.0)
    assert judged("Exercise 0: start at 7, add 1 2\n\n", solution) == ([-1, 1], 0.0)


def test_the_best_accuracy_leaves_something_to_learn() -> None:
    """Bayes accuracy: the mean of sigmoid(|gold gap|) over all pairs of the default world."""
    gaps = [
        abs(one.gold - other.gold)
        for example in read(World(1, 500), "val")
        for one, other in combinations(example.completions, 2)
    ]
    assert 0.85 < sum(1 / (1 + exp(-gap)) for gap in gaps) / len(gaps) < 0.95


def test_the_built_in_tokenizer_gives_prompt_and_solution_the_same_ids_together_and_apart() -> None:
    """No token merges over the border, so an exported model scores `tokenizer(prompt + completion)` as it trained."""
    tokenizer = byte_tokenizer()
    encoder = Encoder(tokenizer, max_length=1000, overlong="drop")
    for example in read(World(1, 100), "val"):
        record = encoder.encode(example)
        assert isinstance(record, dict)
        for completion, ids, ends in zip(
            example.completions, record["completion_ids"], record["step_end"], strict=True
        ):
            assert tokenizer(str(example.prompt) + str(completion.text))["input_ids"] == record["prompt_ids"] + ids
            heard = [tokenizer.decode(ids[: end + 1]) for end in ends]
            assert heard == [str(completion.text)[: step.end] for step in completion.steps]


def test_the_fingerprint_changes_with_every_option() -> None:
    default: dict[str, Any] = {"prompts": 5, "val_prompts": 5}
    others = [
        {"prompts": 6}, {"val_prompts": 6}, {"completions": 3}, {"length": 3}, {"noise": 0.1}, {"neutral": 0.1},
        {"temperature": 1.0}, {"seed": 2},
    ]  # fmt: skip
    prints = [World(**default).fingerprint(), *(World(**default | other).fingerprint() for other in others)]
    assert len(set(prints)) == 9
    assert World(**default).fingerprint() == prints[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, r"data\.length is 0, expected a number from 1 to 40"),
        ({"noise": 0.0}, r"data\.noise is 0\.0, expected"),
        ({"neutral": 1.0}, r"data\.neutral is 1\.0, expected"),
        ({"temperature": 0.0}, r"data\.temperature is 0\.0, expected"),
        ({"length": 2, "completions": 5}, r"data\.completions is 5, expected a number from 1 to 4"),
        ({"prompts": 0}, r"expected 1 or more"),
        ({"val_prompts": -1}, r"expected 1 or more"),
    ],
)
def test_a_world_that_cannot_be_says_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        World(**options)
