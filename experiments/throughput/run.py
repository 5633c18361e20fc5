"""How fast rmlab trains and scores beside TRL and transformers, on the same model, init, pairs and machine.

    python experiments/throughput/run.py --json OUT [--quick] [--only NAME ...] [--device cuda --size 0.6b]

Every run is a process of its own; the two sides of a row take turns, so that what else the machine does hits both. The
numbers of a row are kept as soon as it is done, and a repeated call goes on behind the rows it finds in OUT.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from machine import facts
from settings import FULL, QUICK, Job, Row, Scale, rmlab, rows_of, trl

HERE = Path(__file__).resolve().parent
WORKERS = {"rmlab": "rmlab_workers.py", "score": "rmlab_workers.py"}
LOSSES_EQUAL = 1e-4  # nats
Result = dict[str, Any]


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Returns the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="where the numbers go")
    parser.add_argument(
        "--quick", action="store_true", help="a few minutes: one run of each, few steps, no large model"
    )
    parser.add_argument("--only", nargs="*", default=[], help="names of rows")
    parser.add_argument("--runs", type=int, help="runs of each side")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of both sides")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", help="another shape for all rows: tiny or 0.6b")
    parser.add_argument("--work", type=Path, help="folder for models and data, kept (default: a temporary one)")
    return parser.parse_args(arguments)


def call(script: str, *arguments: str, threads: int) -> None:
    """Runs one of the scripts here in a process of its own; its words go to the screen only if it fails."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "offline",
        "TOKENIZERS_PARALLELISM": "false",
        "MPLBACKEND": "Agg",
    }
    environment.pop("GOMP_SPINCOUNT", None)  # each side as it is by default
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{script} {' '.join(arguments)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def worked(job: Job, work: Path, options: argparse.Namespace, seed: int, size: str) -> Result:
    """Returns what a worker process found out."""
    with tempfile.TemporaryDirectory() as folder:
        told, found = Path(folder) / "job.json", Path(folder) / "result.json"
        more = {"folder": str(work), "device": options.device, "seed": seed, "size": options.size or size}
        told.write_text(json.dumps(job | more))
        call(WORKERS.get(job["worker"], "base_workers.py"), str(told), str(found), threads=options.threads)
        result: Result = json.loads(found.read_text())
        return result


def compared(row: Row, work: Path, options: argparse.Namespace, runs: int) -> Result:
    """Runs both sides of a row in alternation. Returns its entry in the JSON file."""
    found: dict[str, list[Result]] = {"trl": [], "rmlab": []}
    for seed in range(runs):
        for side, job in (("trl", row.base), ("rmlab", row.ours)):
            found[side].append(worked(job, work, options, seed, row.size))
            print(f"{row.name:16} {side:6} {found[side][-1]['rate']:10.3f} {row.unit}", flush=True)
    rates = {side: [result["rate"] for result in results] for side, results in found.items()}
    peaks = {side: statistics.median(result["peak_mb"] for result in results) for side, results in found.items()}
    mfus = [result["mfu"] for result in found["rmlab"] if "mfu" in result]
    return {
        "label": row.label,
        "unit": row.unit,
        **rates,
        "ratio": statistics.median(ours / base for ours, base in zip(rates["rmlab"], rates["trl"], strict=True)),
        "goal": row.goal,
        "peak_mb": peaks,
        "mfu": statistics.median(mfus) if mfus else None,
    }


def first_losses(work: Path, options: argparse.Namespace, size: str) -> Result:
    """Returns the first step's loss of both trainers on eight pairs; ends the program where they differ."""
    jobs = {
        "trl": trl("fp32", 1, data="first", measure="first_loss"),
        "rmlab": rmlab("fp32", 1, data="first", measure="first_loss"),
    }
    losses = {side: worked(job, work, options, 0, size)["loss"] for side, job in jobs.items()}
    print(f"first step's loss: {losses}", flush=True)
    if abs(losses["trl"] - losses["rmlab"]) > LOSSES_EQUAL:
        sys.exit(f"the trainers do not start alike: {losses}")
    return losses


def scale_of(options: argparse.Namespace) -> Scale:
    """Returns how much is done."""
    scale = QUICK if options.quick else FULL
    if options.size:
        scale = replace(scale, sizes=(options.size,))
    return replace(scale, runs=options.runs or scale.runs)


def main(arguments: list[str]) -> None:
    """Prepares, measures row by row, and writes the numbers after each."""
    options = parsed(arguments)
    scale = scale_of(options)
    report: Result = json.loads(options.json.read_text()) if options.json.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        work = (options.work or Path(folder)).resolve()
        if not (work / "texts.json").exists():
            call("prepare.py", str(work), json.dumps(asdict(scale)), threads=options.threads)
        report["machine"] = facts(options.device, options.threads)
        if "first_loss" not in report:
            report["first_loss"] = first_losses(work, options, scale.sizes[0])
        settings = report.setdefault("settings", {})
        for row in rows_of(scale):
            if (options.only and row.name not in options.only) or row.name in settings:
                continue
            settings[row.name] = compared(row, work, options, scale.runs)
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
