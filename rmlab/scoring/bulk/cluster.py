"""The shares of a job as a Ray Data pipeline: on a Ray cluster, or on this machine where there is none.

Ray moves the numbers of shares and places a model where there is room for one; rows are read and written by the workers
themselves, which need the input, the model and the folder under the same paths. There are more shares than workers, so
that a fast worker does more of them and a lost one costs little: its share is done again, less its finished parts.

Left out: rows through Ray's object store. They would come back as blocks in an order and of sizes of Ray's own, and
nothing would say which were written before a kill.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, final

import numpy as np

from rmlab.errors import RunError, UsageError
from rmlab.scoring.bulk.job import Job
from rmlab.scoring.bulk.work import Told, score_share
from rmlab.scoring.model import RewardModel

SHARES = 8  # per worker


@final
class _Worker:
    """A model that scores the shares it is given. Ray makes one per worker, where it runs."""

    def __init__(self, job: Job, loading: Mapping[str, Any], max_tokens: int) -> None:
        self.job, self.max_tokens = job, max_tokens
        self.model = RewardModel.load(**loading)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        counts = []
        for rank, world in zip(batch["rank"].tolist(), batch["world"].tolist(), strict=True):
            done: list[int] = []
            score_share(
                self.job, lambda: self.model, rank=rank, world=world, max_tokens=self.max_tokens, told=done.append
            )
            counts.append(sum(done))
        return {"rows": np.array(counts)}


def score_on_ray(job: Job, loading: Mapping[str, Any], *, workers: int | None, max_tokens: int, told: Told) -> None:
    """Scores the parts that are not there yet.

    loading: the arguments of `RewardModel.load`. workers: models at work, default one a GPU of the cluster, one a CPU
    where it has no GPU. Raises `UsageError` if Ray is not installed and `RunError` if it fails.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray needs Ray, which is not installed; type pip install 'rmlab[ray]'") from error
    missing = job.missing()
    if not missing:
        return
    try:
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING)
    except (RuntimeError, OSError, ValueError, ray.exceptions.RayError) as error:
        where = os.environ.get("RAY_ADDRESS", "on this machine")
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"no Ray cluster could be reached or started ({where}: {reason}); type ray status") from error
    resources = ray.cluster_resources()
    gpus = 0 if loading["device"] == "cpu" else int(resources.get("GPU", 0))
    workers = min(workers or gpus or int(resources.get("CPU", 1)), len(missing))
    world = min(len(missing), workers * SHARES)
    ray.data.DataContext.get_current().enable_progress_bars = False
    shares = ray.data.from_items(
        [{"rank": rank, "world": world} for rank in range(world)], override_num_blocks=world
    ).map_batches(
        _Worker,
        fn_constructor_kwargs={"job": job, "loading": dict(loading), "max_tokens": max_tokens},
        batch_size=1,
        concurrency=workers,
        num_gpus=1 if gpus else 0,
    )
    try:
        for batch in shares.iter_batches(batch_size=1):
            told(int(batch["rows"].sum()))
    except ray.exceptions.RayError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1]
        raise RunError(f"a Ray worker failed ({reason}); run the same command again to go on") from error
