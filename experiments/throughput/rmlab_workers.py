"""rmlab, in a process of its own and as a user runs it: `train.py` with one callback more, and `RewardModel.score`.

python rmlab_workers.py JOB.json RESULT.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import rmlab  # noqa: E402  # sets how threads wait, before they start

Job = dict[str, Any]
PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed"}
LAYOUT = {"pairs": "hh_rlhf", "sweep": "hh_rlhf", "first": "hh_rlhf", "lists": "alpaca_kwise"}


def arguments(job: Job, folder: Path, out: Path) -> list[str]:
    """Returns what is typed behind `train.py`."""
    run = out.parent / f"run-{os.getpid()}"
    typed = [
        f"hydra.run.dir={run}",
        f"hydra.sweep.dir={run}",
        f"cache_dir={run / 'cache'}",
        f"trainer.precision={PRECISION[job['precision']]}",
        f"trainer.max_steps={job['steps']}",
        f"trainer.max_epochs={job['epochs']}",
        "trainer.limit_val_batches=0",
        f"strategy.accelerator={'gpu' if job['device'] == 'cuda' else 'cpu'}",
        "logger=null",
        f"seed={job['seed'] + 1}",
        "+callbacks.timing._target_=timing.Timing",
        f"+callbacks.timing.out={out}",
        f"+callbacks.timing.measure={job.get('measure', 'steps')}",
        f"+callbacks.timing.warm={job.get('warm', 2)}",
    ]
    if job["data"]:
        model = folder / job["size"]
        typed += [
            f"data={LAYOUT[job['data']]}",
            f"data.path={folder / job['data']}",
            "data.prompts_per_step=8",
            "data.max_length=1024",
            "model=hf",
            f"model.path={model}",
            f"+callbacks.timing.head={model}",
        ]
    return [*typed, *job["overrides"]]


def run_rmlab(job: Job, folder: Path, out: Path) -> None:
    """Trains; the callback writes the result."""
    from rmlab.main import main

    typed = arguments(job, folder, out)
    if job.get("measure") != "sweep":
        sys.exit(main(typed))
    import rmlab.training  # noqa: F401  # what every job needs is there before the clock starts

    begin = time.perf_counter()
    code = main(["-m", *typed])
    result = json.loads(out.read_text())
    out.write_text(json.dumps(result | {"rate": 12 * 60 / (time.perf_counter() - begin)}))
    sys.exit(code)


def run_score(job: Job, folder: Path, out: Path) -> None:
    """Scores prompts and completions with `RewardModel`."""
    from machine import peak_mb, synchronized

    rows = json.loads((folder / f"{job['data']}.json").read_text())
    model = rmlab.RewardModel.load(folder / job["size"], device=job["device"])
    model.score([rows[0][0]], [rows[0][1]])
    begin = time.perf_counter()
    model.score([prompt for prompt, _ in rows], [completions for _, completions in rows])
    rate = 2 * len(rows) / (synchronized() - begin)
    out.write_text(json.dumps({"rate": rate, "peak_mb": peak_mb(job["device"])}))


if __name__ == "__main__":
    job, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    (run_score if job["worker"] == "score" else run_rmlab)(job, Path(job["folder"]), out)
