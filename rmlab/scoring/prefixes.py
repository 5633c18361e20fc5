"""Whole sequences as jobs: what several of them begin with is computed once.

For texts that come as prompt and completion in one piece, such as the generations of one prompt in RL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

from rmlab.scoring.batches import Ids, Job

KEPT = 2  # tokens at the end that stay a sequence's own: a score is read at the last of them or at the one before


def shared_prefixes(sequences: Iterable[Ids], *, share: bool) -> Iterator[tuple[Ids, Job]]:
    """Yields each distinct sequence with its job, cut where it parts from its neighbours in lexical order.

    Neighbours are put together where they share at least half of the first one. share: `RewardModel.shares_prompts`;
    a model that computes every sequence whole gets it whole: some read from where a completion begins.
    """
    if not share:
        yield from ((ids, ((), ids, ())) for ids in dict.fromkeys(sequences))
        return
    group: list[Ids] = []
    for ids in sorted(set(sequences)):
        if group and _common(group[0], ids) < (len(group[0]) + 1) // 2:
            yield from _cut(group)
            group = []
        group.append(ids)
    yield from _cut(group)


def _cut(group: Sequence[Ids]) -> Iterator[tuple[Ids, Job]]:
    if not group:
        return
    shortest = min(map(len, group))
    at = max(0, min(_common(group[0], group[-1]), shortest - KEPT))  # sorted: what the extremes share, all share
    for ids in group:
        yield ids, (ids[:at], ids[at:], ())


def _common(a: Ids, b: Ids) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
