"""K-wise layouts: AlpacaEval, UltraFeedback, Nectar, NeMo. Rankings are best first, ties stay side by side."""

from math import isnan, log, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmlab.batch import Completion, Example, Ranking
from rmlab.data.formats.alpaca_kwise import grade
from rmlab.data.formats.fields import merged, ranking

ALPACA = {
    "instruction": "Sing.",
    "outputs": ["a", "b", "c"],
    "generators": ["x", "y", "z"],
    "win_probability": [0.5, 0.9, 0],
}


def test_alpaca(read) -> None:
    """Log-odds: 0.5 -> 0, 0.9 -> log 9 = 2.197, 0 -> -infinity, clipped to -4."""
    assert read("alpaca_kwise", ALPACA | {"dataset": "koala"}) == Example(
        prompt="Sing.",
        completions=(Completion(text="a"), Completion(text="b"), Completion(text="c")),
        rankings=(Ranking(order=(1, 0, 2), grades=(pytest.approx(log(9)), 0.0, -4.0)),),
        source="koala",
        id="f.jsonl:3",
    )


@given(st.floats(0, 1))
def test_alpaca_grade_is_odd_clipped_and_inverts_the_sigmoid(p: float) -> None:
    from math import exp

    g = grade(p)
    assert -4 <= g <= 4
    assert grade(1 - p) == pytest.approx(-g, abs=1e-9)
    if abs(g) < 4:
        assert 1 / (1 + exp(-g)) == pytest.approx(p, abs=1e-9)


def test_equal_outputs_are_one_completion_with_the_mean_grade(read) -> None:
    """ "a" twice, graded log(3) and -log(3): mean 0, below "b" at log(9)."""
    row = ALPACA | {"outputs": ["a", "b", "a"], "win_probability": [0.75, 0.9, 0.25]}
    example = read("alpaca_kwise", row)
    assert [c.text for c in example.completions] == ["a", "b"]
    assert example.rankings[0].order == (1, 0)
    assert example.rankings[0].grades == pytest.approx((log(9), 0.0))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"outputs": ["a", "b"]}, "malformed"),
        ({"outputs": ["a", "b", ""]}, "empty"),
        ({"outputs": ["a", "a", "a"]}, "chosen equals rejected"),
        ({"outputs": ["a"], "win_probability": [0.5]}, "fewer than two completions"),
        ({"outputs": "abc"}, "malformed"),
        ({"win_probability": [0.5, nan, 0.1]}, "NaN win_probability"),
        ({"win_probability": [0.5, 2, 0.1]}, "win_probability outside [0, 1]"),
        ({"win_probability": [0.5, None, 0.1]}, "win_probability outside [0, 1]"),
        ({"instruction": None}, "missing column"),
        ({"instruction": ""}, "empty"),
    ],
)
def test_bad_alpaca_rows(read, change: dict, reason: str) -> None:
    assert read("alpaca_kwise", ALPACA | change) == reason


def rated(response: str, overall: float | None, *ratings: str) -> dict:
    names = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    notes = {name: {"Rating": value, "Rationale": "..."} for name, value in zip(names, ratings, strict=False)}
    return {"response": response, "overall_score": overall, "annotations": notes, "model": "m"}


def test_ultrafeedback(read) -> None:
    row = {
        "instruction": "Sing.",
        "source": "evol_instruct",
        "completions": [rated("a", 6.5, "4", "3", "N/A", "2"), rated("b", 8.0, "5", "5", "5", "5"), rated("c", 6.5)],
    }
    example = read("ultrafeedback", row)
    assert example.rankings == (Ranking(order=(1, 0, 2), grades=(8.0, 6.5, 6.5)),)
    assert example.source == "evol_instruct"
    assert example.completions[1].attributes == (5, 5, 5, 5)
    assert example.completions[0].attributes[:2] == (4, 3)
    assert isnan(example.completions[0].attributes[2])


