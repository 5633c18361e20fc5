"""Batches and judgements small enough to check by hand, and random ones of every kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from rmlab.batch import Batch, Judgements
from rmlab.data.pack import pack


def _record(prompt: int, completions: int, **facts: object) -> dict[str, object]:
    """An encoded example whose tokens are told apart by prompt and completion."""
    blank: dict[str, object] = {
        "prompt_ids": [prompt, 1],
        "completion_ids": [[3, *range(slot % 2), 100 + slot] for slot in range(completions)],
        "outcome": [float("nan")] * completions,
        "answer": [""] * completions,
        "gold": [float("nan")] * completions,
        "attributes": [[]] * completions,
        "step_end": [[]] * completions,
        "step_label": [[]] * completions,
        "order": [],
        "grades": [],
        "probability": [],
        "weight": [],
        "source": "",
        "id": str(prompt),
        "prompt_hash": prompt,
    }
    return blank | facts


@pytest.fixture(scope="session")
def record() -> Callable[..., dict[str, object]]:
    return _record


@pytest.fixture(scope="session")
def judgements() -> Callable[..., Judgements]:
    """Judgements from log-odds, labels and prompts; P = sigmoid(log-odds)."""

    def make(margin: Sequence[float], outcome: Sequence[float], group: Sequence[int], **more: object) -> Judgements:
        margin_J = torch.as_tensor(margin, dtype=torch.float32)
        fields = {"source_J": torch.zeros(len(margin_J), dtype=torch.long)} | {
            name: torch.as_tensor(value) for name, value in more.items()
        }
        return Judgements(
            probability_J=margin_J.sigmoid(),
            outcome_J=torch.as_tensor(outcome, dtype=torch.float32),
            margin_J=margin_J,
            group_J=torch.as_tensor(group),
            **fields,
        )

    return make


@pytest.fixture(scope="session")
def blank_batch() -> Batch:
    """A batch for metrics that look at the judgements only; no true reward is known."""
    return pack([_record(0, 2)])


@pytest.fixture(scope="session")
def generated_batch() -> Batch:
    """The same from a generated world."""
    return pack([_record(0, 2, gold=[1.0, 0.0])])


def _random_record(rng: np.random.Generator, prompt: int) -> dict[str, object]:
    completions = int(rng.integers(2, 6))
    ids = [[int(t) for t in rng.integers(0, 500, rng.integers(3, 8))] for _ in range(completions)]
    ends = [sorted({len(i) - 1, 1}) for i in ids]
    gold = [float(g) for g in rng.normal(size=completions)]
    grades = [float(g) for g in rng.integers(0, 3, completions)]
    order = sorted(range(completions), key=lambda i: -grades[i])
    return _record(
        prompt + 1000,
        completions,
        completion_ids=ids,
        outcome=[float(o) for o in rng.integers(0, 2, completions)],
        gold=gold,
        step_end=ends,
        step_label=[[int(label) for label in rng.integers(-1, 2, len(e))] for e in ends],
        order=[order, order[:2]],
        grades=[[grades[i] for i in order], []],
        probability=[1.0, float(rng.choice([0.3, 0.5, 0.7, 1.0]))],
        weight=[1.0, 1.0],
        source=("first", "second")[prompt % 2],
    )


@pytest.fixture(scope="session")
def random_batches() -> Callable[..., list[Batch]]:
    """`prompts` prompts with 2 to 5 completions and every kind of label, a few prompts per batch, uneven."""

    def make(prompts: int, seed: int = 0, per_batch: int = 3) -> list[Batch]:
        rng = np.random.default_rng(seed)
        records = [_random_record(rng, prompt) for prompt in range(prompts)]
        return [
            pack(
                records[at : at + per_batch],
                numbers=range(at, min(at + per_batch, prompts)),
                sources={"first": 0, "second": 1},
            )
            for at in range(0, prompts, per_batch)
        ]

    return make
