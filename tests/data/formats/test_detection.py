"""Which layout the columns show, and that no row of any kind does more than be set aside."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmlab.batch import Example
from rmlab.data.formats import LAYOUTS, BadRow, Layout, detect, named
from rmlab.errors import UsageError

DETECTED = [layout for layout in LAYOUTS.values() if layout.detected]
NAMED_ONLY = {"hh_rlhf", "tldr", "stepwise01"}


def test_every_module_is_registered() -> None:
    folder = Path(__file__).parents[3] / "rmlab" / "data" / "formats"
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "layout", "fields", "pairs"}
    assert modules == {layout.example.__module__.rsplit(".", 1)[-1] for layout in LAYOUTS.values()}
    assert {name for name, layout in LAYOUTS.items() if not layout.detected} == NAMED_ONLY


@pytest.mark.parametrize("layout", DETECTED, ids=lambda layout: layout.name)
@pytest.mark.parametrize("extra", [(), ("model", "timestamp")])
def test_each_is_found_by_its_columns_and_those_it_may_have(layout: Layout, extra: tuple[str, ...]) -> None:
    assert detect(layout.columns) is layout
    assert detect([*layout.columns, *layout.optional, *extra]) is layout


def test_published_column_sets() -> None:
    """The columns as the publishers have them, not only those that are read."""
    published = {
        "trl": "prompt prompt_id chosen rejected messages score_chosen score_rejected",
        "ultrafeedback": "source instruction models completions correct_answers incorrect_answers",
        "nectar": "prompt answers turns num_responses source good_natured",
        "prm800k": "labeler timestamp generation is_quality_control_question question label",
        "processbench": "id generator problem steps final_answer_correct label",
        "summarize": "info summaries choice worker batch split extra",
        "prmbench": "original_question modified_question original_process modified_process modified_steps error_steps "
        "reason idx question classification",
    }
    assert {name: detect(columns.split()).name for name, columns in published.items()} == {n: n for n in published}


def test_unknown_columns_name_what_was_found_and_what_is_known() -> None:
    with pytest.raises(UsageError) as error:
        detect(["question", "response_A"], "f.jsonl")
    message = str(error.value)
    assert message.startswith("f.jsonl: the columns question, response_A fit no known layout: ")
    assert all(f"{layout.name} ({', '.join(layout.columns)})" in message for layout in LAYOUTS.values())
    assert "data.format=NAME" in message
    assert "\n" not in message


def test_ambiguous_columns_name_the_candidates_only() -> None:
    with pytest.raises(UsageError, match=r"fit several layouts: trl \(chosen, rejected\); stepwise \(prompt, "):
        detect(["prompt", "chosen", "rejected", "completions", "labels"])


def test_names() -> None:
    assert named("trl") is LAYOUTS["trl"]
    with pytest.raises(UsageError, match=r"data\.format=nectr does not exist.*type data\.format=nectar"):
        named("nectr")


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", " ", "x", "\ud800", "{", '[{"name": "f"}]']),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "from", "value", "text", "rank", "steps", "completions", "answer", "problem"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
@given(data=st.data())
def test_any_row_gives_an_example_or_a_reason(layout: Layout, data: st.DataObject) -> None:
    row: dict[str, Any] = data.draw(
        st.fixed_dictionaries({}, optional={name: anything for name in (*layout.columns, *layout.optional)})
    )
    try:
        example = layout.example(row, "f:1")
    except BadRow:
        return
    assert isinstance(example, Example)
    assert all(len(set(ranking.order)) == len(ranking.order) for ranking in example.rankings)
