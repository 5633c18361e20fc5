"""PRMBench: `question`, `original_process[]` (all steps right), `modified_process[]` with `error_steps[]` (from 1).

Song et al. 2025, made from PRM800K. Two completions of one prompt, steps joined by line breaks. In the kind
`redundency` (sic) the marked steps are not wrong but needless: the neutral class. The kind is `classification`, or the
file's name. Left out: a preference for the original, which nobody judged. A row that marks steps which are not there,
or none in a solution that was not changed, contradicts itself and is set aside.
"""

from __future__ import annotations

from pathlib import PurePath

from rmlab.batch import Example
from rmlab.data.formats.fields import identity, listed, stepped, text, texts
from rmlab.data.formats.layout import BadRow, Layout, Row

REDUNDANT = "redundency"


def example(row: Row, where: str) -> Example:
    """Returns the original solution and the modified one."""
    original, modified = texts(row, "original_process"), texts(row, "modified_process")
    marked = listed(row, "error_steps")
    if not all(isinstance(step, int) and not isinstance(step, bool) for step in marked):
        raise BadRow("malformed")
    if not all(1 <= step <= len(modified) for step in marked):
        raise BadRow("error step outside the solution")
    if original == modified:
        raise BadRow("modified equals original")
    kind = row.get("classification") or PurePath(where).name.split(".")[0]
    label = 0 if kind == REDUNDANT else -1
    labels = [label if number in marked else 1 for number in range(1, len(modified) + 1)]
    return Example(
        prompt=text(row, "question"),
        completions=(stepped(original, [1] * len(original)), stepped(modified, labels)),
        **identity(row, where, own="idx"),
    )


LAYOUT = Layout(
    name="prmbench",
    columns=("question", "original_process", "modified_process", "error_steps"),
    optional=("classification", "idx", "source"),
    example=example,
)
