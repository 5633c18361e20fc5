"""Math-Shepherd: `input` is problem and steps, each step closed by the tag "ки"; `label` is the same with + or - there.

Wang et al. 2024, peiyi9979/Math-Shepherd. The problem ends where "Step 1:" begins. Steps are joined by line breaks and
carry no tag; + is right (some continuation reached the answer), - is wrong. `task` (GSM8K, MATH) is the source.
"""

from __future__ import annotations

from rmlab.batch import Example
from rmlab.data.formats.fields import identity, stepped, text
from rmlab.data.formats.layout import BadRow, Layout, Row

TAG = "ки"
FIRST = "Step 1:"
SIGNS = {"+": 1, "-": -1}


def example(row: Row, where: str) -> Example:
    """Returns one completion with its labelled steps."""
    *parts, rest = text(row, "input").split(TAG)
    labels = _labels(parts, text(row, "label"))
    if not parts or rest.strip() or FIRST not in parts[0]:
        raise BadRow("malformed")
    problem, first = parts[0].split(FIRST, maxsplit=1)
    steps = [FIRST + first, *parts[1:]]
    if not problem.strip() or not all(step.strip() for step in steps):
        raise BadRow("empty")
    completion = stepped([step.strip() for step in steps], labels)
    return Example(prompt=problem.strip(), completions=(completion,), **identity(row, where, origin="task"))


def _labels(parts: list[str], labelled: str) -> list[int]:
    """Returns the sign that follows each part of the input in the labelled text."""
    labels, at = [], 0
    for part in parts:
        sign = labelled[at + len(part) : at + len(part) + 1]
        if not labelled.startswith(part, at) or sign not in SIGNS:
            raise BadRow("malformed")
        labels.append(SIGNS[sign])
        at += len(part) + 1
    return labels


LAYOUT = Layout(name="math_shepherd", columns=("input", "label", "task"), optional=("id",), example=example)
