"""Rows of a file to score, and the columns that a row gains.

| a row with | gains | with a reference also |
| --- | --- | --- |
| `prompt`, `completion` | `score` | `z`, `percentile` |
| `prompt`, `completions[]` | `scores[]`, `ranks[]` | `z_scores[]`, `percentiles[]` |
| `chosen`, `rejected`, with `prompt` or with the prompt both begin with | `chosen_score`, `rejected_score` | \
`chosen_z`, `chosen_percentile`, `rejected_z`, `rejected_percentile` |
| `prompt`, `steps[]` | `step_scores[]`, `score` | `z`, `percentile` |
| none of these, or something that cannot be scored | `error` | |

Texts or chat messages, with `tools` and `chat_template_kwargs`, as the training layouts read them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from rmlab.batch import UNLABELLED, Completion, Example, Text
from rmlab.data.formats.fields import listed, stepped, text, text_or_messages, texts
from rmlab.data.formats.layout import BadRow, Row
from rmlab.data.formats.trl import answer, chat
from rmlab.data.formats.trl import example as trl_example
from rmlab.data.rows import RawRow
from rmlab.data.source import SetAside
from rmlab.scoring.model import RewardModel, Scored
from rmlab.scoring.reference import Reference, ranks

Kind = tuple[str, str]
STEPS, PAIRS, CANDIDATES, SINGLE = KINDS = (
    ("prompt", "steps"),
    ("chosen", "rejected"),
    ("prompt", "completions"),
    ("prompt", "completion"),
)
GAINED: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {  # always; with a reference
    STEPS: (("step_scores", "score"), ("z", "percentile")),
    PAIRS: (
        ("chosen_score", "rejected_score"),
        ("chosen_z", "chosen_percentile", "rejected_z", "rejected_percentile"),
    ),
    CANDIDATES: (("scores", "ranks"), ("z_scores", "percentiles")),
    SINGLE: (("score",), ("z", "percentile")),
}
PAIR = ("prompt", "chosen", "rejected", "tools", "chat_template_kwargs")


def example_of(row: Row, where: str = "") -> Example:
    """Returns what is to be scored in a row. Raises `BadRow`."""
    kind = kind_of(row)
    if kind is None:
        wanted = " or ".join(" and ".join(kind) for kind in KINDS)
        raise BadRow(f"expected the columns {wanted}, found {', '.join(map(str, row)) or 'none'}")
    if kind == STEPS:
        steps = texts(row, "steps")
        return Example(prompt=text(row, "prompt"), completions=(stepped(steps, [UNLABELLED] * len(steps)),), id=where)
    if kind == SINGLE:
        return _with(row, [text_or_messages(row, "completion")], where)
    if kind == CANDIDATES:
        answers = [text_or_messages({"completions": given}, "completions") for given in listed(row, "completions")]
        return _with(row, answers, where)
    if row["chosen"] == row["rejected"] and row.get("prompt") is not None:
        return _with(row, [text_or_messages(row, "chosen")], where)  # no pair to learn from, but a score it has
    return trl_example({name: row[name] for name in PAIR if row.get(name) is not None}, where)


def kind_of(row: Row) -> Kind | None:
    """Returns the columns that a row is scored by, None if it has none of `KINDS`."""
    return next((kind for kind in KINDS if all(row.get(name) is not None for name in kind)), None)


def gained_by(columns: Collection[str], *, reference: bool) -> list[str]:
    """Returns the columns that rows with these columns gain; what stood there before is dropped."""
    kinds = [kind for kind in KINDS if set(kind) <= set(columns)]
    names = [name for kind in kinds for part in GAINED[kind][: 1 + reference] for name in part]
    return list(dict.fromkeys([*names, "error"]))


def _with(row: Row, answers: Sequence[Text], where: str) -> Example:
    prompt = text_or_messages(row, "prompt")
    if not isinstance(prompt, str):
        answers = [answer(given) if isinstance(given, str) else given for given in answers]
    if any(type(prompt) is not type(given) for given in answers):
        raise BadRow("a completion is a list of messages and prompt is text")
    return Example(
        prompt=prompt, completions=tuple(Completion(text=given) for given in answers), chat=chat(row, prompt), id=where
    )


def scored_rows(
    model: RewardModel,
    rows: Sequence[RawRow | SetAside],
    *,
    max_tokens: int,
    reference: Reference | None = None,
    columns: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Returns the rows in order, each with the columns it gains; a line that is no row gives `error` and `row`.

    reference: what scores are compared with, for the columns of the third column of the table above. columns: of the
    table that the rows are of, if it is one; what its rows gain, no row has from before.
    """
    results: list[dict[str, Any]] = []
    examples: dict[int, Example] = {}
    for number, row in enumerate(rows):
        if isinstance(row, SetAside):
            results.append({"row": row.where, "error": row.reason})
            continue
        ours = gained_by({*columns, *row.values}, reference=reference is not None)
        results.append({name: value for name, value in row.values.items() if name not in ours})
        try:
            examples[number] = _judgeable(model, example_of(row.values, row.where))
        except BadRow as error:
            results[number]["error"] = error.reason
    found = model.score_examples(list(examples.values()), max_tokens=max_tokens)
    for number, scored in zip(examples, found, strict=True):
        results[number] |= (
            {"error": scored} if isinstance(scored, str) else _columns(results[number], scored, reference)
        )
    return results


def _judgeable(model: RewardModel, example: Example) -> Example:
    reason = model.cannot_judge_steps()
    if reason and any(completion.steps for completion in example.completions):
        raise BadRow(reason)
    return example


def _columns(row: Row, scored: tuple[Scored, ...], reference: Reference | None) -> dict[str, Any]:
    kind, scores = kind_of(row), [one.score for one in scored]
    if kind == PAIRS:
        pair = (("chosen", scores[0]), ("rejected", scores[-1]))
        gained = {f"{side}_score": score for side, score in pair}
        for side, score in pair if reference else ():
            gained |= {f"{side}_{name}": value for name, value in _placed(score, reference).items()}
        return gained
    if kind == CANDIDATES:
        several: dict[str, Any] = {"scores": scores, "ranks": ranks(scores)}
        if reference:
            several["z_scores"] = [reference.z(score) for score in scores]
            several["percentiles"] = [reference.percentile(score) for score in scores]
        return several
    steps = {"step_scores": list(scored[0].steps)} if kind == STEPS else {}
    return steps | {"score": scores[0]} | _placed(scores[0], reference)


def _placed(score: float, reference: Reference | None) -> dict[str, float]:
    return {} if reference is None else {"z": reference.z(score), "percentile": reference.percentile(score)}
