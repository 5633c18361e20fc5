"""The data account: rows read = rows used + rows set aside, by reason, each with the first place it happened.

Every row that a source yields is recorded here exactly once, so nothing is lost in silence. `read` is computed and
never stored on its own: the equation cannot be broken. Left out: a list of all places; the first one is enough to look.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from rmlab.data.source import SetAside


@final
class Account:
    """Counts of one split. `set_aside` maps a reason to a count, `first` maps it to its first `file:row`."""

    def __init__(self) -> None:
        self.used = 0
        self.set_aside: dict[str, int] = {}
        self.first: dict[str, str] = {}

    @property
    def read(self) -> int:
        """Number of rows read."""
        return self.used + sum(self.set_aside.values())

    def add_used(self) -> None:
        """Records a row that gave an example."""
        self.used += 1

    def add_set_aside(self, item: SetAside) -> None:
        """Records a row that gave none."""
        self.set_aside[item.reason] = self.set_aside.get(item.reason, 0) + 1
        self.first.setdefault(item.reason, item.where)

    def move_aside(self, item: SetAside) -> None:
        """Sets aside a row that was recorded as used. Raises `ValueError` if none was."""
        if not self.used:
            raise ValueError("no used row is left to set aside")
        self.used -= 1
        self.add_set_aside(item)

    def to_dict(self) -> dict[str, Any]:
        """Returns `{"read", "used", "set_aside": {reason: count}, "first": {reason: where}}`, ready for JSON."""
        return {"read": self.read, "used": self.used, "set_aside": dict(self.set_aside), "first": dict(self.first)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Account:
        """Returns the account that `to_dict` wrote. Raises `ValueError` if its numbers do not add up."""
        account = cls()
        account.used = value["used"]
        account.set_aside, account.first = dict(value["set_aside"]), dict(value["first"])
        if account.read != value["read"] or account.set_aside.keys() != account.first.keys():
            raise ValueError(f"data account does not add up: {dict(value)}")
        return account

    def rows(self) -> list[tuple[str, int, str]]:
        """Returns `(what, count, first place)` for a printed table: read, used, and the reasons, the frequent first."""
        reasons = sorted(self.set_aside.items(), key=lambda item: (-item[1], item[0]))
        aside = [(f"set aside: {reason}", count, self.first[reason]) for reason, count in reasons]
        return [("read", self.read, ""), ("used", self.used, ""), *aside]
