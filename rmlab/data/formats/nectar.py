"""Nectar: `prompt` ("\\n\\nHuman: ...\\n\\nAssistant: ") and `answers[]`, each with `answer` and `rank` (1 is best).

The grade is minus the rank, so a gap of grades counts places. The prompt stays text, as published.
"""

from __future__ import annotations

from rmlab.batch import Completion, Example
from rmlab.data.formats.fields import identity, listed, merged, number, record, text
from rmlab.data.formats.layout import BadRow, Layout, Row


def example(row: Row, where: str) -> Example:
    """Returns all answers to a prompt and their ranking."""
    answers = [record(answer) for answer in listed(row, "answers")]
    completions = [Completion(text=text(answer, "answer")) for answer in answers]
    ranks = [rank for answer in answers if (rank := number(answer, "rank")) is not None]
    if len(ranks) != len(answers):
        raise BadRow("missing column")
    kept, order = merged(completions, [-rank for rank in ranks])
    return Example(prompt=text(row, "prompt"), completions=kept, rankings=(order,), **identity(row, where))


LAYOUT = Layout(name="nectar", columns=("prompt", "answers"), optional=("source", "id"), example=example)
