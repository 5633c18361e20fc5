"""Step labels: TRL's stepwise, PRM800K, Math-Shepherd, PRMBench, ProcessBench. Ends are checked by cutting the text."""

from math import isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmlab.batch import UNLABELLED, Completion, Example, Step
from rmlab.data.formats.fields import stepped
from rmlab.data.formats.math_shepherd import LAYOUT as MATH_SHEPHERD
from rmlab.data.formats.math_shepherd import TAG


def parts(completion: Completion) -> list[tuple[str, int]]:
    """Returns (text since the last step's end, label) of each step."""
    starts = [0, *(step.end for step in completion.steps)]
    return [(completion.text[a : step.end], step.label) for a, step in zip(starts, completion.steps, strict=False)]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5), st.sampled_from(["\n", "\n\n", ""]))
def test_steps_end_where_their_text_ends(steps: list[str], separator: str) -> None:
    completion = stepped(steps, [1] * len(steps), separator)
    assert completion.text == separator.join(steps)
    assert [completion.text[: step.end] for step in completion.steps] == [
        separator.join(steps[: n + 1]) for n in range(len(steps))
    ]


def test_stepwise(read) -> None:
    """ "Add." ends at 4, a line break, "Get 5." ends at 11."""
    assert read("stepwise", {"prompt": "2+2?", "completions": ["Add.", "Get 5."], "labels": [True, False]}) == Example(
        prompt="2+2?",
        completions=(Completion(text="Add.\nGet 5.", steps=(Step(end=4, label=1), Step(end=11, label=-1))),),
        id="f.jsonl:3",
    )


@pytest.mark.parametrize(
    ("layout", "labels", "classes"),
    [
        ("stepwise", [1, 0, -1], [1, 0, -1]),
        ("stepwise", [1.0, None, False], [1, UNLABELLED, -1]),
        ("stepwise01", [1, 0, None], [1, -1, UNLABELLED]),
        ("stepwise01", [True, False, 1.0], [1, -1, 1]),
    ],
)
def test_stepwise_classes(read, layout: str, labels: list, classes: list[int]) -> None:
    example = read(layout, {"prompt": "p", "completions": ["a", "b", "c"], "labels": labels})
    assert [step.label for step in example.completions[0].steps] == classes


@pytest.mark.parametrize(
    ("layout", "change", "reason"),
    [
        ("stepwise", {"labels": [1]}, "malformed"),
        ("stepwise", {"labels": [1, 2]}, "label outside the classes"),
        ("stepwise", {"labels": [1, "+"]}, "label outside the classes"),
        ("stepwise01", {"labels": [1, -1]}, "label outside the classes"),
        ("stepwise", {"labels": []}, "empty"),
        ("stepwise", {"completions": ["a", " "]}, "empty"),
        ("stepwise", {"completions": ["a", None]}, "malformed"),
        ("stepwise", {"completions": None}, "missing column"),
    ],
)
def test_bad_stepwise_rows(read, layout: str, change: dict, reason: str) -> None:
    assert read(layout, {"prompt": "p", "completions": ["a", "b"], "labels": [1, 1]} | change) == reason


def alternative(text: str, rating: int | None) -> dict:
    return {"text": text, "rating": rating, "flagged": False}


def prm800k(*steps: dict) -> dict:
    return {
        "labeler": "x",
        "question": {"problem": "2+2?"},
        "label": {"steps": list(steps), "finish_reason": "solution"},
    }


def step(chosen: int | None, *alternatives: dict, human: dict | None = None) -> dict:
    return {"completions": list(alternatives), "chosen_completion": chosen, "human_completion": human}


def test_prm800k_goes_on_with_the_chosen_and_branches_to_the_others(read) -> None:
    """The alternatives come after the same chosen steps, which are labelled in the first completion only."""
    example = read(
        "prm800k",
        prm800k(
            step(1, alternative("A0", -1), alternative("A1", 1)),
            step(None, alternative("B0", -1), human=alternative("B human", None)),
            step(0, alternative("C0", 0)),
        ),
    )
    assert example.prompt == "2+2?"
    assert [parts(c) for c in example.completions] == [
        [("A1", 1), ("\nB human", 1), ("\nC0", 0)],
        [("A0", -1)],
        [("A1", UNLABELLED), ("\nB0", -1)],
    ]


def test_prm800k_ends_where_nothing_was_chosen(read) -> None:
    """As in solutions given up at their first error: it is the last step, whatever follows."""
    rows = (
        step(0, alternative("A", 1)),
        step(None, alternative("B", -1), alternative("C", -1)),
        step(0, alternative("D", 1)),
    )
    assert [parts(c) for c in read("prm800k", prm800k(*rows)).completions] == [
        [("A", 1), ("\nB", -1)],
        [("A", UNLABELLED), ("\nC", -1)],
    ]


def test_prm800k_reads_a_table_that_fills_absent_columns_with_null(read) -> None:
    empty = {"text": None, "rating": None, "flagged": None}
    row = prm800k(step(0, alternative("A", None), human=empty), {"completions": None, "chosen_completion": None})
    assert [parts(c) for c in read("prm800k", row).completions] == [[("A", UNLABELLED)]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (prm800k(), "empty"),
        (prm800k(step(None)), "empty"),
        (prm800k(step(2, alternative("A", 1))), "malformed"),
        (prm800k(step(0, alternative("A", 7))), "label outside the classes"),
        (prm800k(step(0, alternative("", 1))), "empty"),
        (prm800k(step(0)) | {"question": "2+2?"}, "empty"),
        (prm800k(step(0, alternative("A", 1))) | {"question": "2+2?"}, "malformed"),
        ({"labeler": "x", "question": {"problem": "p"}}, "missing column"),
        ({"labeler": "x", "question": {"problem": "p"}, "label": {"steps": [{"completions": 3}]}}, "malformed"),
    ],
)
def test_bad_prm800k_rows(read, row: dict, reason: str) -> None:
    assert read("prm800k", row) == reason


