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


def cut(prompts: Sequence[int], tokens: np.ndarray, max_tokens: int, parts: int = 1) -> list[list[Micro]]:
    """Cuts a step into micro-batches of at most `max_tokens` tokens for each of `parts` ranks.

    Longest first into the lightest micro-batch, so that they are balanced; every rank gets the same number of them
    (some may be empty), because ranks meet after each. `tokens` holds every prompt's size, completions included.
    Returns a list of micro-batches for each rank.
    """
    total = int(tokens[list(prompts)].sum())
    count = max(1, -(-total // (max_tokens * parts))) * parts
    while True:
        bins = _balance(prompts, tokens, count)
        if count >= len(prompts) or max(int(tokens[list(b)].sum()) for b in bins if b) <= max_tokens:
            return [[tuple(sorted(b)) for b in bins[rank::parts]] for rank in range(parts)]
        count += parts


def _balance(prompts: Sequence[int], tokens: np.ndarray, count: int) -> list[list[int]]:
    bins: list[list[int]] = [[] for _ in range(count)]
    load = np.zeros(count, np.int64)
    for prompt in sorted(prompts, key=lambda p: (-int(tokens[p]), p)):
        lightest = int(load.argmin())
        bins[lightest].append(prompt)
        load[lightest] += tokens[prompt]
    return bins


@final
class StepSampler(Sampler[list[Micro]]):
    """Yields, for this rank, the micro-batches of each optimizer step of an epoch.

    tokens: size of every prompt (its tokens and its completions'). shuffle: off for validation. `resume` makes the next
    pass begin at a step of an epoch.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        *,
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
        self.tokens, self.prompts_per_step, self.max_tokens = tokens, prompts_per_step, max_tokens
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
                yield cut(prompts.tolist(), self.tokens, self.max_tokens, self.ranks)[self.rank]
