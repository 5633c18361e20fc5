"""Where examples come from: the protocol that files and generated worlds share, and what is set aside on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from rmlab.batch import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A row that gave no example: why (`empty`, `malformed`, ...) and where (`file:row`, rows counted from 1)."""

    reason: str
    where: str


class Source(Protocol):
    """Examples of one or two splits. `Example.id` is the row's own id or `file:row`."""

    def splits(self) -> tuple[str, ...]:
        """Returns `("train",)` where validation must be split off by prompt, or `("train", "val")`."""

    def fingerprint(self) -> str:
        """Returns a hash that changes whenever `read` would give something else."""

    def read(self, split: str) -> Iterator[Example | SetAside]:
        """Yields one item per row read, lazily; memory does not grow with the data."""
