"""HelpSteer ratings: `prompt`, `response` and five ratings, 0 to 4; they travel as the completion's attributes.

Wang et al. 2023, nvidia/HelpSteer and HelpSteer2. The order of `ATTRIBUTES` is the order of the outputs of a model that
the `regression` loss trains. One row is one response: the rows of a prompt meet in a batch, but no order among them is
stated, so pairwise losses have nothing to train on here.
"""

from __future__ import annotations

from rmlab.batch import Completion, Example
from rmlab.data.formats.fields import identity, number, text
from rmlab.data.formats.layout import BadRow, Layout, Row

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def example(row: Row, where: str) -> Example:
    """Returns one rated completion."""
    ratings = [rating for name in ATTRIBUTES if (rating := number(row, name)) is not None]
    if len(ratings) != len(ATTRIBUTES):
        raise BadRow("missing column")
    completion = Completion(text=text(row, "response"), attributes=tuple(ratings))
    return Example(prompt=text(row, "prompt"), completions=(completion,), **identity(row, where))


LAYOUT = Layout(
    name="helpsteer",
    columns=("prompt", "response", *ATTRIBUTES),
    optional=("source", "id"),
    example=example,
)
