"""What is run together when a model scores: each distinct sequence once, prompts shared, similar lengths side by side.

Neither the order nor the size of batches changes a score; they only decide how fast it comes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from rmlab.batch import Batch
from rmlab.data.pack import pack
from rmlab.data.unjudged import unjudged

Ids = tuple[int, ...]
Job = tuple[Ids, Ids, Ids]  # the ids of a prompt, of a completion, and the last token of each of its steps


def plan(jobs: Iterable[Job], *, share: bool, max_tokens: int) -> Iterator[list[Job]]:
    """Yields the distinct jobs in groups of at most `max_tokens` tokens, the short ones first.

    share: whether a prompt is stored once for its completions. A single job may exceed the limit: it is run alone.
    """
    by_prompt: dict[Ids, list[Job]] = defaultdict(list)
    for job in dict.fromkeys(jobs):
        by_prompt[job[0]].append(job)
    pieces = [piece for group in by_prompt.values() for piece in _pieces(group, max_tokens if share else 0)]
    together: list[Job] = []
    count = 0
    for size, piece in sorted(pieces, key=lambda p: (p[0], len(p[1]))):
        if together and (count + 1) * size > max_tokens:  # `size` is the longest so far: what padding makes of all
            yield together
            together, count = [], 0
        together += piece
        count += 1
    if together:
        yield together


def _pieces(group: Sequence[Job], max_tokens: int) -> Iterator[tuple[int, list[Job]]]:
    """Yields the completions of a prompt in pieces that fit, with their size in tokens."""
    prompt = len(group[0][0])
    piece: list[Job] = []
    size = prompt
    for job in sorted(group, key=lambda j: len(j[1])):
        if piece and size + len(job[1]) > max_tokens:
            yield size, piece
            piece, size = [], prompt
        piece.append(job)
        size += len(job[1])
    yield size, piece


def batch_of(jobs: Iterable[Job], share: bool) -> tuple[list[Job], Batch]:
    """Returns the jobs in the order of the batch's completions, and the batch."""
    by_prompt: dict[Ids, list[Job]] = defaultdict(list)
    for job in jobs:
        by_prompt[job[0]].append(job)
    records = [unjudged(prompt, [j[1] for j in group], [j[2] for j in group]) for prompt, group in by_prompt.items()]
    return [job for group in by_prompt.values() for job in group], pack(records, share=share)
