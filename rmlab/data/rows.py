"""Files -> rows, lazily: JSON Lines, JSON, either of them gzipped, Parquet, and tables of the `datasets` library.

One row is in memory at a time (a batch of 256 for Parquet), so memory does not grow with the data. A bad line of a
JSON Lines file is set aside with its line number and reading goes on; a JSON list or a compressed stream that breaks
off cannot be picked up again, which is an error that says where. `.json` files are told apart by what they start with:
a list, `{"data": [...]}` or `{"rows": [...]}`, or objects one after the other (JSON Lines under another name included).

Own splitting of JSON lists, because the streaming parsers reject the NaN that Python's `json` writes. Left out: CSV
(preference data has nested columns) and limits on how much a compressed file may unfold to.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rmlab.data.source import SetAside
from rmlab.errors import UsageError

JSON = {b"rmlab": b"json"}  # metadata of a Parquet column of text that is JSON: no one type fits its values
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")
_CHUNK = 1 << 20  # characters read at a time from a JSON list
_LITERAL = 16  # an error nearer than this to the end of the buffer may be a cut word such as `-Infinity`
_BETWEEN = re.compile(r"[ \t\r\n,]*")
_WRAPPED = re.compile(rb'\{\s*"(data|rows)"\s*:\s*\[')
_BROKEN = (EOFError, OSError, zlib.error, pa.ArrowException)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """The columns of one row, and where it stands: `file:row`, rows counted from 1 (lines, in a JSON Lines file)."""

    values: Mapping[str, Any]
    where: str


Wanted = Callable[[int, int], bool]  # whether any of the rows from the first number to before the second is wanted


def everything(begin: int, end: int) -> bool:
    """Every row is wanted."""
    return True


def read_rows(path: Path, name: str | None = None, wanted: Wanted = everything) -> Iterator[RawRow | SetAside]:
    """Yields the rows of a file in order; `name` replaces the file's name in `where`.

    wanted: takes rows counted from 0. Rows that are not are passed over without being decoded, in Parquet without being
    read. Raises `UsageError` if the file cannot be opened, has an unknown ending, or cannot be read on.
    """
    name = name or path.name
    reached = "the start"
    try:
        for row in _reader(path, name, wanted):
            reached = row.where
            yield row
    except (*_BROKEN, json.JSONDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read on after {reached} ({error}), expected one of {', '.join(SUFFIXES)} in good order; "
            "mend the file or type another data.path"
        ) from error


def read_table(table: Iterable[Mapping[str, Any]], name: str) -> Iterator[RawRow]:
    """Yields the rows of a table of the `datasets` library, which is memory-mapped; `where` is `name:row`."""
    for number, values in enumerate(table, start=1):
        yield RawRow(values=values, where=f"{name}:{number}")


def _reader(path: Path, name: str, wanted: Wanted) -> Iterator[RawRow | SetAside]:
    if path.name.endswith(".parquet"):
        return _parquet(path, name, wanted)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _lines(path, name, wanted)
    if not path.name.endswith(SUFFIXES):
        raise UsageError(f"{path} has an unknown ending, expected one of {', '.join(SUFFIXES)}; convert or rename it")
    with _open(path) as stream:
        start = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        opening = re.match(rb"\[", start) or _WRAPPED.match(start)
        stream.seek(0)
        if not opening and _is_object(stream.readline()):
            return _lines(path, name, wanted)
    rows = _objects(path, name, skip=opening.group().decode()[-1] if opening else "")
    return (row for number, row in enumerate(rows) if wanted(number, number + 1))


def _open(path: Path) -> IO[bytes]:
    return io.BufferedReader(gzip.open(path)) if path.name.endswith(".gz") else path.open("rb")  # type: ignore[arg-type]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _lines(path: Path, name: str, wanted: Wanted) -> Iterator[RawRow | SetAside]:
    with _open(path) as stream:
        row = -1
        for number, line in enumerate(stream, start=1):
            where = f"{name}:{number}"
            line = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if not line:
                continue  # a blank line is not a row
            row += 1
            if not wanted(row, row + 1):
                continue
            try:
                values = json.loads(line.decode())
            except UnicodeDecodeError:
                yield SetAside(reason="not UTF-8", where=where)
            except (ValueError, RecursionError):
                yield SetAside(reason="malformed", where=where)
            else:
                yield _row(values, where)


def _row(values: Any, where: str) -> RawRow | SetAside:
    is_object = isinstance(values, Mapping)
    return RawRow(values=values, where=where) if is_object else SetAside(reason="malformed", where=where)


def _objects(path: Path, name: str, skip: str) -> Iterator[RawRow | SetAside]:
    """Yields the values of a JSON list, or values one after the other. `skip`: read on after this character."""
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig", errors="surrogateescape") as stream:
        values = _values(stream, skip)
        number = 0
        while True:
            number += 1
            where = f"{name}:{number}"
            try:
                value, text = next(values)
                text.encode()
            except StopIteration:
                return
            except UnicodeEncodeError:
                yield SetAside(reason="not UTF-8", where=where)
            except RecursionError as error:
                raise EOFError("nested too deeply") from error
            else:
                yield _row(value, where)


def _values(stream: IO[str], skip: str) -> Iterator[tuple[Any, str]]:
    """Yields each value with its text, holding one chunk (or one value, if that is longer) in memory."""
    decoder, buffer, more = json.JSONDecoder(), stream.read(_CHUNK), True
    at = buffer.index(skip) + 1 if skip else 0
    while True:
        at = _BETWEEN.match(buffer, at).end()  # type: ignore[union-attr]  # it matches the empty string too
        if buffer.startswith("]", at) and skip:
            return
        try:
            value, end = decoder.raw_decode(buffer, at)
            complete = end < len(buffer) or not more
        except json.JSONDecodeError as error:
            cut = error.pos > len(buffer) - _LITERAL or error.msg.startswith("Unterminated string")
            if not (more and cut):
                if at == len(buffer) and not skip:
                    return
                raise
            complete = False
        if complete:
            yield value, buffer[at:end]
            at = end
            continue
        chunk = stream.read(max(_CHUNK, len(buffer) - at))
        buffer, at, more = buffer[at:] + chunk, 0, bool(chunk)


def is_json(field: pa.Field) -> bool:
    """Returns whether a Parquet column holds JSON text, which is read as what it says."""
    return bool(field.metadata) and JSON.items() <= field.metadata.items()


def _parquet(path: Path, name: str, wanted: Wanted) -> Iterator[RawRow | SetAside]:
    number = 0
    with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
        coded = [field.name for field in file.schema_arrow if is_json(field)]
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if not wanted(number, number + size):
                number += size
                continue
            for batch in file.iter_batches(batch_size=256, row_groups=[group]):
                for at in range(batch.num_rows):
                    number += 1
                    where = f"{name}:{number}"
                    if not wanted(number - 1, number):
                        continue
                    try:
                        values = batch.slice(at, 1).to_pylist()[0]
                        values |= {name: json.loads(values[name]) for name in coded if values[name] is not None}
                    except UnicodeDecodeError:
                        yield SetAside(reason="not UTF-8", where=where)
                    except (ValueError, RecursionError):
                        yield SetAside(reason="malformed", where=where)
                    else:
                        yield RawRow(values=values, where=where)
