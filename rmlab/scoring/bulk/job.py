"""A job: rows to score, cut into parts; and the folder in which they appear.

`_job.json` in the folder says what was asked for and in which columns the answers stand; `part-NNNNNN.parquet` holds
the rows from N times `part_rows` on; `_SUCCESS` appears when all parts are there. A job that is asked for again goes on
where it was, and one that asks for something else in the same folder is refused. Names that begin with `_` or `.` are
passed over by whoever reads the folder as one table.

Processes of a job say nothing to each other: they need the folder (on several machines: a shared file system) alone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import pyarrow as pa

from rmlab.data.rows import RawRow, read_rows
from rmlab.data.source import SetAside
from rmlab.errors import UsageError
from rmlab.scoring.bulk.columns import output_schema
from rmlab.scoring.bulk.files import content, input_files, write_whole
from rmlab.scoring.bulk.survey import survey
from rmlab.scoring.reference import Reference

MANIFEST, SUCCESS = "_job.json", "_SUCCESS"
FORMAT = 1  # raise it when the folder changes its meaning
ASKED = ("input", "model", "base", "max_length", "reference", "part_rows")  # what must not change under way


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What decides the content of the folder. model, base: a path or a hub name; reference: what scores are compared
    with, None for raw scores alone; part_rows: rows of a part."""

    input: Path
    model: str
    base: str | None
    max_length: int | None
    reference: Reference | None
    part_rows: int

    def stamp(self) -> dict[str, Any]:
        """Returns plain values that are equal exactly for requests with equal answers."""
        return {
            "input": [[file.name, content(file)] for file in input_files(self.input)],
            "model": content(Path(self.model)),
            "base": None if self.base is None else content(Path(self.base)),
            "max_length": self.max_length,
            "reference": None if self.reference is None else json.loads(json.dumps(asdict(self.reference))),
            "part_rows": self.part_rows,
        }


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request that has been looked at. file_rows: rows of each input file; schema: of the parts."""

    request: Request
    folder: Path
    file_rows: tuple[int, ...]
    schema: pa.Schema

    @classmethod
    def open(cls, request: Request, folder: Path) -> Job:
        """Returns the job in a folder, begun now or before.

        Raises `UsageError` if the folder holds something else, or the input has no rows.
        """
        stamp, manifest = request.stamp(), folder / MANIFEST
        # Looked at before the manifest, which another process of the same job may write in this moment.
        taken = folder.is_file() or (folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir()))
        if manifest.is_file():
            return cls._again(request, folder, stamp)
        if taken:
            raise UsageError(
                f"--output {folder} is there already and holds no scores to go on with; type the name of a new folder, "
                "or a file that ends in .jsonl"
            )
        file_rows, schema = survey(request.input)
        if not sum(file_rows):
            raise UsageError(f"{request.input}: none of its 0 rows could be scored")
        schema = output_schema(schema, reference=request.reference is not None)
        encoded = base64.b64encode(schema.serialize().to_pybytes()).decode()
        values = {"format": FORMAT} | stamp | {"file_rows": file_rows, "schema": encoded}
        folder.mkdir(parents=True, exist_ok=True)
        # Processes that start together write the same bytes.
        write_whole(manifest, (json.dumps(values, indent=2) + "\n").encode())
        return cls(request=request, folder=folder, file_rows=tuple(file_rows), schema=schema)

    @classmethod
    def _again(cls, request: Request, folder: Path, stamp: dict[str, Any]) -> Job:
        try:
            found = json.loads((folder / MANIFEST).read_text())
            if found["format"] != FORMAT:
                raise ValueError(f"format {FORMAT} expected")
            changed = [name for name in ASKED if found[name] != stamp[name]]
            schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(found["schema"])))
            file_rows = tuple(map(int, found["file_rows"]))
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise UsageError(
                f"{folder / MANIFEST} cannot be read ({error}); type another --output or delete {folder}"
            ) from error
        if changed:
            raise UsageError(
                f"{folder} holds scores that were begun with another {' and '.join(changed)}; type what they were "
                "begun with to go on, or another --output"
            )
        return cls(request=request, folder=folder, file_rows=file_rows, schema=schema)

    @property
    def rows(self) -> int:
        """Rows of the input."""
        return sum(self.file_rows)

    @property
    def parts(self) -> int:
        """Parts that the input makes."""
        return -(-self.rows // self.request.part_rows)

    def size(self, part: int) -> int:
        """Returns how many rows a part has."""
        return min(self.request.part_rows, self.rows - part * self.request.part_rows)

    def path(self, part: int) -> Path:
        """Returns where a part appears."""
        return self.folder / f"part-{part:06d}.parquet"

    def missing(self, rank: int = 0, world: int = 1) -> list[int]:
        """Returns the parts of a share of the job that are not there yet."""
        there = {path.name for path in self.folder.iterdir()}
        return [part for part in range(rank, self.parts, world) if self.path(part).name not in there]

    def read(self, parts: list[int]) -> Iterator[tuple[int, RawRow | SetAside]]:
        """Yields the rows of some parts, in order, each with the number of its part."""
        chosen, size, before = set(parts), self.request.part_rows, 0
        for file, rows in zip(input_files(self.request.input), self.file_rows, strict=True):
            start = before

            def wanted(begin: int, end: int, start: int = start) -> bool:
                return any(part in chosen for part in range((start + begin) // size, (start + end - 1) // size + 1))

            numbers = (number for number in range(start, start + rows) if number // size in chosen)
            if wanted(0, rows):
                yield from (
                    (number // size, row) for number, row in zip(numbers, read_rows(file, wanted=wanted), strict=False)
                )
            before += rows

    def finish(self) -> None:
        """Marks the folder as whole and sweeps up what killed processes left."""
        for path in self.folder.glob(".part-*.writing"):
            path.unlink(missing_ok=True)
        write_whole(self.folder / SUCCESS, b"")
