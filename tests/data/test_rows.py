"""Readers: every container gives the same rows, bad lines are set aside with their place, nothing is read ahead."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from rmlab.data import rows as module
from rmlab.data.rows import RawRow, read_rows, read_table
from rmlab.data.source import SetAside
from rmlab.errors import UsageError

ROWS = [{"a": 'ä[{"x', "b": [1, 2.5]}, {"a": "two\nlines ]", "b": []}, {"a": "", "b": [0]}]


def values(path: Path) -> list[Any]:
    return [row.values if isinstance(row, RawRow) else row for row in read_rows(path)]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f.jsonl", lines(ROWS)),
        ("f.jsonl", "\ufeff" + lines(ROWS).replace("\n", "\r\n")),
        ("f.jsonl", lines(ROWS).rstrip("\n")),
        ("f.json", lines(ROWS)),
        ("f.json", json.dumps(ROWS)),
        ("f.json", "\ufeff \n" + json.dumps(ROWS, indent=2, ensure_ascii=False)),
        ("f.json", json.dumps({"data": ROWS, "version": 1}, indent=1)),
        ("f.json", json.dumps({"rows": ROWS})),
        ("f.json", "\n".join(json.dumps(row, indent=2) for row in ROWS)),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_containers_of_json_give_the_same_rows(tmp_path: Path, name: str, text: str, zipped: bool) -> None:
    path = tmp_path / (name + ".gz" * zipped)
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    assert values(path) == ROWS


def test_parquet_and_tables_give_the_same_rows(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "f.parquet")
    assert list(read_rows(tmp_path / "f.parquet")) == [
        RawRow(values=row, where=f"f.parquet:{n}") for n, row in enumerate(ROWS, start=1)
    ]
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "table")
    table = Dataset.load_from_disk(str(tmp_path / "table"))
    assert list(read_table(table, "table")) == [
        RawRow(values=row, where=f"table:{n}") for n, row in enumerate(ROWS, start=1)
    ]


def test_bad_lines_are_set_aside_with_their_line(tmp_path: Path) -> None:
    """Lines 2 to 6 are: not UTF-8, cut off, a list, blank (not a row), nested beyond any reader."""
    path = tmp_path / "f.jsonl.gz"
    content = [b'{"a": 1}', b'{"a": "\xff"}', b'{"a": ', b"[1]", b" ", b"[" * 100_000, b'{"a": NaN}']
    path.write_bytes(gzip.compress(b"\n".join(content)))
    *read, last = read_rows(path)
    assert read == [
        RawRow(values={"a": 1}, where="f.jsonl.gz:1"),
        SetAside(reason="not UTF-8", where="f.jsonl.gz:2"),
        SetAside(reason="malformed", where="f.jsonl.gz:3"),
        SetAside(reason="malformed", where="f.jsonl.gz:4"),
        SetAside(reason="malformed", where="f.jsonl.gz:6"),
    ]
    assert isinstance(last, RawRow)
    assert last.where == "f.jsonl.gz:7"


def test_bad_items_of_a_json_list_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(b'[{"a": 1}, 12, {"a": "\xff"}, null, {"a": 2}]')
    assert values(path) == [
        {"a": 1},
        SetAside(reason="malformed", where="f.json:2"),
        SetAside(reason="not UTF-8", where="f.json:3"),
        SetAside(reason="malformed", where="f.json:4"),
        {"a": 2},
    ]


def test_a_parquet_string_that_is_not_utf8_is_set_aside(tmp_path: Path) -> None:
    column = pa.array([b"fine", b"\xff", b"too"]).view(pa.string())
    pq.write_table(pa.table({"a": column}), tmp_path / "f.parquet")
    bad = SetAside(reason="not UTF-8", where="f.parquet:2")
    assert values(tmp_path / "f.parquet") == [{"a": "fine"}, bad, {"a": "too"}]


@pytest.mark.parametrize(
    ("name", "content", "reached"),
    [
        ("f.json", b'[{"a": 1}, {"a": 2}', "f.json:2"),
        ("f.json", b'[{"a": 1}, {"a" 2}, {"a": 3}]', "f.json:1"),
        ("f.json", b"what is this", "the start"),
        ("f.jsonl.gz", b"not gzip", "the start"),
        ("f.jsonl.gz", gzip.compress(lines([{"a": i} for i in range(99_999)]).encode())[:-99], r"f.jsonl.gz:\d{4}"),
        ("f.json.gz", b"\x1f\x8b\x08", "the start"),
        ("f.parquet", b"PAR1 no", "the start"),
    ],
    ids=["list cut", "list item", "no json", "no gzip", "gzip cut", "gzip head", "parquet"],
)
def test_a_file_that_breaks_off_says_where(tmp_path: Path, name: str, content: bytes, reached: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=f"cannot be read on after {reached}") as error:
        list(read_rows(tmp_path / name))
    assert "\n" not in str(error.value)


def test_unknown_ending_and_missing_file(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("a,b")
    with pytest.raises(UsageError, match=r"f\.csv has an unknown ending, expected one of \.jsonl"):
        list(read_rows(tmp_path / "f.csv"))
    with pytest.raises(UsageError, match=r"cannot be read on after the start"):
        list(read_rows(tmp_path / "none.jsonl"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), json_values, max_size=3)),
    chunk=st.integers(1, 40),
    indent=st.none() | st.integers(0, 2),
    ascii_only=st.booleans(),
)
def test_json_lists_split_anywhere_give_their_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], chunk: int, indent: int | None, ascii_only: bool
) -> None:
    """Whatever the size of the pieces that a list is read in, the rows are those that `json` reads."""
    path = tmp_path_factory.getbasetemp() / "split_anywhere.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        assert values(path) == rows


@pytest.mark.parametrize("name", ["f.jsonl", "f.json", "f.jsonl.gz", "f.json.gz", "f.parquet"])
def test_memory_does_not_grow_with_the_data(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 MB of rows are read in less than 12 MB: the file is never in memory, nor are its rows."""
    monkeypatch.setattr(module, "_CHUNK", 1 << 16)
    row, count = {"a": "x" * 16_000}, 2_000
    path = tmp_path / name
    if name.endswith(".parquet"):
        schema = pa.schema({"a": pa.string()})
        with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
            for _ in range(count // 100):
                writer.write_table(pa.Table.from_pylist([row] * 100, schema=schema))
    else:
        with gzip.open(path, "wt", 1) if name.endswith(".gz") else path.open("w") as file:
            is_list = ".json" in name and "jsonl" not in name
            file.write("[" * is_list)
            for number in range(count):
                file.write(("," if is_list and number else "") + json.dumps(row) + "\n")
            file.write("]" * is_list)
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    arrow = 0
    read = 0
    for _ in read_rows(path):
        read += 1
        arrow = max(arrow, pa.total_allocated_bytes() - before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == count
    assert peak + arrow < 12e6


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    """The broken end of a file is not met by somebody who takes its first row only."""
    path = tmp_path / "f.json"
    path.write_text('[{"a": 1}, broken')
    assert next(iter(read_rows(path))) == RawRow(values={"a": 1}, where="f.json:1")
