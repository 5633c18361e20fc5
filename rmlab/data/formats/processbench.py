"""ProcessBench: `problem`, `steps[]` and `label`, the index of the first wrong step from 0, or -1 if there is none.

Zheng et al. 2024, Qwen/ProcessBench. Steps before the first error are right; those after it were not judged and stay
unlabelled. `final_answer_correct` is the outcome. Steps are paragraphs, joined by an empty line as they were published.
"""

from __future__ import annotations

from math import nan

from rmlab.batch import UNLABELLED, Example
from rmlab.data.formats.fields import column, identity, outcome_label, stepped, text, texts
from rmlab.data.formats.layout import BadRow, Layout, Row


def example(row: Row, where: str) -> Example:
    """Returns one completion with its labelled steps."""
    steps, first = texts(row, "steps"), column(row, "label")
    if not isinstance(first, int) or isinstance(first, bool) or not -1 <= first < len(steps):
        raise BadRow("label outside the classes")
    judged = len(steps) if first < 0 else first
    labels = [1] * judged + [-1] * (first >= 0)
    labels += [UNLABELLED] * (len(steps) - len(labels))
    answered = row.get("final_answer_correct")
    outcome = nan if answered is None else outcome_label(answered)
    completion = stepped(steps, labels, separator="\n\n", outcome=outcome)
    return Example(prompt=text(row, "problem"), completions=(completion,), **identity(row, where))


LAYOUT = Layout(
    name="processbench",
    columns=("problem", "steps", "label"),
    optional=("final_answer_correct", "source", "id"),
    example=example,
)
