"""Which prompts make an optimizer step, and how a step is cut into micro-batches.

Steps are counted in prompts, memory in tokens. The plan depends on the seed and the epoch alone: not on the number of
ranks, workers or micro-batches. A prompt's completions are never split, neither over steps nor over micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

import numpy as np
from torch.utils.data import Sampler

from rmlab.errors import UsageError

Micro = tuple[int, ...]  # the prompts (numbers in the split) of one micro-batch


def cut(
    prompts: Sequence[int], tokens: np.ndarray, cost: np.ndarray, max_tokens: int, parts: int = 1
) -> list[list[Micro]]:
    """Cuts a step into micro-batches of at most `max_tokens` tokens for each of `parts` ranks.

    tokens: every prompt's size, completions included. cost: its time in any unit, which attention makes grow faster
    than the size. Dearest first into the cheapest micro-batch, so that two of them differ by no more than the dearest
    prompt, and so do two ranks: rank r gets the r-th of each round, and the rounds are sorted. Every rank gets the same
    number (some may be empty), because ranks meet at the end. Returns a list of micro-batches for each rank.
    """
    total = int(tokens[list(prompts)].sum())
    count = max(1, -(-total // (max_tokens * parts))) * parts
    while True:
        bins = _balance(prompts, cost, count)
        if count >= len(prompts) or max(int(tokens[b].sum()) for b in bins if b) <= max_tokens:
            return [[tuple(sorted(b)) for b in bins[rank::parts]] for rank in range(parts)]
        count += parts


def _balance(prompts: Sequence[int], cost: np.ndarray, count: int) -> list[list[int]]:
    """Returns `count` shares of the prompts, the dearest first."""
    bins: list[list[int]] = [[] for _ in range(count)]
    load = np.zeros(count)
    for prompt in sorted(prompts, key=lambda p: (-cost[p], p)):
        cheapest = int(load.argmin())
        bins[cheapest].append(prompt)
        load[cheapest] += cost[prompt]
    return [bins[i] for i in np.argsort(-load, kind="stable")]


@final
class StepSampler(Sampler[list[Micro]]):
    """Yields, for this rank, the micro-batches of each optimizer step of an epoch.

    tokens: size of every prompt (its tokens and its completions'). cost: what micro-batches are balanced by, see `cut`.
    shuffle: off for validation. `resume` makes the next pass begin at a step of an epoch.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        *,
        cost: np.ndarray,
        prompts_per_step: int,
        max_tokens: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if prompts_per_step < 1:
            raise UsageError(f"data.prompts_per_step is {prompts_per_step}, expected 1 or more")
        if max_tokens < 1:
            raise UsageError(f"data.max_tokens is {max_tokens}, expected 1 or more")
        self.tokens, self.cost, self.prompts_per_step, self.max_tokens = tokens, cost, prompts_per_step, max_tokens
        self.seed, self.shuffle, self.rank, self.ranks = seed, shuffle, rank, ranks
        self.epoch, self._skip = 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def resume(self, epoch: int, step: int) -> None:
        """Makes the next pass the rest of `epoch` from `step` on."""
        self.epoch, self._skip = epoch, step

    def __len__(self) -> int:
        return -(-len(self.tokens) // self.prompts_per_step)

    def steps(self) -> Iterator[np.ndarray]:
        """Yields the prompts of each step of the current epoch, the same on every rank."""
        order = np.arange(len(self.tokens))
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        for i in range(len(self)):
            yield order[i * self.prompts_per_step : (i + 1) * self.prompts_per_step]

    def __iter__(self) -> Iterator[list[Micro]]:
        skip, self._skip = self._skip, 0
        for i, prompts in enumerate(self.steps()):
            if i >= skip:
                yield cut(prompts.tolist(), self.tokens, self.cost, self.max_tokens, self.ranks)[self.rank]
