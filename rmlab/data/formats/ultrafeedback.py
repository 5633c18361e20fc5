"""UltraFeedback: `instruction` and `completions[]`, each with `response`, `overall_score` and rated `annotations`.

The grade is `overall_score` (1 to 10), or the mean of the aspects' ratings (1 to 5) where no completion of the row
has one. The ratings also travel as attributes in the order of `ASPECTS`, nan where the annotator wrote N/A. A row is
graded on one of the two scales, never on both. Left out: `custom_system_prompt`, which differs between completions of
one prompt and which published reward models ignore too.
"""

from __future__ import annotations

from math import isnan, nan

from rmlab.batch import Completion, Example
from rmlab.data.formats.fields import identity, listed, merged, number, record, text
from rmlab.data.formats.layout import BadRow, Layout, Row

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


def example(row: Row, where: str) -> Example:
    """Returns all completions of an instruction with their ranking and ratings."""
    answers = [record(answer) for answer in listed(row, "completions")]
    completions = [Completion(text=text(answer, "response"), attributes=_ratings(answer)) for answer in answers]
    scores = [number(answer, "overall_score") for answer in answers]
    if all(score is None for score in scores):
        scores = [_mean(completion.attributes) for completion in completions]
    if any(score is None for score in scores):
        raise BadRow("missing column")
    kept, order = merged(completions, [score for score in scores if score is not None])
    return Example(prompt=text(row, "instruction"), completions=kept, rankings=(order,), **identity(row, where))


def _ratings(answer: Row) -> tuple[float, ...]:
    if answer.get("annotations") is None:
        return ()
    annotations = record(answer["annotations"])
    ratings = (_rating(annotations.get(aspect)) for aspect in ASPECTS)
    return tuple(ratings)


def _rating(annotation: object) -> float:
    rating = record({} if annotation is None else annotation).get("Rating")
    try:
        return float(rating)  # type: ignore[arg-type]  # published as text: "4", or "N/A"
    except (TypeError, ValueError, OverflowError):
        return nan


def _mean(ratings: tuple[float, ...]) -> float | None:
    given = [rating for rating in ratings if not isnan(rating)]
    return sum(given) / len(given) if given else None


LAYOUT = Layout(
    name="ultrafeedback", columns=("instruction", "completions"), optional=("source", "id"), example=example
)
