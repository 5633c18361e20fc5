"""Encoded records about which nothing was judged: what is packed when a model only scores."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

from rmlab.batch import UNLABELLED


def unjudged(
    prompt_ids: Sequence[int], completion_ids: Sequence[Sequence[int]], step_end: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Returns a record for `pack` with a completion's ids and the last token of each of its steps, and no facts."""
    count = len(completion_ids)
    return {
        "prompt_ids": list(prompt_ids),
        "completion_ids": [list(ids) for ids in completion_ids],
        "outcome": [nan] * count,
        "answer": [""] * count,
        "gold": [nan] * count,
        "step_end": [list(ends) for ends in step_end],
        "step_label": [[UNLABELLED] * len(ends) for ends in step_end],
        "attributes": [[] for _ in completion_ids],
        "order": [],
        "grades": [],
        "probability": [],
        "weight": [],
        "source": "",
        "id": "",
        "prompt_hash": 0,
    }
