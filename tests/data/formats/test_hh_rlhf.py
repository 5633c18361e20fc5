"""HH-RLHF: the prompt is what the dialogues share up to the last shared assistant's turn."""

import pytest

from rmlab.batch import Completion, Example, Ranking

ONE = "\n\nHuman: Hi\n\nAssistant: Hello"
ASK = ONE + "\n\nHuman: Who?\n\nAssistant:"


@pytest.mark.parametrize("layout", ["hh_rlhf", "trl"])
def test_a_dialogue(read, layout: str) -> None:
    """Both answers begin with " I am": the common prefix is longer than the prompt, which ends with the turn."""
    assert read(layout, {"chosen": ASK + " I am Al.", "rejected": ASK + " I am Bo."}) == Example(
        prompt=ASK,
        completions=(Completion(text=" I am Al."), Completion(text=" I am Bo.")),
        rankings=(Ranking(order=(0, 1)),),
        id="f.jsonl:3",
    )


def test_dialogues_that_part_before_the_last_turn(read) -> None:
    """They part in the first answer, so the prompt ends there and the rest, further turns included, is completion."""
    example = read("hh_rlhf", {"chosen": ASK + " Al", "rejected": "\n\nHuman: Hi\n\nAssistant: Hey"})
    assert example.prompt == "\n\nHuman: Hi\n\nAssistant:"
    assert [c.text for c in example.completions] == [" Hello\n\nHuman: Who?\n\nAssistant: Al", " Hey"]


def test_one_dialogue_goes_on_where_the_other_ends(read) -> None:
    example = read("hh_rlhf", {"chosen": ONE, "rejected": ASK + " Bo"})
    assert example.prompt == "\n\nHuman: Hi\n\nAssistant:"
    assert [c.text for c in example.completions] == [" Hello", " Hello\n\nHuman: Who?\n\nAssistant: Bo"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": ONE, "rejected": ONE}, "chosen equals rejected"),
        ({"chosen": ASK + " ", "rejected": ASK + " Bo"}, "empty"),
        ({"chosen": "", "rejected": ONE}, "empty"),
        ({"chosen": "Hi", "rejected": "Hi!"}, "malformed"),
        ({"chosen": 3, "rejected": ONE}, "malformed"),
        ({"chosen": ONE}, "missing column"),
        ({"chosen": ONE, "rejected": None}, "missing column"),
        ({"chosen": ONE + "\ud800", "rejected": ONE}, "not UTF-8"),
    ],
)
def test_bad_rows(read, row: dict, reason: str) -> None:
    assert read("hh_rlhf", row) == reason
