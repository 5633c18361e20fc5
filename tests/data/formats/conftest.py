"""How a layout's tests read one row: the example, or the reason why there is none."""

from collections.abc import Callable
from typing import Any

import pytest

from rmlab.batch import Example
from rmlab.data.formats import LAYOUTS, BadRow

Read = Callable[[str, dict[str, Any]], Example | str]


@pytest.fixture
def read() -> Read:
    """Returns `read(layout, row)`: the example of a row at `f.jsonl:3`, or the reason it is set aside for."""

    def one(layout: str, row: dict[str, Any]) -> Example | str:
        try:
            return LAYOUTS[layout].example(row, "f.jsonl:3")
        except BadRow as bad:
            return bad.reason

    return one
