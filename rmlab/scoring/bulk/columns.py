"""Rows as dictionaries -> Arrow tables of one schema, so that all parts of a job can be read as one table.

Parquet brings its schema along. For JSON every value is looked at once, in blocks, before anything is scored: a column
that is empty in the first million rows may hold text in the next. A column that no one type fits (text in one row and
messages in another, an object without fields) is kept as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from rmlab.data.rows import JSON, RawRow, is_json
from rmlab.data.source import SetAside
from rmlab.errors import RunError
from rmlab.scoring.rows import gained_by

Row = Mapping[str, Any]
Types = dict[str, pa.DataType | None]  # None: no one type fits
_MISFIT = (pa.ArrowException, OverflowError)


def types_of(rows: Iterable[Row]) -> Types:
    """Returns the type of every column that occurs in a block of rows."""
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(str(name), []).append(value)
    return {name: _type_of(values) for name, values in columns.items()}


def merged(one: Types, other: Types) -> Types:
    """Returns types that fit the rows of both."""
    return one | {name: _common(one[name], found) if name in one else found for name, found in other.items()}


def input_schema(types: Types) -> pa.Schema:
    """Returns the schema of rows of these types."""
    fields = [
        pa.field(name, pa.string(), metadata=JSON) if t is None else pa.field(name, t) for name, t in types.items()
    ]
    return pa.schema(fields)


def output_schema(schema: pa.Schema, *, reference: bool) -> pa.Schema:
    """Returns the schema with the columns that rows gain, where it has what they are scored by; `error` stands last."""
    gained = gained_by(schema.names, reference=reference)
    kept = [field for field in schema if field.name not in gained]
    return pa.schema([*kept, *(pa.field(name, _gained_type(name)) for name in gained)])


def table_of(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """Returns the rows as a table. Raises `RunError` for a value that its column cannot hold."""
    return pa.Table.from_arrays([_array(rows, field) for field in schema], schema=schema)


def plain_rows(rows: Iterable[RawRow | SetAside]) -> Iterator[Row]:
    """Yields the values of those that are rows."""
    return (row.values for row in rows if isinstance(row, RawRow))


def _type_of(values: list[Any]) -> pa.DataType | None:
    try:
        found = pa.array(values).type
    except UnicodeEncodeError:
        return _type_of(_encodable(values))
    except _MISFIT:
        return None
    return None if _has_empty_struct(found) else found


def _common(one: pa.DataType | None, other: pa.DataType | None) -> pa.DataType | None:
    if one is None or other is None:
        return None
    pair = [pa.schema([pa.field("x", kind)]) for kind in (one, other)]
    try:
        return pa.unify_schemas(pair, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def _has_empty_struct(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and not kind.num_fields:
        return True
    return any(_has_empty_struct(kind.field(i).type) for i in range(kind.num_fields))


def _gained_type(name: str) -> pa.DataType:
    if name == "error":
        return pa.string()
    if name == "ranks":
        return pa.list_(pa.int64())
    return pa.list_(pa.float64()) if name.endswith("s") else pa.float64()


def _array(rows: Sequence[Row], field: pa.Field) -> pa.Array:
    values = [row.get(field.name) for row in rows]
    if is_json(field):
        values = [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values]
    try:
        try:
            return pa.array(values, type=field.type)
        except UnicodeEncodeError:
            return pa.array(_encodable(values), type=field.type)
    except _MISFIT as error:
        raise RunError(
            f"column {field.name} holds a value that is no {field.type} ({error}); mend the input"
        ) from error


def _encodable(values: list[Any]) -> list[Any]:
    """Returns the values with ? for halves of surrogate pairs, which JSON can hold and no file of text can."""
    found: list[Any] = json.loads(json.dumps(values, ensure_ascii=False).encode("utf-8", "replace"))
    return found
