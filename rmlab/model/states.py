"""States computed once and kept in a file: where each prompt's rows stand, and how they come into a batch.

A prompt's tokens stand in a batch in one stretch and always in the same order, whatever it is packed with. So its rows
are one stretch of the file, and a batch takes a copy of a few stretches of mapped memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, final

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from rmlab.batch import Batch


class Prompts(Protocol):
    """One split of the data, addressed by prompt number."""

    def __len__(self) -> int: ...

    def batch(self, prompts: Sequence[int]) -> Batch:
        """Returns the batch of some prompts, in ascending order."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Which states are kept: X rows of a batch, each of one flat token.

    field: where a batch carries them. width: D. places: batch -> the token of each row, [X]. states: batch -> the rows,
    [X, D], without autograd. max_tokens: computed at once.
    """

    field: Literal["trunk_TD", "read_ND"]
    width: int
    places: Callable[[Batch], Tensor]
    states: Callable[[Batch], Tensor]
    max_tokens: int


@final
class States:
    """The kept states of one split.

    table_XD: all rows, memory-mapped. span_U2: for each prompt, its first row and the row behind its last.
    """

    def __init__(self, field: str, table_XD: Tensor, span_U2: np.ndarray) -> None:
        self.field, self.table_XD, self.span_U2 = field, table_XD, span_U2

    def of(self, prompts: Sequence[int]) -> Tensor:
        """Returns the rows of some prompts one behind the other, [X, D]."""
        pieces = [self.table_XD[begin:end] for begin, end in self.span_U2[list(prompts)].tolist()]
        return torch.cat(pieces) if pieces else self.table_XD[:0]

    def into(self, batch: Batch, prompts: Sequence[int]) -> Batch:
        """Returns the batch of these prompts with their states."""
        return replace(batch, **{self.field: self.of(prompts)})  # type: ignore[arg-type]


def rows_of(batch: Batch, place_X: Tensor) -> list[int]:
    """Returns how many of the rows belong to each prompt of a batch, in the order of its prompts.

    Raises `ValueError` if the rows of a prompt do not stand together.
    """
    tree_T = (batch.position_T == 0).cumsum(0) - 1  # one a prompt, or one a completion where nothing is shared
    group_of_tree = torch.zeros(int(tree_T[-1]) + 1, dtype=torch.long).scatter_(0, tree_T[batch.start_S], batch.group_S)
    group_X = group_of_tree[tree_T[place_X]]
    if bool((group_X.diff() < 0).any()):
        raise ValueError("the rows of a prompt do not stand together")
    prompts = batch.prompt_G.unique()
    rows: list[int] = torch.bincount(
        torch.searchsorted(prompts, batch.prompt_G[group_X]), minlength=len(prompts)
    ).tolist()
    return rows


@final
class Work:
    """What computing a split's states takes: `rows`, how many in all, in micro-batches of prompts of similar length."""

    def __init__(self, prompts: Prompts, kept: Kept) -> None:
        self._prompts, self._kept = prompts, kept
        rows, tokens = [], []
        for begin in range(0, len(prompts), 64):
            batch = prompts.batch(range(begin, min(begin + 64, len(prompts))))
            rows += rows_of(batch, kept.places(batch))
            tokens += rows_of(batch, torch.arange(batch.tokens))
        self._rows_U, self.rows = np.asarray(rows), sum(rows)
        # The longest first: what does not fit into memory shows at once.
        self._micros = _cut(np.argsort(tokens, kind="stable")[::-1].tolist(), tokens, kept.max_tokens)

    def write(self, path: Path, dtype: torch.dtype) -> np.ndarray:
        """Fills a file that is there with the states. Returns `States.span_U2`."""
        span_U2, row = np.zeros((len(self._prompts), 2), np.int64), 0
        with path.open("r+b", buffering=0) as file:
            for micro in track(self._micros, path.stem, transient=True, disable=not sys.stdout.isatty()):
                state_XD = self._kept.states(self._prompts.batch(micro)).to("cpu", dtype).contiguous()
                end_P = row + np.cumsum(self._rows_U[micro])
                span_U2[micro] = np.stack([end_P - self._rows_U[micro], end_P], 1)
                if state_XD.shape != (end_P[-1] - row, self._kept.width):
                    raise ValueError(
                        f"states {tuple(state_XD.shape)}, expected {end_P[-1] - row} of {self._kept.width}"
                    )
                file.write(state_XD.view(torch.uint8).numpy().data)
                row = int(end_P[-1])
        return span_U2


def _cut(prompts: Sequence[int], tokens: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Returns micro-batches of neighbours in `prompts`, each in ascending order, of at most `max_tokens` tokens."""
    micros: list[list[int]] = []
    load = max_tokens
    for prompt in prompts:
        if load + tokens[prompt] > max_tokens:
            micros.append([])
            load = 0
        micros[-1].append(prompt)
        load += tokens[prompt]
    return [sorted(micro) for micro in micros]
