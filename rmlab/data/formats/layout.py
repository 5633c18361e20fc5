"""What a layout is: a name, the columns it is recognised by, and a function from a row to an `Example`.

A layout is a value, not a class: it holds no state and nothing to override. A row that gives no example raises
`BadRow`, whose reason ends up in the data account next to the row's place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rmlab.batch import Example

Row = Mapping[str, Any]


class BadRow(Exception):
    """A row that gives no example, with the reason that the data account counts it under."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One published layout.

    columns: those it must have and is recognised by. optional: those it reads where they are there.
    example: `(row, where) -> Example`, raises `BadRow`; `where` is the row's `file:row`.
    detected: False for a layout that shares its columns with another and is only used when named.
    """

    name: str
    columns: tuple[str, ...]
    example: Callable[[Row, str], Example]
    optional: tuple[str, ...] = ()
    detected: bool = True
