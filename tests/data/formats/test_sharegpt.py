"""ShareGPT pairs: every speaker, tool calls, and turns that do not fit."""

import pytest

from rmlab.batch import Completion, Example, Ranking


def turn(speaker: str, value: str) -> dict:
    return {"from": speaker, "value": value}


ROW = {"conversations": [turn("human", "Sum?")], "chosen": turn("gpt", "4"), "rejected": turn("gpt", "5")}


def test_all_speakers(read) -> None:
    row = ROW | {
        "conversations": [
            turn("system", "Compute."),
            turn("human", "Sum?"),
            turn("function_call", '{"name": "add", "arguments": {"a": 2, "b": 2}}'),
            turn("observation", "4"),
        ],
        "tools": '[{"name": "add"}]',
    }
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
    assert read("sharegpt", row) == Example(
        prompt=(
            {"role": "system", "content": "Compute."},
            {"role": "user", "content": "Sum?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "4"},
        ),
        completions=(
            Completion(text=({"role": "assistant", "content": "4"},)),
            Completion(text=({"role": "assistant", "content": "5"},)),
        ),
        rankings=(Ranking(order=(0, 1)),),
        chat={"tools": [{"name": "add"}]},
        id="f.jsonl:3",
    )


def test_system_column_and_margin(read) -> None:
    example = read("sharegpt", ROW | {"system": "Compute.", "margin": 1})
    assert example.prompt[0] == {"role": "system", "content": "Compute."}
    assert example.rankings[0].grades == (1.0, 0.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"conversations": []}, "empty"),
        ({"conversations": [{"from": "human"}]}, "missing column"),
        ({"conversations": [turn("martian", "x")]}, "malformed"),
        ({"conversations": [turn("function_call", "add(2, 2)")]}, "malformed"),
        ({"conversations": "Sum?"}, "malformed"),
        ({"chosen": turn("human", "4")}, "malformed"),
        ({"chosen": "4"}, "malformed"),
        ({"chosen": turn("gpt", "5")}, "chosen equals rejected"),
        ({"chosen": turn("gpt", " ")}, "empty"),
        ({"rejected": None}, "missing column"),
    ],
)
def test_bad_rows(read, change: dict, reason: str) -> None:
    assert read("sharegpt", ROW | change) == reason


def test_the_real_file(read, shared_data) -> None:
    """300 rows as published, 80 of them with a system turn, all usable."""
    import json

    rows = json.loads((shared_data / "sharegpt_pairs" / "dpo_en_demo.json").read_text())
    examples = [read("sharegpt", row) for row in rows]
    assert all(isinstance(example, Example) for example in examples)
    assert sum(example.prompt[0]["role"] == "system" for example in examples) == 80
    assert examples[0].prompt[0]["content"] == rows[0]["conversations"][0]["value"]
