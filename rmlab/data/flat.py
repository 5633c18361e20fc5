"""The flat axis of tokens: prompts, openings and completions one behind the other, and who can be seen until where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

Ids = Sequence[int]


def opening_of(completions: Sequence[Ids]) -> int:
    """Returns how many tokens all completions of a prompt begin with; at least the last of each stays its own."""
    if len(completions) < 2:
        return 0
    common = min(map(len, completions)) - 1
    first, *others = (np.asarray(ids[:common]) for ids in completions)
    for other in others:
        differs = np.flatnonzero(first[:common] != other[:common])
        common = int(differs[0]) if len(differs) else common
    return common


@dataclass(slots=True)
class Flat:
    """The token axis under construction, and where each completion and each of its steps stands on it.

    Of completion s the first token stands at `start[s]`, the first that it shares with no other at `own[s]`, the last
    at `end[s]`; `step_end` goes over all steps of all completions in order.
    """

    ids: list[np.ndarray] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)
    until: list[np.ndarray] = field(default_factory=list)
    size: int = 0
    start: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    step_end: list[int] = field(default_factory=list)

    def put_shared(
        self, prompt: Ids, completions: Sequence[Ids], steps: Sequence[Ids], ghosts: Ids, token: int
    ) -> None:
        """Adds a prompt and what its completions begin with once, and the rest of each behind it.

        steps: each completion's step ends, as places in it. ghosts: how many of the id `token` follow each completion.
        """
        opening = opening_of(completions)
        stem = [*prompt, *completions[0][:opening]]
        rest = sum(len(ids) - opening for ids in completions) + sum(ghosts)
        self._put(stem, 0, self.size + len(stem) + rest)
        start = self.size - opening
        for ids, ends, ghost in zip(completions, steps, ghosts, strict=True):
            self._put_completion(ids, ends, opening, start if opening else self.size, len(stem), ghost, token)

    def put_apart(self, prompt: Ids, completions: Sequence[Ids], steps: Sequence[Ids], ghosts: Ids, token: int) -> None:
        """The same with a copy of the prompt before each completion, and nothing shared."""
        for ids, ends, ghost in zip(completions, steps, ghosts, strict=True):
            self._put(prompt, 0, self.size + len(prompt) + len(ids) + ghost)
            self._put_completion(ids, ends, 0, self.size, len(prompt), ghost, token)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns token_T, position_T and until_T."""
        columns = (self.ids, self.positions, self.until)
        a, b, c = (torch.from_numpy(np.concatenate([np.empty(0, np.int64), *x])) for x in columns)
        return a, b, c

    def _put_completion(
        self, ids: Ids, ends: Ids, opening: int, start: int, position: int, ghosts: int, token: int
    ) -> None:
        own = len(ids) - opening
        self.start.append(start)
        self.own.append(self.size)
        self.step_end += [start + e if e < opening else self.size + e - opening for e in ends]
        self._put(ids[opening:], position, self.size + own + ghosts)
        self.end.append(self.size - 1)
        if ghosts:  # seen by nobody, not even by themselves; they see their own sequence
            self._put([token] * ghosts, position + own, 0)
            self.until[-1] = np.arange(self.size - ghosts, self.size)

    def _put(self, ids: Ids, position: int, until: int) -> None:
        n = len(ids)
        self.ids.append(np.asarray(ids, np.int64))
        self.positions.append(np.arange(position, position + n))
        self.until.append(np.full(n, until, np.int64))
        self.size += n
