"""Small batches with every kind of fact, and a stand-in for a model whose outputs depend on what stands where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rmlab.batch import Batch
from rmlab.data.pack import pack
from rmlab.losses.base import Loss

END = 7  # the end marker, and what ghosts are made of
VOCABULARY = 40
Record = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """Builders of records and batches, handed to the tests as the fixture `facts`."""

    end: int = END

    def record(self, prompt: Sequence[int], completions: Sequence[Sequence[int]], **columns: Any) -> Record:
        """Returns a record without judgements, apart from the columns given."""
        empty: list[list[int]] = [[] for _ in completions]
        missing = [nan] * len(completions)
        record: Record = {
            "prompt_ids": list(prompt),
            "completion_ids": [list(ids) for ids in completions],
            "outcome": missing,
            "answer": [""] * len(missing),
            "gold": missing,
            "step_end": empty,
            "step_label": empty,
            "attributes": empty,
            "order": [],
            "source": "s",
            "id": f"{list(prompt)}",
            "prompt_hash": hash(tuple(prompt)),
        } | columns
        rankings = len(record["order"])
        defaults = {
            "grades": [[] for _ in range(rankings)],
            "probability": [1.0] * rankings,
            "weight": [1.0] * rankings,
        }
        return defaults | record

    def ranked(self, *orders: Sequence[int], completions: int = 2, prompt: int = 1, **columns: Any) -> Batch:
        """Returns a batch of one prompt with one-token completions 10, 11, ... and the given rankings."""
        ids = [[10 + i] for i in range(completions)]
        return self.batch([self.record([prompt], ids, order=[list(o) for o in orders], **columns)])

    def random(self, seed: int, prompts: int = 4) -> list[Record]:
        """Returns records with pairs, graded lists with ties, outcomes, step labels and ratings, some missing."""
        rng = np.random.default_rng(seed)
        return [self._random(rng, number) for number in range(prompts)]

    def _random(self, rng: np.random.Generator, number: int) -> Record:
        count = int(rng.integers(2, 6))
        opening = [20 + number, *rng.integers(8, VOCABULARY, rng.integers(0, 3)).tolist()]
        # the second token tells completions apart, so that the packer keeps all of them
        bodies = [[9, 8 + i, *rng.integers(8, VOCABULARY, rng.integers(1, 6)).tolist(), END] for i in range(count)]
        ends = [sorted({int(rng.integers(0, len(b))), len(b) - 1}) for b in bodies]
        grades = np.sort(rng.integers(0, 3, count).astype(float))[::-1].tolist()
        grades[0] += 1.0  # at least one pair is ordered
        labels = [[-1] * (len(e) - 1) + [int(rng.choice([-1, 0, 1, -100]))] for e in ends[:-1]]
        columns = {
            "outcome": [0.0, 1.0, *rng.choice([0.0, 1.0, nan], count - 2).tolist()],
            "gold": rng.normal(size=count).tolist(),
            "step_end": ends,
            "step_label": [*labels, [1] * len(ends[-1])],
            "attributes": [rng.choice([1.0, 2.0, nan], 3).tolist() for _ in range(count - 1)] + [[4.0, 0.0, 1.0]],
            "order": [rng.permutation(count).tolist(), [0, 1]],
            "grades": [grades, [2.0, 0.5]],
            "probability": [1.0, float(rng.uniform(0.5, 1))],
            "weight": [float(rng.uniform(0.5, 2)), 1.0],
        }
        return self.record(opening, bodies, **columns)

    def batch(self, records: Sequence[Record], loss: Loss | None = None) -> Batch:
        """Returns the batch as `loss` wants it packed."""
        return pack(records, ghost_id=END if loss is not None and loss.ghosts else None)

    def outputs(self, loss: Loss, batch: Batch, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        """Returns out_NC; an output depends on the token it is read at and on its position, on nothing else."""
        generator = torch.Generator().manual_seed(0)
        table = torch.randn(VOCABULARY, 8, generator=generator, dtype=dtype)[:, : loss.out_dim]
        positions = loss.positions(batch)
        wave = torch.sin(batch.position_T[positions].to(dtype) * 1.7)
        return scale * (table[batch.token_T[positions]] + wave[:, None])


@pytest.fixture(scope="session")
def facts() -> Facts:
    return Facts()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
