"""Files of a job: what comes in, what stands for its content, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rmlab.data.rows import SUFFIXES, RawRow, read_rows
from rmlab.data.source import SetAside
from rmlab.errors import RunError, UsageError
from rmlab.export.facts import FILE as FACTS_FILE

SAMPLE = 1 << 20  # bytes at both ends of a file that stand for its content


def input_files(path: Path, option: str = "--input") -> list[Path]:
    """Returns the data files of a folder in the order of their names, or the file itself.

    Raises `UsageError`, which names the `option` that the path was typed behind.
    """
    if path.is_file():
        return [path]
    inside = (
        sorted(p for p in path.iterdir() if p.name.endswith(SUFFIXES) and p.name[0] not in "._")
        if path.is_dir()
        else []
    )
    if not inside:
        what = f"holds no file that ends in {', '.join(SUFFIXES)}" if path.is_dir() else "does not exist"
        raise UsageError(f"{option} {path} {what}; type the path of a file of rows or of a folder of them")
    return inside


def rows_in(path: Path, option: str = "--input") -> Iterator[RawRow | SetAside]:
    """Yields the rows of a file, or of all files of a folder."""
    for file in input_files(path, option):
        yield from read_rows(file)


def row_count(path: Path) -> int | None:
    """Returns how many rows there are about (blank lines counted), None where counting them means decoding them."""
    counts = [_lines_or_rows(file) for file in input_files(path)]
    return None if None in counts else sum(count for count in counts if count is not None)


def _lines_or_rows(file: Path) -> int | None:
    if file.name.endswith(".parquet"):
        try:
            return int(pq.read_metadata(file).num_rows)
        except (OSError, pa.ArrowException):
            return None  # whoever reads it says what is wrong
    if not file.name.endswith(".jsonl"):
        return None
    with file.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(SAMPLE), b""))


def content(path: Path) -> str:
    """Returns what stands for the content of a model or data file, or of the files of a folder; a name that is no path
    stands for itself. Files are known by size and both ends: hashing a terabyte would take longer than scoring."""
    folder = path / "model" if (path / "model" / FACTS_FILE).is_file() else path
    if not folder.exists():
        return str(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else [folder]:
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(SAMPLE))
            stream.seek(max(0, size - SAMPLE))
            digest.update(stream.read(SAMPLE))
    return digest.hexdigest()


def temporary(path: Path) -> Path:
    """Returns a name beside `path` that no other process uses."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.writing")


def publish(written: Path, path: Path) -> None:
    """Gives a finished file its name; after a kill or a power cut there is the whole file or none."""
    for place in (written, path.parent):
        if place == path.parent:
            written.replace(path)
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that appears as a whole. Raises `RunError`."""
    try:
        written = temporary(path)
        written.write_bytes(data)
        publish(written, path)
    except OSError as error:
        raise RunError(f"{path} could not be written ({error.strerror or error})") from error
