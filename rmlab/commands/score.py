"""`rmlab score`: the rows of a file with their scores."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from rmlab.errors import RunError, UsageError

NAME = "score"
HELP = "score the rows of a file"
WINDOW = 1024  # rows held in memory and sorted by length together


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.description = (
        "Scores rows with prompt and completion; chosen and rejected (prompt explicit or shared); or "
        "prompt and steps[]. A row that cannot be scored gains `error`; the others keep their order and fields."
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="PATH",
        help="RUN/model or RUN; folder or hub name of a sequence-classification model with one label; trlX checkpoint",
    )
    parser.add_argument("--input", required=True, type=Path, metavar="FILE", help=".jsonl, .json or .parquet, also .gz")
    parser.add_argument("--output", type=Path, metavar="FILE", help=".jsonl or .jsonl.gz; default: standard output")
    parser.add_argument("--batch-tokens", type=int, default=16384, metavar="N", help="tokens at once (%(default)s)")
    parser.add_argument("--max-length", type=int, metavar="N", help="longest prompt + completion; default: as trained")
    parser.add_argument("--base", metavar="PATH", help="configuration and tokenizer of a trlX checkpoint without them")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    parser.add_argument("--trust-remote-code", action="store_true", help="let code that comes with the model run")


def run(options: argparse.Namespace) -> int:
    """Scores a file. Returns 0."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _check(options)
    from rmlab.data.rows import read_rows
    from rmlab.scoring.model import RewardModel
    from rmlab.scoring.rows import scored_rows

    model = RewardModel.load(
        options.model,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
        base=options.base,
        max_length=options.max_length,
    )
    read = failed = 0
    first = ""
    rows = read_rows(options.input)
    with _writer(options.output) as stream:
        while window := list(islice(rows, WINDOW)):
            for raw, row in zip(window, scored_rows(model, window, max_tokens=options.batch_tokens), strict=True):
                read += 1
                failed += "error" in row
                first = first or (f"{raw.where}: {row['error']}" if "error" in row else "")
                stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    if read == failed:
        raise UsageError(f"{options.input}: none of its {read} rows could be scored{first and f' (first: {first})'}")
    note = f", {failed} could not be (first: {first})" if failed else ""
    print(f"{read - failed} of {read} rows scored{note}", file=sys.stderr)
    return 0


def _check(options: argparse.Namespace) -> None:
    if not options.input.is_file():
        raise UsageError(f"--input {options.input} does not exist; type the path of a .jsonl or .jsonl.gz file")
    for name in ("batch_tokens", "max_length"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} is {value}, expected 1 or more")
    if options.output is not None and not options.output.parent.is_dir():
        raise UsageError(f"--output {options.output}: there is no folder {options.output.parent}; create it first")


@contextmanager
def _writer(path: Path | None) -> Iterator[IO[Any]]:
    """Gives a stream; a file appears under its name when all rows are in it, so input and output may be the same."""
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    temporary = path.with_name(f".{path.name}.writing")
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(temporary, "wt", encoding="utf-8") as stream:
            yield stream
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"{path} could not be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)
