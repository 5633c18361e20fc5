"""Outcome labels: plain rows and OpenAI's four solutions a question."""

from math import nan

import pytest

from rmlab.batch import Completion, Example, Ranking

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


@pytest.mark.parametrize(("label", "outcome"), [(True, 1.0), (False, 0.0), (1, 1.0), (0.0, 0.0)])
def test_outcome(read, label: object, outcome: float) -> None:
    assert read("outcome", {"prompt": "2+2?", "completion": "4", "label": label}) == Example(
        prompt="2+2?", completions=(Completion(text="4", outcome=outcome),), id="f.jsonl:3"
    )


def test_outcome_of_messages(read) -> None:
    ask, answer = [{"role": "user", "content": "2+2?"}], [{"role": "assistant", "content": "4"}]
    example = read("outcome", {"prompt": ask, "completion": answer, "label": True})
    assert (example.prompt, example.completions[0].text) == (tuple(ask), tuple(answer))
    assert read("outcome", {"prompt": ask, "completion": "4", "label": True}) == example


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": 2}, "label outside the classes"),
        ({"label": nan}, "label outside the classes"),
        ({"label": "yes"}, "label outside the classes"),
        ({"label": None}, "missing column"),
        ({"completion": ""}, "empty"),
        ({"completion": [{"role": "assistant", "content": "4"}]}, "malformed"),
    ],
)
def test_bad_outcome_rows(read, change: dict, reason: str) -> None:
    assert read("outcome", {"prompt": "2+2?", "completion": "4", "label": 1} | change) == reason


def solved(*solutions: tuple[str, bool]) -> dict:
    models = {m: {"solution": s, "is_correct": c} for m, (s, c) in zip(MODELS, solutions, strict=True)}
    return {"question": "2+2?", "ground_truth": "4", **models}


def test_gsm8k_ranks_every_right_solution_above_every_wrong_one(read) -> None:
    """Right: 0 and 2; wrong: 1 and 3; four pairs."""
    example = read("gsm8k_solutions", solved(("4", True), ("5", False), ("four", True), ("six", False)))
    assert [c.outcome for c in example.completions] == [1.0, 0.0, 1.0, 0.0]
    assert example.rankings == tuple(Ranking(order=pair) for pair in ((0, 1), (0, 3), (2, 1), (2, 3)))


def test_gsm8k_final_answers_stand_behind_the_marker_in_the_last_line(read) -> None:
    solutions = solved(("2 * 2 = 4\nA: 4", True), ("A: 1,250 ", False), ("A: 4\nso four", True), ("4", False))
    example = read("gsm8k_solutions", solutions)
    assert [c.answer for c in example.completions] == ["4", "1250", "", ""]


def test_gsm8k_with_one_kind_has_outcomes_only(read) -> None:
    example = read("gsm8k_solutions", solved(("4", True), ("four", True), ("4", True), ("IV", True)))
    assert example.rankings == ()
    assert [c.outcome for c in example.completions] == [1.0] * 4


def test_gsm8k_never_ranks_a_text_above_itself(read) -> None:
    example = read("gsm8k_solutions", solved(("4", True), ("4", False), ("5", False), ("5", False)))
    assert [ranking.order for ranking in example.rankings] == [(0, 2), (0, 3)]


def test_bad_gsm8k_rows(read) -> None:
    good = solved(("4", True), ("5", False), ("6", False), ("7", False))
    assert read("gsm8k_solutions", {**good, MODELS[0]: None}) == "missing column"
    assert read("gsm8k_solutions", {**good, MODELS[0]: "4"}) == "malformed"
    assert (
        read("gsm8k_solutions", {**good, MODELS[0]: {"solution": "4", "is_correct": "so"}})
        == "label outside the classes"
    )
    assert read("gsm8k_solutions", {**good, MODELS[0]: {"solution": " ", "is_correct": True}}) == "empty"
