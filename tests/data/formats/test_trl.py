"""TRL pairs: explicit and implicit prompts, text and messages, and the optional columns."""

import json
from math import inf, nan

import pytest

from rmlab.batch import Completion, Example, Ranking


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def bot(text: str) -> dict:
    return {"role": "assistant", "content": text}


PLAIN = {"prompt": "Sky?", "chosen": " Blue.", "rejected": " Green."}
TALK = {"prompt": [user("Sky?")], "chosen": [bot("Blue.")], "rejected": [bot("Green.")]}
TALKED = Example(
    prompt=(user("Sky?"),),
    completions=(Completion(text=(bot("Blue."),)), Completion(text=(bot("Green."),))),
    rankings=(Ranking(order=(0, 1)),),
    id="f.jsonl:3",
)


def test_explicit_text(read) -> None:
    assert read("trl", PLAIN) == Example(
        prompt="Sky?",
        completions=(Completion(text=" Blue."), Completion(text=" Green.")),
        rankings=(Ranking(order=(0, 1)),),
        id="f.jsonl:3",
    )


def test_implicit_text_leaves_the_space_with_the_completions(read) -> None:
    """TRL's documented example: the sides share "The sky is ", and its last space is not the prompt's."""
    example = read("trl", {"chosen": "The sky is blue.", "rejected": "The sky is green."})
    assert (example.prompt, [c.text for c in example.completions]) == ("The sky is", [" blue.", " green."])


@pytest.mark.parametrize(
    "row",
    [
        TALK,
        {"chosen": [user("Sky?"), bot("Blue.")], "rejected": [user("Sky?"), bot("Green.")]},
        {**TALK, "chosen": [user("Sky?"), bot("Blue.")], "rejected": [user("Sky?"), bot("Green.")]},
        {"prompt": "Sky?", "chosen": [user("Sky?"), bot("Blue.")], "rejected": [user("Sky?"), bot("Green.")]},
        {**TALK, "prompt": "Sky?"},
        {**TALK, "chosen": "Blue.", "rejected": "Green."},
        {**TALK, "prompt": [{**user("Sky?"), "tool_calls": None}]},
    ],
    ids=["explicit", "implicit", "repeated", "text prompt repeated", "text prompt", "text answers", "table's nulls"],
)
def test_every_way_to_write_a_conversation_gives_the_same_example(read, row: dict) -> None:
    assert read("trl", row) == TALKED


def test_longest_shared_conversation_is_the_prompt(read) -> None:
    start = [{"role": "system", "content": "Be kind."}, user("A?"), bot("B."), user("C?")]
    example = read("trl", {"chosen": [*start, bot("D.")], "rejected": [*start, bot("E."), user("F?"), bot("G.")]})
    assert example.prompt == tuple(start)
    assert [c.text for c in example.completions] == [(bot("D."),), (bot("E."), user("F?"), bot("G."))]


@pytest.mark.parametrize("as_text", [False, True])
def test_tools_and_template_arguments_travel_in_chat(read, as_text: bool) -> None:
    tools, arguments = [{"type": "function", "function": {"name": "f"}}], {"enable_thinking": False}
    row = {**TALK, "tools": tools, "chat_template_kwargs": arguments}
    if as_text:
        row |= {"tools": json.dumps(tools), "chat_template_kwargs": json.dumps(arguments)}
    assert read("trl", row).chat == {"tools": tools, "enable_thinking": False}
    assert read("trl", {**PLAIN, "tools": tools}) == "tools or chat_template_kwargs without messages"
    assert read("trl", {**PLAIN, "tools": []}).chat == {}


@pytest.mark.parametrize(
    ("extra", "ranking"),
    [
        ({"margin": 2}, Ranking(order=(0, 1), grades=(2.0, 0.0))),
        ({"margin": 0.0}, Ranking(order=(0, 1), grades=(1e-6, 0.0))),  # still a preference, not a tie
        ({"margin": None}, Ranking(order=(0, 1))),
        ({"score_chosen": 8.0, "score_rejected": 5}, Ranking(order=(0, 1), grades=(8.0, 5.0))),
        ({"score_chosen": 8.0}, Ranking(order=(0, 1))),
        ({"probability": 0.7}, Ranking(order=(0, 1), probability=0.7)),
        ({"probability": 0}, Ranking(order=(0, 1), probability=0.0)),
        ({"chosen_votes": 7, "rejected_votes": 3}, Ranking(order=(0, 1), probability=0.7)),
        ({"weight": 0.25}, Ranking(order=(0, 1), weight=0.25)),
        (
            {"margin": 1.5, "probability": 0.9, "weight": 2},
            Ranking(order=(0, 1), grades=(1.5, 0), probability=0.9, weight=2),
        ),
    ],
)
def test_optional_columns_of_the_judgement(read, extra: dict, ranking: Ranking) -> None:
    assert read("trl", PLAIN | extra).rankings == (ranking,)


def test_id_and_source(read) -> None:
    example = read("trl", PLAIN | {"id": 17, "source": "web"})
    assert (example.id, example.source) == ("f.jsonl:3 (17)", "web")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"margin": nan}, "NaN margin"),
        ({"margin": inf}, "NaN margin"),
        ({"margin": -1}, "negative margin"),
        ({"margin": "big"}, "malformed"),
        ({"margin": True}, "malformed"),
        ({"margin": 10**400}, "malformed"),
        ({"score_chosen": 1, "score_rejected": 2}, "chosen scored below rejected"),
        ({"probability": nan}, "NaN probability"),
        ({"probability": 1.2}, "probability outside [0, 1]"),
        ({"chosen_votes": 0, "rejected_votes": 0}, "no votes"),
        ({"chosen_votes": -1, "rejected_votes": 2}, "no votes"),
        ({"weight": -1}, "negative weight"),
        ({"weight": nan}, "NaN weight"),
        ({"chosen": " Green."}, "chosen equals rejected"),
        ({"chosen": " \n"}, "empty"),
        ({"prompt": ""}, "empty"),
        ({"prompt": []}, "empty"),
        ({"rejected": None}, "missing column"),
        ({"chosen": [bot("Blue.")]}, "malformed"),
        ({"prompt": 3}, "malformed"),
        ({"prompt": None}, "no shared prompt"),
        ({"chosen": [{"role": "assistant"}]}, "malformed"),
        ({"chosen": ["Blue."]}, "malformed"),
        ({"chosen": [bot("")], "rejected": [bot("x")]}, "empty"),
        ({"prompt": [user("x")], "tools": "{"}, "malformed"),
        ({"prompt": [user("x")], "tools": {"a": 1}}, "malformed"),
        ({"prompt": None, "chosen": "ab", "rejected": "abc"}, "empty"),
        ({"prompt": None, "chosen": [bot("a")], "rejected": [bot("b")]}, "no shared prompt"),
    ],
)
def test_bad_rows(read, change: dict, reason: str) -> None:
    row = {**PLAIN, "chosen": "Blue.", "rejected": " Green."} | change
    assert read("trl", row) == reason
