"""Outcome labels: `prompt`, `completion`, `label` (true or 1 right, false or 0 wrong); also TRL's unpaired layout.

Text or chat messages. Rows of one prompt are brought together later, by prompt, as for any other layout.
"""

from __future__ import annotations

from rmlab.batch import Completion, Example
from rmlab.data.formats.fields import column, identity, outcome_label, text_or_messages
from rmlab.data.formats.layout import BadRow, Layout, Row
from rmlab.data.formats.trl import answer, chat


def example(row: Row, where: str) -> Example:
    """Returns one labelled completion."""
    prompt, completion = text_or_messages(row, "prompt"), text_or_messages(row, "completion")
    if isinstance(prompt, tuple) and isinstance(completion, str):
        completion = answer(completion)
    if type(prompt) is not type(completion):
        raise BadRow("malformed")
    labelled = Completion(text=completion, outcome=outcome_label(column(row, "label")))
    return Example(prompt=prompt, completions=(labelled,), chat=chat(row, prompt), **identity(row, where))


LAYOUT = Layout(
    name="outcome",
    columns=("prompt", "completion", "label"),
    optional=("tools", "chat_template_kwargs", "source", "id"),
    example=example,
)
