"""NeMo's preference layout: `context` (messages) and `completions[]`, each with `completion` (messages) and `rank`.

The lower rank is preferred; the grade is minus the rank. Any number of completions, ranks may tie. `tools` and
`chat_template_kwargs` are taken as in `trl`.
"""

from __future__ import annotations

from rmlab.batch import Completion, Example
from rmlab.data.formats.fields import identity, listed, merged, number, record, text_or_messages
from rmlab.data.formats.layout import BadRow, Layout, Row
from rmlab.data.formats.trl import answer as as_message
from rmlab.data.formats.trl import chat


def example(row: Row, where: str) -> Example:
    """Returns all completions of a context and their ranking."""
    context = text_or_messages(row, "context")
    completions, grades = [], []
    for item in listed(row, "completions"):
        said, rank = text_or_messages(record(item), "completion"), number(record(item), "rank")
        if rank is None:
            raise BadRow("missing column")
        if isinstance(context, tuple) and isinstance(said, str):
            said = as_message(said)
        if type(said) is not type(context):
            raise BadRow("malformed")
        completions.append(Completion(text=said))
        grades.append(-rank)
    kept, order = merged(completions, grades)
    return Example(
        prompt=context,
        completions=kept,
        rankings=(order,),
        chat=chat(row, context),
        **identity(row, where),
    )


LAYOUT = Layout(
    name="nemo",
    columns=("context", "completions"),
    optional=("tools", "chat_template_kwargs", "source", "id"),
    example=example,
)
