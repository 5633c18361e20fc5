"""`rmlab score`: the rows of a file with their scores, as a file or, at scale, as a folder of Parquet parts."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmlab.commands.model_options import add_model, loading
from rmlab.commands.output import FILES, check_output, line_of, writer
from rmlab.errors import RunError, UsageError

if TYPE_CHECKING:
    from rmlab.scoring.bulk.work import Tally
    from rmlab.scoring.reference import Reference

NAME = "score"
HELP = "score the rows of a file"
PART_ROWS = 4096  # what a kill can cost: rows of a part that was not whole yet
STORED = "model"  # --reference: what the model carries


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.description = (
        "Scores rows with prompt and completion; prompt and completions[]; chosen and rejected (prompt explicit or "
        "shared); or prompt and steps[]. A row that cannot be scored gains `error`; the others keep their order and "
        "fields. Scores are logits: compare them within a prompt, or with --reference. The same command again goes on "
        "with a folder that is not whole; under torchrun the processes share the work."
    )
    add_model(parser, required=True)
    parser.add_argument(
        "--input",
        required=True,
        type=Path,
        metavar="PATH",
        help=".jsonl, .json, also .gz; .parquet; a folder of them",
    )
    parser.add_argument(
        "--output", type=Path, metavar="PATH", help=".jsonl or .jsonl.gz; a folder for Parquet parts; default: stdout"
    )
    parser.add_argument(
        "--reference",
        metavar="FILE",
        help="adds z and percentile against a reference set: a file of rmlab reference, or `model` for the model's own",
    )
    parser.add_argument(
        "--part-rows", type=int, metavar="N", help=f"rows of a part of a folder; a kill costs at most one ({PART_ROWS})"
    )
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="who does it: this process, or a Ray cluster"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="models at work on Ray; default: one a GPU, or a CPU")


def run(options: argparse.Namespace) -> int:
    """Scores a file. Returns 0."""
    how = loading(options)
    if not options.input.exists():
        raise UsageError(f"--input {options.input} does not exist; type the path of a file of rows or a folder of them")
    one_file = options.output is None or options.output.name.endswith(FILES)
    _check_form(options, one_file)
    tally = _to_file(options, how) if one_file else _to_folder(options, how)
    if tally is None:  # the other processes are still at work
        return 0
    first = tally.first and f" (first: {tally.first})"
    if tally.rows == tally.failed:
        raise UsageError(f"{options.input}: none of its {tally.rows} rows could be scored{first}")
    note = f", {tally.failed} could not be{first}" if tally.failed else ""
    print(f"{tally.rows - tally.failed} of {tally.rows} rows scored{note}", file=sys.stderr)
    return 0


def _check_form(options: argparse.Namespace, one_file: bool) -> None:
    wrong = next((name for name in ("part_rows", "workers") if getattr(options, name) is not None), None)
    if options.engine == "ray" or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        wrong = wrong or "engine"
    if one_file and wrong:
        alone = wrong == "engine" and options.engine == "local"
        named = "work shared by processes" if alone else f"--{wrong.replace('_', '-')}"
        raise UsageError(f"{named} needs a folder to write parts to; type --output FOLDER, as in --output scores/")
    if options.workers is not None and options.engine != "ray":
        raise UsageError("--workers is for --engine ray; type torchrun --nproc-per-node N -m rmlab score … instead")
    if one_file:
        check_output(options.output)
    elif options.output.suffix in (".json", ".parquet", ".csv", ".gz"):
        raise UsageError(
            f"--output {options.output} is neither a file that ends in {' or '.join(FILES)} nor the name of a folder "
            f"for Parquet parts; type --output {options.output.with_suffix('')}/"
        )


def _to_file(options: argparse.Namespace, how: dict[str, Any]) -> Tally:
    from rmlab.scoring.bulk.files import row_count, rows_in
    from rmlab.scoring.bulk.work import Tally, windows
    from rmlab.scoring.model import RewardModel
    from rmlab.scoring.progress import progress
    from rmlab.scoring.rows import scored_rows

    model = RewardModel.load(**how)
    reference = _reference(options)
    read = failed = 0
    first = ""
    with writer(options.output) as stream, progress("scoring", row_count(options.input)) as told:
        for window in windows(rows_in(options.input)):
            scored = scored_rows(model, window, max_tokens=options.batch_tokens, reference=reference)
            for raw, row in zip(window, scored, strict=True):
                failed += "error" in row
                first = first or (f"{raw.where}: {row['error']}" if "error" in row else "")
                stream.write(line_of(row))
            read += len(window)
            told(len(window))
    return Tally(read, failed, first)


def _to_folder(options: argparse.Namespace, how: dict[str, Any]) -> Tally | None:
    from rmlab.scoring.bulk.cluster import score_on_ray
    from rmlab.scoring.bulk.job import Job, Request
    from rmlab.scoring.bulk.work import score_share, tally
    from rmlab.scoring.model import RewardModel
    from rmlab.scoring.progress import progress

    where = {name: how[name] and _absolute(how[name]) for name in ("path", "base")}
    request = Request(
        input=options.input.resolve(),
        model=where["path"],
        base=where["base"],
        max_length=options.max_length,
        reference=_reference(options),
        part_rows=options.part_rows or PART_ROWS,
    )
    job = Job.open(request, options.output.resolve())
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    name, left = "scoring" if world == 1 else f"scoring (process {rank} of {world})", job.missing(rank, world)
    try:
        with progress(name, sum(map(job.size, left))) as told:
            if options.engine == "ray":
                score_on_ray(job, how | where, workers=options.workers, max_tokens=options.batch_tokens, told=told)
            else:
                load = lambda: RewardModel.load(**how)  # noqa: E731
                score_share(job, load, rank=rank, world=world, max_tokens=options.batch_tokens, told=told)
    except KeyboardInterrupt:
        there = job.parts - len(job.missing())
        raise RunError(f"stopped with {there} of {job.parts} parts written; type the same command to go on") from None
    if job.missing():
        return None
    job.finish()
    return tally(job)


def _absolute(path: str) -> str:
    """Returns a path that means the same in every process, and a hub name as it is."""
    return str(Path(path).expanduser().resolve()) if Path(path).expanduser().exists() else path


def _reference(options: argparse.Namespace) -> Reference | None:
    from rmlab.scoring.reference import Reference, stored

    if options.reference is None:
        return None
    return stored(options.model) if options.reference == STORED else Reference.read(options.reference)
