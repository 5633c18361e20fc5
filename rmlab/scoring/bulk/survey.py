"""What an input holds: how many rows, in which columns. Parquet says so; JSON is read once, block by block."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rmlab.data.rows import RawRow, is_json, read_rows
from rmlab.data.source import SetAside
from rmlab.errors import UsageError
from rmlab.scoring.bulk.columns import Types, input_schema, merged, plain_rows, types_of
from rmlab.scoring.bulk.files import input_files

BLOCK = 1024  # rows looked at together


def survey(path: Path) -> tuple[list[int], pa.Schema]:
    """Returns the rows of each file, and the schema of all."""
    counts: list[int] = []
    types: Types = {}
    for file in input_files(path):
        if file.name.endswith(".parquet"):
            count, found = _parquet_types(file)
        else:
            count, found = _json_types(file)
        counts.append(count)
        types = merged(types, found)
    return counts, input_schema(types)


def _parquet_types(file: Path) -> tuple[int, Types]:
    try:
        with pq.ParquetFile(file) as opened:
            return opened.metadata.num_rows, _types(opened.schema_arrow)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{file} is no Parquet file ({error}); mend it or type another --input") from error


def _types(schema: pa.Schema) -> Types:
    return {field.name: None if is_json(field) else field.type for field in schema}


def _json_types(file: Path) -> tuple[int, Types]:
    types: Types = {}
    count, block = 0, list[RawRow | SetAside]()
    for row in read_rows(file):
        count += 1
        block.append(row)
        if len(block) == BLOCK:
            types, block = merged(types, types_of(plain_rows(block))), []
    return count, merged(types, types_of(plain_rows(block)))
