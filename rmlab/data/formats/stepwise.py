"""TRL's stepwise supervision: `prompt`, `completions[]` (the steps), `labels[]`; steps are joined by a line break.

A label is true or false, or rmlab's class: -1 wrong, 0 neutral, +1 right, None unlabelled. Data that writes wrong as 0
reads the same but means something else, and no row can tell: name it, `data.format=stepwise01`.
"""

from __future__ import annotations

from rmlab.batch import Example
from rmlab.data.formats.fields import identity, listed, outcome_label, step_label, stepped, text, texts
from rmlab.data.formats.layout import BadRow, Layout, Row


def example(row: Row, where: str) -> Example:
    """Returns one completion with its labelled steps."""
    return _example(row, where, [step_label(label) for label in listed(row, "labels")])


def example01(row: Row, where: str) -> Example:
    """Returns one completion with its labelled steps, where 0 means wrong."""
    labels = [None if label is None else outcome_label(label) for label in listed(row, "labels")]
    return _example(row, where, [step_label(None if label is None else label == 1) for label in labels])


def _example(row: Row, where: str, labels: list[int]) -> Example:
    steps = texts(row, "completions")
    if len(steps) != len(labels):
        raise BadRow("malformed")
    completion = stepped(steps, labels)
    return Example(prompt=text(row, "prompt"), completions=(completion,), **identity(row, where))


LAYOUT = Layout(
    name="stepwise", columns=("prompt", "completions", "labels"), optional=("source", "id"), example=example
)
LAYOUT01 = Layout(
    name="stepwise01",
    columns=LAYOUT.columns,
    optional=LAYOUT.optional,
    example=example01,
    detected=False,
)