def test_ultrafeedback_without_overall_scores(read) -> None:
    """Means of the ratings that are there: (4 + 3 + 2) / 3 = 3 and 5."""
    answers = [rated("a", None, "4", "3", "N/A", "2"), rated("b", None, "5", "5", "5", "5")]
    example = read("ultrafeedback", {"instruction": "Sing.", "completions": answers})
    assert example.rankings == (Ranking(order=(1, 0), grades=(5.0, 3.0)),)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([rated("a", 1.0), rated("b", None, "5", "5", "5", "5")], "missing column"),  # two scales do not mix
        ([rated("a", None), rated("b", None)], "missing column"),
        ([rated("a", nan), rated("b", 1.0)], "NaN overall_score"),
        ([rated("", 1.0), rated("b", 2.0)], "empty"),
        ([rated("a", 1.0)], "fewer than two completions"),
        ([], "empty"),
        (["a", "b"], "malformed"),
    ],
)
def test_bad_ultrafeedback_rows(read, answers: list, reason: str) -> None:
    assert read("ultrafeedback", {"instruction": "Sing.", "completions": answers}) == reason


def test_nectar(read) -> None:
    """Ranks 2, 1, 2 are grades -2, -1, -2; the tied ones keep their order."""
    answers = [{"answer": "a", "rank": 2}, {"answer": "b", "rank": 1.0}, {"answer": "c", "rank": 2}]
    assert read(
        "nectar", {"prompt": "\n\nHuman: Sing\n\nAssistant: ", "answers": answers, "source": ["lmsys"]}
    ) == Example(
        prompt="\n\nHuman: Sing\n\nAssistant: ",
        completions=(Completion(text="a"), Completion(text="b"), Completion(text="c")),
        rankings=(Ranking(order=(1, 0, 2), grades=(-1.0, -2.0, -2.0)),),
        source="lmsys",
        id="f.jsonl:3",
    )
    assert read("nectar", {"prompt": "p", "answers": [{"answer": "a"}, {"answer": "b", "rank": 1}]}) == "missing column"
    assert read("nectar", {"prompt": "p", "answers": [{"answer": "a", "rank": 1}, {"rank": 2}]}) == "missing column"


def test_nemo(read) -> None:
    ask = [{"role": "user", "content": "Sing."}]
    answer = [[{"role": "assistant", "content": text}] for text in "abc"]
    completions = [{"rank": rank, "completion": said} for rank, said in zip((1, 0, 2), answer, strict=True)]
    assert read("nemo", {"context": ask, "completions": completions}) == Example(
        prompt=tuple(ask),
        completions=tuple(Completion(text=tuple(said)) for said in answer),
        rankings=(Ranking(order=(1, 0, 2), grades=(0.0, -1.0, -2.0)),),
        id="f.jsonl:3",
    )
    as_text = [{"rank": 0, "completion": "a"}, {"rank": 1, "completion": "b"}]
    assert read("nemo", {"context": ask, "completions": as_text}).completions[0].text == tuple(answer[0])
    assert read("nemo", {"context": "Sing.", "completions": completions}) == "malformed"
    assert read("nemo", {"context": ask, "completions": [{"completion": "a"}, *as_text]}) == "missing column"


@given(st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=9))
def test_rankings_are_sorted_stable_permutations(grades: list[float]) -> None:
    made = ranking(grades)
    assert sorted(made.order) == list(range(len(grades)))
    assert list(made.grades) == sorted(grades, reverse=True) == [grades[i] for i in made.order]
    pairs = zip(made.order, made.order[1:], strict=False)
    assert all(grades[i] > grades[j] or i < j for i, j in pairs)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-3, 3).map(float)), min_size=2, max_size=9))
def test_merging_leaves_each_text_once(graded: list[tuple[str, float]]) -> None:
    texts = {text for text, _ in graded}
    if len(texts) > 1:
        completions, made = merged([Completion(text=text) for text, _ in graded], [grade for _, grade in graded])
        assert {c.text for c in completions} == texts
        for at, mean in zip(made.order, made.grades, strict=True):
            own = [grade for text, grade in graded if text == completions[at].text]
            assert mean == pytest.approx(sum(own) / len(own))
