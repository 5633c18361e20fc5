"""PRM800K's own records: `question.problem`, and `label.steps[]`, each with rated alternatives and the one chosen.

Lightman et al. 2023, openai/prm800k. The chosen steps in a row are one completion; every other alternative is a
completion that ends with it, after the same chosen steps. A step is labelled once, in the first completion that has it:
elsewhere it is context, and unlabelled. Ratings are -1, 0, +1; a step written by the labeler counts as right; a null
rating is unlabelled. Steps are joined by line breaks.
"""

from __future__ import annotations

from typing import Any

from rmlab.batch import UNLABELLED, Example
from rmlab.data.formats.fields import column, identity, listed, record, said, step_label, stepped, text
from rmlab.data.formats.layout import BadRow, Layout, Row

Rated = tuple[str, int]  # a step and its label


def example(row: Row, where: str) -> Example:
    """Returns the chosen solution first, then one completion for each alternative that was not taken."""
    chosen: list[Rated] = []
    others: list[list[Rated]] = []
    for value in listed(record(column(row, "label")), "steps"):
        step = record(value)
        taken, left = _step(step)
        others += [[*((before, UNLABELLED) for before, _ in chosen), other] for other in left]
        if taken is not None:
            chosen.append(taken)
        if taken is None or _ends(step):
            break
    if not chosen:
        raise BadRow("empty")
    completions = tuple(stepped([s for s, _ in path], [y for _, y in path]) for path in (chosen, *others))
    prompt = text(record(column(row, "question")), "problem")
    return Example(prompt=prompt, completions=completions, **identity(row, where))


def _step(step: Row) -> tuple[Rated | None, list[Rated]]:
    """Returns the step that the solution goes on with (the first alternative if none was chosen), and the others."""
    alternatives = step.get("completions")
    rated = [_rated(item) for item in (listed(step, "completions") if alternatives else [])]
    at = step.get("chosen_completion")
    if at is None and _human(step) is not None:
        return (said(_human(step)), 1), rated
    if not rated:
        return None, []
    if at is not None and not (isinstance(at, int) and 0 <= at < len(rated)):
        raise BadRow("malformed")
    return rated.pop(at or 0), rated


def _human(step: Row) -> Any:
    written = step.get("human_completion")
    return None if written is None else record(written).get("text")


def _ends(step: Row) -> bool:
    return step.get("chosen_completion") is None and _human(step) is None


def _rated(item: Any) -> Rated:
    return text(record(item), "text"), step_label(record(item).get("rating"))


LAYOUT = Layout(
    name="prm800k",
    columns=("labeler", "question", "label"),
    optional=("source", "id"),
    example=example,
)
