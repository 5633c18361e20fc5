"""HelpSteer ratings and the two layouts of summarisation comparisons."""

from math import nan

import pytest

from rmlab.batch import Completion, Example, Ranking

STEER = {"prompt": "Sing.", "response": "La.", "helpfulness": 4, "correctness": 3, "coherence": 2}
STEER |= {"complexity": 1, "verbosity": 0}


def test_helpsteer(read) -> None:
    assert read("helpsteer", STEER) == Example(
        prompt="Sing.", completions=(Completion(text="La.", attributes=(4.0, 3.0, 2.0, 1.0, 0.0)),), id="f.jsonl:3"
    )
    assert read("helpsteer", STEER | {"coherence": None}) == "missing column"
    assert read("helpsteer", STEER | {"coherence": nan}) == "NaN coherence"
    assert read("helpsteer", STEER | {"response": ""}) == "empty"


def test_tldr_puts_a_line_break_between_post_and_summary(read) -> None:
    """prompt + completion is trlX's text: post, line break, summary."""
    example = read("tldr", {"prompt": "POST: Hi", "chosen": "TL;DR: Hey", "rejected": "TL;DR: Ho"})
    assert example.prompt + example.completions[0].text == "POST: Hi\nTL;DR: Hey"
    assert (
        read("tldr", {"prompt": "POST: Hi", "chosen": "TL;DR: Ho", "rejected": "TL;DR: Ho"}) == "chosen equals rejected"
    )


POST = {"id": "t3", "subreddit": "tifu", "title": "T", "post": "P", "article": None}
OPENAI = {"info": POST, "summaries": [{"text": " a", "policy": "x"}, {"text": " b"}], "choice": 1}


def test_summarize(read) -> None:
    assert read("summarize", OPENAI) == Example(
        prompt="SUBREDDIT: r/tifu\n\nTITLE: T\n\nPOST: P\n\nTL;DR:",
        completions=(Completion(text=" b"), Completion(text=" a")),
        rankings=(Ranking(order=(0, 1)),),
        source="tifu",
        id="f.jsonl:3 (t3)",
    )
    news = read("summarize", OPENAI | {"info": {"id": "n", "article": "News.", "site": "cnn"}, "choice": 0})
    assert (news.prompt, news.source) == ("Article:\n\nNews.\n\nTL;DR:", "cnn")
    assert [c.text for c in news.completions] == [" a", " b"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"choice": 2}, "malformed"),
        ({"choice": None}, "missing column"),
        ({"summaries": [{"text": " a"}]}, "malformed"),
        ({"summaries": [{"text": " a"}, {"text": " a"}]}, "chosen equals rejected"),
        ({"info": {"id": "x", "title": "T"}}, "missing column"),
        ({"info": "post"}, "malformed"),
    ],
)
def test_bad_summarize_rows(read, change: dict, reason: str) -> None:
    assert read("summarize", OPENAI | change) == reason
