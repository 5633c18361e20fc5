"""A part: some rows of a split, from a file or from a table of the `datasets` library; and what its name says.

A part belongs to the split that a word of its name, or else of its folder's, says: train; val, valid, validation; dev;
eval; test.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from datasets import Dataset

from rmlab.data.rows import RawRow, read_rows, read_table
from rmlab.data.source import SetAside

WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "dev"}
WORDS |= {"eval": "eval", "evaluation": "eval", "test": "test", "testing": "test"}
VALIDATION = ("val", "dev", "eval", "test")  # the first that occurs is used: test stays untouched where there is val
_SHARD = re.compile(r"-\d+-of-\d+$")


class Part(Protocol):
    """Some rows. `name` is what `where` begins with, `source` what the examples are said to come from."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str: ...

    def rows(self) -> Iterator[RawRow | SetAside]:
        """Yields the rows, from the start at each call."""

    def digest(self) -> str:
        """Returns a hash of the content."""


Parts = dict[str, tuple[Part, ...]]  # by split: train, and val where there is one


@final
@dataclass(frozen=True, slots=True)
class FilePart:
    """A file."""

    path: Path
    name: str
    source: str

    def rows(self) -> Iterator[RawRow | SetAside]:
        return read_rows(self.path, self.name)

    def digest(self) -> str:
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


@final
@dataclass(frozen=True, slots=True)
class TablePart:
    """A table of the `datasets` library."""

    table: Dataset
    name: str
    source: str

    def rows(self) -> Iterator[RawRow | SetAside]:
        return read_table(self.table, self.name)

    def digest(self) -> str:
        return str(self.table._fingerprint)  # the library's own, saved with the folder or made from the hub's revision


def stem(path: Path) -> str:
    """Returns a file's name without its endings: `train` of `train.jsonl.gz`."""
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def split_of(name: str) -> str:
    """Returns the split that a name, or a relative path without endings, says (a value of `WORDS`), or ""."""
    for piece in reversed(name.lower().split("/")):
        said = {WORDS[word] for word in re.findall("[a-z]+", piece) if word in WORDS}
        for split in ("train", *VALIDATION):
            if split in said:
                return split
    return ""


def source_of(path: Path) -> str:
    """Returns what a file is about: its name, or the nearest folder's, without split words and shard numbers.

    `circular` of `train/circular.jsonl.gz`, `harmless-base` of `harmless-base/train.jsonl.gz`.
    """
    for name in (_SHARD.sub("", stem(path)), *(folder.name for folder in path.absolute().parents)):
        rest = re.sub("[a-z]+", lambda word: "" if word[0] in WORDS else word[0], name.lower())
        rest = name if rest == name.lower() else rest.strip("-_. ")
        if rest and not rest.isdigit() and rest != "data":
            return rest
    return ""
