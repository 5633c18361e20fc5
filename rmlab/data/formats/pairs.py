"""What every layout of pairs shares: two completions, chosen first, and the optional columns about the judgement.

| column | meaning |
| --- | --- |
| `margin` | how much better chosen is, >= 0: grades (margin, 0) |
| `score_chosen`, `score_rejected` | a score each: grades; equal scores are a tie |
| `probability` | P(chosen beats rejected), in [0, 1]: annotators' agreement, a judge's confidence |
| `chosen_votes`, `rejected_votes` | annotators for each side: probability = chosen / (chosen + rejected) |
| `weight` | how much the pair counts, >= 0 |
| `id`, `source` | the row's own name and where it comes from |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmlab.batch import Completion, Example, Ranking, Text
from rmlab.data.formats.fields import identity, is_blank, number
from rmlab.data.formats.layout import BadRow, Row

OPTIONAL = (
    "margin",
    "score_chosen",
    "score_rejected",
    "probability",
    "chosen_votes",
    "rejected_votes",
    "weight",
    "id",
    "source",
)
# Equal grades mean "nobody ordered these", yet a margin of 0 comes with a stated preference: keep it a preference.
LEAST_MARGIN = 1e-6


def pair(
    prompt: Text, chosen: Text, rejected: Text, row: Row, where: str, *, chat: Mapping[str, Any] | None = None
) -> Example:
    """Returns the example of one judged pair; the optional columns are read from `row`.

    Raises `BadRow`: `empty`, `chosen equals rejected`, or what is wrong with an optional column.
    """
    if is_blank(chosen) or is_blank(rejected):
        raise BadRow("empty")
    if chosen == rejected:
        raise BadRow("chosen equals rejected")
    weight = number(row, "weight")
    if weight is not None and weight < 0:
        raise BadRow("negative weight")
    judged = Ranking(
        order=(0, 1), grades=_grades(row), probability=_probability(row), weight=1.0 if weight is None else weight
    )
    return Example(
        prompt=prompt,
        completions=(Completion(text=chosen), Completion(text=rejected)),
        rankings=(judged,),
        chat=dict(chat or {}),
        **identity(row, where),
    )


def _grades(row: Row) -> tuple[float, ...]:
    margin = number(row, "margin")
    if margin is not None:
        if margin < 0:
            raise BadRow("negative margin")
        return (max(margin, LEAST_MARGIN), 0.0)
    chosen, rejected = number(row, "score_chosen"), number(row, "score_rejected")
    if chosen is None or rejected is None:
        return ()
    if chosen < rejected:
        raise BadRow("chosen scored below rejected")
    return (chosen, rejected)


def _probability(row: Row) -> float:
    probability = number(row, "probability")
    if probability is None:
        chosen, rejected = number(row, "chosen_votes"), number(row, "rejected_votes")
        if chosen is None or rejected is None:
            return 1.0
        if min(chosen, rejected) < 0 or chosen + rejected == 0:
            raise BadRow("no votes")
        return chosen / (chosen + rejected)
    if not 0 <= probability <= 1:
        raise BadRow("probability outside [0, 1]")
    return probability
