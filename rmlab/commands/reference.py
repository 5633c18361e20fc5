"""`rmlab reference`: a reference set out of scored rows, for any model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from rmlab.errors import UsageError

NAME = "reference"
HELP = "make a reference set out of scored rows"
COLUMNS = ("score", "chosen_score", "rejected_score", "scores")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.description = (
        "Stores mean, standard deviation and quantiles of the scores in what rmlab score wrote. With --reference FILE, "
        "rmlab score then says where a score stands among them."
    )
    parser.add_argument("--scores", required=True, type=Path, metavar="PATH", help="file or folder of scored rows")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="where the reference goes, as JSON")


def run(options: argparse.Namespace) -> int:
    """Writes the reference. Returns 0."""
    from rmlab.scoring.reference import Reference

    reference = Reference.of(_scores(options.scores))
    reference.write(options.output)
    print(f"{reference.count} scores, mean {reference.mean:.4g}, standard deviation {reference.std:.4g}")
    return 0


def _scores(path: Path) -> Iterator[float]:
    from rmlab.data.rows import RawRow
    from rmlab.scoring.bulk.files import rows_in

    found = False
    for row in rows_in(path, "--scores"):
        values = row.values if isinstance(row, RawRow) else {}
        for name in COLUMNS:
            value = values.get(name)
            given = value if isinstance(value, list) else [] if value is None else [value]
            if not all(isinstance(one, int | float) for one in given):
                raise UsageError(f"{row.where}: {name} is {value!r}, expected a number or a list of numbers")
            found = found or bool(given)
            yield from given
    if not found:
        raise UsageError(f"{path} has no scores in {', '.join(COLUMNS)}; make them with rmlab score --output {path}")
