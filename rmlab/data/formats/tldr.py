"""TL;DR comparisons as CarperAI/openai_summarize_comparisons has them: `prompt` (the post), `chosen`, `rejected`.

The summaries begin with "TL;DR:", and nothing stands between post and summary, so a line break is added to the prompt,
as trlX's `examples/summarize_rlhf` does. The columns are those of `trl`, so this layout has to be named.
"""

from __future__ import annotations

from rmlab.batch import Example
from rmlab.data.formats.fields import text
from rmlab.data.formats.layout import Layout, Row
from rmlab.data.formats.pairs import OPTIONAL, pair


def example(row: Row, where: str) -> Example:
    """Returns a pair of summaries of the post."""
    return pair(text(row, "prompt") + "\n", text(row, "chosen"), text(row, "rejected"), row, where)


LAYOUT = Layout(
    name="tldr", columns=("prompt", "chosen", "rejected"), optional=OPTIONAL, example=example, detected=False
)
