"""`PreferenceFiles`: examples from files, folders, `datasets` folders and the hub, in any published layout.

The layout is told from the columns of a part's first rows, before anything is trained, so a misspelt column is an error
at once and not a file of bad rows. Parts may have different layouts. Nothing is cached here; the encoded records are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, final

from rmlab.batch import Example
from rmlab.data.find import find
from rmlab.data.formats import BadRow, Layout, detect, named
from rmlab.data.parts import Part
from rmlab.data.rows import RawRow
from rmlab.data.source import SetAside
from rmlab.errors import UsageError

PEEK = 32  # rows whose columns are looked at


@final
class PreferenceFiles:
    """A `Source` of examples from files.

    path: a file, a folder, or `OWNER/NAME[/SUBSET]` on the hub. format: a layout's name, or `auto`. train, val, subset:
    see `rmlab.data.find.find`. columns: the layout's column -> the data's name for it.
    Raises `UsageError` if data, layout or columns are not there.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        format: str = "auto",
        train: str | None = None,
        val: str | None = None,
        subset: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self.columns = dict(columns or {})
        self.parts = find(None if path is None else str(path), subset=subset, train=train, val=val)
        wanted = None if format == "auto" else named(format)
        self.layouts = {split: [self._layout(part, wanted) for part in parts] for split, parts in self.parts.items()}

    def splits(self) -> tuple[str, ...]:
        """Returns `("train",)` or `("train", "val")`."""
        return tuple(self.parts)

    def fingerprint(self) -> str:
        """Returns a hash of the options, of the content of all parts, and of the code that reads it."""
        parts = [
            (split, part.name, part.source, layout.name if layout else "", part.digest())
            for split in self.parts
            for part, layout in zip(self.parts[split], self.layouts[split], strict=True)
        ]
        folder = Path(__file__).parent
        code = [
            hashlib.sha256(p.read_bytes()).hexdigest()
            for p in (folder / "rows.py", *sorted(folder.glob("formats/*.py")))
        ]
        return hashlib.sha256(json.dumps([parts, self.columns, code]).encode()).hexdigest()

    def read(self, split: str) -> Iterator[Example | SetAside]:
        """Yields one item per row, in the order of the files and of their rows."""
        for part, layout in zip(self.parts[split], self.layouts[split], strict=True):
            for row in part.rows():
                if isinstance(row, RawRow) and layout is not None:
                    yield self._example(row, layout, part.source)
                elif isinstance(row, SetAside):
                    yield row

    def _example(self, row: RawRow, layout: Layout, source: str) -> Example | SetAside:
        try:
            example = layout.example(self._renamed(row.values), row.where)
        except BadRow as bad:
            return SetAside(reason=bad.reason, where=row.where)
        except RecursionError:
            return SetAside(reason="malformed", where=row.where)
        return example if example.source else replace(example, source=source)

    def _renamed(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self.columns:
            return values
        theirs = set(self.columns.values())
        kept = {name: value for name, value in values.items() if name not in theirs}
        return kept | {ours: values.get(name) for ours, name in self.columns.items()}

    def _layout(self, part: Part, wanted: Layout | None) -> Layout | None:
        """Returns the layout of a part, None if it has no readable row at all."""
        rows = list(islice((row.values for row in part.rows() if isinstance(row, RawRow)), PEEK))
        if not rows:
            return None
        found = {name for row in rows for name, value in row.items() if value is not None}
        absent = sorted(set(self.columns.values()) - {name for row in rows for name in row})
        if absent:
            raise UsageError(
                f"{part.name}: data.columns names {', '.join(absent)}, but its columns are {', '.join(sorted(found))}; "
                "type +data.columns.COLUMN=YOURS with one of these"
            )
        found = (found - set(self.columns.values())) | set(self.columns)
        layout = wanted or detect(found, part.name)
        self._require(part, layout, found)
        return layout

    def _require(self, part: Part, layout: Layout, found: set[str]) -> None:
        unread = sorted(set(self.columns) - {*layout.columns, *layout.optional})
        if unread:
            raise UsageError(
                f"data.columns.{unread[0]} is no column of the layout {layout.name}, which reads "
                f"{', '.join((*layout.columns, *layout.optional))}; type +data.columns.COLUMN=YOURS with one of these"
            )
        missing = [name for name in layout.columns if name not in found]
        if missing:
            raise UsageError(
                f"{part.name}: missing column {', '.join(missing)} of the layout {layout.name}, found "
                f"{', '.join(sorted(found))}; type +data.columns.{missing[0]}=YOURS or data.format=auto"
            )
