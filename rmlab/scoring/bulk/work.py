"""A share of a job's parts, scored and written; and what the finished parts say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, TypeVar

import pyarrow.parquet as pq

from rmlab.data.rows import RawRow
from rmlab.data.source import SetAside
from rmlab.errors import RunError
from rmlab.scoring.bulk.columns import table_of
from rmlab.scoring.bulk.files import publish, temporary
from rmlab.scoring.bulk.job import Job
from rmlab.scoring.model import RewardModel
from rmlab.scoring.rows import scored_rows

T = TypeVar("T")
WINDOW = 1024  # rows held in memory and sorted by length together
FAILED, FIRST = "rmlab.failed", "rmlab.first"  # in a part's footer: rows with an error, and the first of them
Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of rows. first: where the first that could not be scored stands, and why; "" if all could."""

    rows: int
    failed: int
    first: str


def windows(items: Iterable[T]) -> Iterator[list[T]]:
    """Yields the items in lists of at most `WINDOW`."""
    source = iter(items)
    while window := list(islice(source, WINDOW)):
        yield window


def score_share(
    job: Job, load: Callable[[], RewardModel], *, rank: int, world: int, max_tokens: int, told: Told
) -> None:
    """Scores the parts number rank, rank + world, ... that are not there yet.

    load: gives the model, and is not asked if nothing is left to do. told: is told how many rows were just scored.
    """
    parts = job.missing(rank, world)
    if not parts:
        return
    model = load()
    done = []
    for part, numbered in groupby(job.read(parts), key=lambda pair: pair[0]):
        _score_part(job, part, (row for _, row in numbered), model, max_tokens, told)
        done.append(part)
    if done != parts:
        raise _changed(job)


def _score_part(
    job: Job, part: int, rows: Iterator[RawRow | SetAside], model: RewardModel, max_tokens: int, told: Told
) -> None:
    path = job.path(part)
    written = temporary(path)
    total = failed = 0
    first = ""
    try:
        with pq.ParquetWriter(written, job.schema) as writer:
            for window in windows(rows):
                scored = scored_rows(
                    model,
                    window,
                    max_tokens=max_tokens,
                    reference=job.request.reference,
                    columns=job.schema.names,
                )
                bad = [
                    f"{raw.where}: {row['error']}" for raw, row in zip(window, scored, strict=True) if "error" in row
                ]
                writer.write_table(table_of([_filled(row) for row in scored], job.schema))
                total, failed, first = total + len(window), failed + len(bad), first or next(iter(bad), "")
                told(len(window))
            writer.add_key_value_metadata({FAILED: str(failed), FIRST: first})
        if total != job.size(part):
            raise _changed(job)
        publish(written, path)
    except OSError as error:
        raise RunError(f"{path} could not be written ({error.strerror or error})") from error
    finally:
        written.unlink(missing_ok=True)


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row for Parquet: of a line that was no row, `error` says where it stands."""
    return {"error": f"{row['row']}: {row['error']}"} if row.keys() == {"row", "error"} else row


def tally(job: Job) -> Tally:
    """Returns what the parts that are there say."""
    rows, failed, first = 0, 0, ""
    for part in sorted(set(range(job.parts)) - set(job.missing())):
        metadata = pq.read_metadata(job.path(part))
        said = metadata.metadata
        rows += metadata.num_rows
        failed += int(said[FAILED.encode()])
        first = first or said[FIRST.encode()].decode()
    return Tally(rows, failed, first)


def _changed(job: Job) -> RunError:
    return RunError(
        f"{job.request.input} has not the rows any more that it had when {job.folder} was begun; type another --output"
    )
