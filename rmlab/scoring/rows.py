"""Rows of a file to score, and the columns that a row gains.

| a row with | gains |
| --- | --- |
| `prompt`, `completion` | `score` |
| `chosen`, `rejected`, with `prompt` or with the prompt both begin with | `chosen_score`, `rejected_score` |
| `prompt`, `steps[]` | `step_scores[]`, `score` |
| none of these, or something that cannot be scored | `error` |

Texts or chat messages, with `tools` and `chat_template_kwargs`, as the training layouts read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rmlab.batch import UNLABELLED, Completion, Example
from rmlab.data.formats.fields import stepped, text, text_or_messages, texts
from rmlab.data.formats.layout import BadRow, Row
from rmlab.data.formats.trl import answer, chat
from rmlab.data.formats.trl import example as trl_example
from rmlab.data.rows import RawRow
from rmlab.data.source import SetAside
from rmlab.scoring.model import RewardModel, Scored

KINDS = (("prompt", "steps"), ("chosen", "rejected"), ("prompt", "completion"))
PAIR = ("prompt", "chosen", "rejected", "tools", "chat_template_kwargs")


def example_of(row: Row, where: str = "") -> Example:
    """Returns what is to be scored in a row. Raises `BadRow`."""
    kind = next((kind for kind in KINDS if all(row.get(name) is not None for name in kind)), None)
    if kind is None:
        wanted = " or ".join(" and ".join(kind) for kind in KINDS)
        raise BadRow(f"expected the columns {wanted}, found {', '.join(map(str, row)) or 'none'}")
    if kind == ("prompt", "steps"):
        steps = texts(row, "steps")
        return Example(prompt=text(row, "prompt"), completions=(stepped(steps, [UNLABELLED] * len(steps)),), id=where)
    if kind == ("prompt", "completion"):
        return _single(row, "completion", where)
    if row["chosen"] == row["rejected"] and row.get("prompt") is not None:
        return _single(row, "chosen", where)  # no pair to learn from, but a score it has
    return trl_example({name: row[name] for name in PAIR if row.get(name) is not None}, where)


def _single(row: Row, name: str, where: str) -> Example:
    prompt, completion = text_or_messages(row, "prompt"), text_or_messages(row, name)
    if not isinstance(prompt, str) and isinstance(completion, str):
        completion = answer(completion)
    if type(prompt) is not type(completion):
        raise BadRow(f"{name} is a list of messages and prompt is text")
    return Example(prompt=prompt, completions=(Completion(text=completion),), chat=chat(row, prompt), id=where)


def scored_rows(model: RewardModel, rows: Sequence[RawRow | SetAside], *, max_tokens: int) -> list[dict[str, Any]]:
    """Returns the rows in order, each with the columns it gains; a line that is no row gives `error` and `row`."""
    results: list[dict[str, Any]] = []
    examples: dict[int, Example] = {}
    for number, row in enumerate(rows):
        if isinstance(row, SetAside):
            results.append({"row": row.where, "error": row.reason})
            continue
        results.append({name: value for name, value in row.values.items() if name != "error"})  # the column is ours
        try:
            examples[number] = _judgeable(model, example_of(row.values, row.where))
        except BadRow as error:
            results[number]["error"] = error.reason
    found = model.score_examples(list(examples.values()), max_tokens=max_tokens)
    for number, scored in zip(examples, found, strict=True):
        results[number] |= {"error": scored} if isinstance(scored, str) else _columns(results[number], scored)
    return results


def _judgeable(model: RewardModel, example: Example) -> Example:
    reason = model.cannot_judge_steps()
    if reason and any(completion.steps for completion in example.completions):
        raise BadRow(reason)
    return example


def _columns(row: Row, scored: tuple[Scored, ...]) -> dict[str, Any]:
    if row.get("prompt") is not None and row.get("steps") is not None:
        return {"step_scores": list(scored[0].steps), "score": scored[0].score}
    if row.get("chosen") is not None and row.get("rejected") is not None:
        return {"chosen_score": scored[0].score, "rejected_score": scored[-1].score}
    return {"score": scored[0].score}
