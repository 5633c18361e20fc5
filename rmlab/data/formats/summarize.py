"""OpenAI's summarize-from-feedback comparisons: `info` (the post or article), `summaries` (two), `choice` (0 or 1).

The prompt is written as Stiennon et al. 2020 (appendix B) write it: subreddit, title and post, or the article, then
"TL;DR:". Left out: `extra.confidence`, whose scale differs from batch to batch.
"""

from __future__ import annotations

from rmlab.batch import Example
from rmlab.data.formats.fields import column, listed, number, record, text
from rmlab.data.formats.layout import BadRow, Layout, Row
from rmlab.data.formats.pairs import pair


def example(row: Row, where: str) -> Example:
    """Returns a pair of summaries, the chosen one first."""
    info, choice = record(column(row, "info")), number(row, "choice")
    summaries = [text(record(summary), "text") for summary in listed(row, "summaries")]
    if len(summaries) != 2 or choice not in (0, 1):
        raise BadRow("missing column" if choice is None else "malformed")
    about = {"id": info.get("id"), "source": info.get("subreddit") or info.get("site"), "weight": row.get("weight")}
    return pair(_prompt(info), summaries[int(choice)], summaries[1 - int(choice)], about, where)


def _prompt(info: Row) -> str:
    if info.get("article") is not None:
        return f"Article:\n\n{text(info, 'article')}\n\nTL;DR:"
    parts = text(info, "subreddit"), text(info, "title"), text(info, "post")
    return "SUBREDDIT: r/{}\n\nTITLE: {}\n\nPOST: {}\n\nTL;DR:".format(*parts)


LAYOUT = Layout(name="summarize", columns=("info", "summaries", "choice"), optional=("weight",), example=example)