def test_math_shepherd(read) -> None:
    row = {
        "input": "2+2? Step 1: Add. ки\nStep 2: Get 5. The answer is: 5 ки",
        "label": "2+2? Step 1: Add. +\nStep 2: Get 5. The answer is: 5 -",
        "task": "GSM8K",
    }
    example = read("math_shepherd", row)
    assert (example.prompt, example.source) == ("2+2?", "GSM8K")
    assert parts(example.completions[0]) == [("Step 1: Add.", 1), ("\nStep 2: Get 5. The answer is: 5", -1)]
    assert read("math_shepherd", row | {"label": row["label"].replace("-", "?")}) == "malformed"
    assert read("math_shepherd", row | {"label": row["label"][:20]}) == "malformed"
    assert read("math_shepherd", row | {"input": row["input"] + " and more"}) == "malformed"
    assert read("math_shepherd", row | {"input": "2+2?", "label": "2+2?"}) == "malformed"
    assert read("math_shepherd", {**row, "input": row["input"][5:], "label": row["label"][5:]}) == "empty"


@given(st.lists(st.tuples(st.text("ab+- к1.\n", min_size=1).filter(str.strip), st.booleans()), min_size=1, max_size=5))
def test_math_shepherd_finds_the_signs_whatever_the_steps_hold(steps: list[tuple[str, bool]]) -> None:
    """Steps full of + and -, and of the tag's first letter, do not confuse where the labels are."""
    numbered = [f"Step {n}: {text} " for n, (text, _) in enumerate(steps, start=1)]
    joined = "\n".join(f"{text}ки" for text in numbered)
    signed = "\n".join(f"{text}{'+' if good else '-'}" for text, (_, good) in zip(numbered, steps, strict=True))
    row = {"input": f"Problem {joined}", "label": f"Problem {signed}", "task": "MATH"}
    completion = MATH_SHEPHERD.example(row, "f:1").completions[0]
    assert [step.label for step in completion.steps] == [1 if good else -1 for _, good in steps]
    assert completion.text == "\n".join(text.strip() for text in numbered)


PRMBENCH = {"question": "2+2?", "original_process": ["A", "B"], "modified_process": ["A", "X", "B"], "error_steps": [2]}


@pytest.mark.parametrize(
    ("where", "extra", "label"),
    [
        ("train/circular.jsonl.gz:3", {}, -1),
        ("train/redundency.jsonl.gz:3", {}, 0),
        ("all.jsonl:3", {"classification": "redundency"}, 0),
        ("redundency.jsonl:3", {"classification": "circular"}, -1),
    ],
)
def test_prmbench(where: str, extra: dict, label: int) -> None:
    from rmlab.data.formats.prmbench import example

    assert example(PRMBENCH | extra | {"idx": "p1"}, where) == Example(
        prompt="2+2?",
        completions=(
            Completion(text="A\nB", steps=(Step(end=1, label=1), Step(end=3, label=1))),
            Completion(text="A\nX\nB", steps=(Step(end=1, label=1), Step(end=3, label=label), Step(end=5, label=1))),
        ),
        id=f"{where} (p1)",
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"error_steps": [4]}, "error step outside the solution"),
        ({"error_steps": [0]}, "error step outside the solution"),
        ({"error_steps": ["2"]}, "malformed"),
        ({"error_steps": []}, "empty"),
        ({"modified_process": ["A", "B"]}, "modified equals original"),
        ({"modified_process": ["A", ""]}, "empty"),
        ({"question": None}, "missing column"),
    ],
)
def test_bad_prmbench_rows(read, change: dict, reason: str) -> None:
    assert read("prmbench", PRMBENCH | change) == reason


@pytest.mark.parametrize(
    ("first", "labels"), [(-1, [1, 1, 1]), (0, [-1, UNLABELLED, UNLABELLED]), (1, [1, -1, UNLABELLED]), (2, [1, 1, -1])]
)
def test_processbench(read, first: int, labels: list[int]) -> None:
    row = {"problem": "2+2?", "steps": ["A", "B", "C"], "label": first, "final_answer_correct": False, "id": "gsm8k-0"}
    completion = read("processbench", row).completions[0]
    assert completion.text == "A\n\nB\n\nC"
    assert [(step.end, step.label) for step in completion.steps] == list(zip((1, 4, 7), labels, strict=True))
    assert completion.outcome == 0.0
    assert isnan(read("processbench", row | {"final_answer_correct": None}).completions[0].outcome)


@pytest.mark.parametrize("label", [3, -2, 0.5, True, "0"])
def test_processbench_labels_outside_the_solution(read, label: object) -> None:
    row = {"problem": "p", "steps": ["A", "B", "C"], "label": label}
    assert read("processbench", row) == "label outside the classes"


def test_the_tag_is_two_cyrillic_letters() -> None:
    assert TAG == "\u043a\u0438"
