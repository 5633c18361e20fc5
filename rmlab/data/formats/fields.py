"""Reading the columns of a row with their types checked, so that a layout never meets anything but `BadRow`.

Tables fill absent columns with None, so None and absent are the same here, everywhere. Reasons: `missing column`,
`malformed` (another type than the layout's), `not UTF-8` (half of a surrogate pair, which no tokenizer takes), `empty`,
`NaN <column>` (infinities included).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite, nan
from typing import Any, TypedDict

from rmlab.batch import UNLABELLED, Completion, Message, Ranking, Step, Text
from rmlab.data.formats.layout import BadRow, Row


class Identity(TypedDict):
    """Where an example comes from, as keyword arguments of `Example`."""

    id: str
    source: str


def identity(row: Row, where: str, *, own: str = "id", origin: str = "source") -> Identity:
    """Returns the id, `file:row` or `file:row (own id)`, and the source, "" if the row names none.

    own, origin: the columns that hold them; of a list of sources the first counts.
    """
    name, source = row.get(own), row.get(origin)
    source = source[0] if isinstance(source, list) and source else source
    return Identity(
        id=f"{where} ({checked(str(name))})" if isinstance(name, str | int) else where,
        source=checked(source) if isinstance(source, str) else "",
    )


def column(row: Row, name: str) -> Any:
    """Returns a column's value. Raises `BadRow("missing column")`."""
    value = row.get(name)
    if value is None:
        raise BadRow("missing column")
    return value


def checked(value: Any) -> str:
    """Returns a value that is a string a tokenizer can take."""
    if not isinstance(value, str):
        raise BadRow("malformed")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRow("not UTF-8") from None
    return value


def said(value: Any) -> str:
    """Returns a value that is a string and not blank."""
    if not checked(value).strip():
        raise BadRow("empty")
    return str(value)


def text(row: Row, name: str) -> str:
    """Returns a string that is not blank."""
    return said(column(row, name))


def listed(row: Row, name: str) -> list[Any]:
    """Returns a list with at least one item."""
    value = column(row, name)
    if not isinstance(value, list):
        raise BadRow("malformed")
    if not value:
        raise BadRow("empty")
    return value


def texts(row: Row, name: str) -> list[str]:
    """Returns a list of strings, none of them blank."""
    return [said(value) for value in listed(row, name)]


def record(value: Any) -> Row:
    """Returns a value that is itself a record of columns."""
    if not isinstance(value, Mapping):
        raise BadRow("malformed")
    return value


def number(row: Row, name: str) -> float | None:
    """Returns a finite number, or None where there is none. Raises `BadRow("NaN <column>")` if it is not finite."""
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow("malformed")
    try:
        value = float(value)
    except OverflowError:
        raise BadRow("malformed") from None
    if not isfinite(value):
        raise BadRow(f"NaN {name}")
    return value


def parsed(value: Any) -> Any:
    """Returns a value that may have been stored as JSON text, without its None entries (tables put them there)."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadRow("malformed") from None
    return clean(value)


def clean(value: Any) -> Any:
    """Returns a nested value without None entries of records, its strings checked."""
    if isinstance(value, Mapping):
        return {checked(key): clean(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [clean(item) for item in value]
    return checked(value) if isinstance(value, str) else value


def messages(value: Any) -> tuple[Message, ...]:
    """Returns chat messages: a role each, and content (text or parts) or tool calls."""
    if not isinstance(value, list):
        raise BadRow("malformed")
    found = tuple(clean(record(message)) for message in value)
    for message in found:
        speaks = isinstance(message.get("content"), str | list) or isinstance(message.get("tool_calls"), list)
        if not (isinstance(message.get("role"), str) and speaks):
            raise BadRow("malformed")
    return found


def text_or_messages(row: Row, name: str) -> Text:
    """Returns a column that holds text or chat messages; raises `BadRow("empty")` if nothing is said in it."""
    value = column(row, name)
    found: Text = checked(value) if isinstance(value, str) else messages(value)
    if is_blank(found):
        raise BadRow("empty")
    return found


def shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Returns how many characters, or messages, two sides begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def is_blank(value: Text) -> bool:
    """Returns whether nothing is said: white space only, or messages with neither content nor tool calls."""
    if isinstance(value, str):
        return not value.strip()
    contents = [message.get("content") or "" for message in value]
    speaks = any(content.strip() if isinstance(content, str) else content for content in contents)
    return not (speaks or any(message.get("tool_calls") for message in value))


def stepped(steps: Sequence[str], labels: Sequence[int], separator: str = "\n", outcome: float = nan) -> Completion:
    """Returns a completion of steps joined by `separator`; a step ends where its own text ends."""
    ends, end = [], -len(separator)
    for step in steps:
        end += len(separator) + len(step)
        ends.append(end)
    marks = tuple(Step(end=e, label=label) for e, label in zip(ends, labels, strict=True))
    return Completion(text=separator.join(steps), outcome=outcome, steps=marks)


def step_label(value: Any) -> int:
    """Returns -1, 0 or +1 from such a number or from a bool; None stays unlabelled."""
    if value is None:
        return UNLABELLED
    if isinstance(value, bool):
        return 1 if value else -1
    if isinstance(value, int | float) and value in (-1, 0, 1):
        return int(value)
    raise BadRow("label outside the classes")


def outcome_label(value: Any) -> float:
    """Returns 1.0 for true or 1 and 0.0 for false or 0."""
    if isinstance(value, bool | int | float) and value in (0, 1):
        return float(value)
    raise BadRow("label outside the classes")


def ranking(grades: Sequence[float]) -> Ranking:
    """Returns the ranking of completions 0, 1, ... by their grades, best first; equal grades stay side by side."""
    order = sorted(range(len(grades)), key=lambda i: -grades[i])
    return Ranking(order=tuple(order), grades=tuple(grades[i] for i in order))


def merged(completions: Sequence[Completion], grades: Sequence[float]) -> tuple[tuple[Completion, ...], Ranking]:
    """Returns the completions with equal texts made one (the first, graded by the mean), and their ranking.

    A completion cannot beat itself: two equal texts with different grades would be a pair that nothing can learn.
    Raises `BadRow` if nothing but one text is left.
    """
    first: dict[str, Completion] = {}
    graded: dict[str, list[float]] = {}
    for completion, grade in zip(completions, grades, strict=True):
        key = json.dumps(completion.text, default=str)
        first.setdefault(key, completion)
        graded.setdefault(key, []).append(grade)
    if len(first) < 2:
        raise BadRow("chosen equals rejected" if len(completions) > 1 else "fewer than two completions")
    return tuple(first.values()), ranking([sum(g) / len(g) for g in graded.values()])
