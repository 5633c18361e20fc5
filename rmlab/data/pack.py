"""Encoded records -> `Batch`: every token once, a prompt followed by each of its completions.

Records with the same prompt become one group, and a completion that occurs twice with the same facts is stored once,
so TRL-style pairs that share a prompt or an answer cost what a K-wise list costs. What all completions of a prompt
begin with is stored once too, behind the prompt. With `share=False` every completion carries its own copy of both: what
bidirectional encoders need, where a prompt's states depend on its completion.

Left out: what only some completions of a prompt begin with. A tree below the opening would cost every loss its simple
layout, and sampled answers that part after it seldom meet again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rmlab.batch import Batch
from rmlab.data.flat import Flat

Record = Mapping[str, Any]  # one encoded example, see rmlab/data/tokenize.py


class _Facts(NamedTuple):
    """One completion of a record, its columns in the singular."""

    completion_ids: Sequence[int]
    outcome: float
    answer: str
    gold: float
    step_end: Sequence[int]
    step_label: Sequence[int]
    attributes: Sequence[float]


@dataclass(slots=True)
class _Group:
    prompt_ids: Sequence[int]
    number: int
    source: str
    id: str
    completions: dict[tuple[Any, ...], int] = field(default_factory=dict)  # identity -> slot
    facts: list[_Facts] = field(default_factory=list)
    rankings: list[tuple[list[int], Sequence[float], float, float]] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Adds a record's completions (each once) and its rankings, renumbered to this group's slots."""
        slots = []
        for facts in map(_Facts._make, zip(*(record[name] for name in _Facts._fields), strict=True)):
            key = (bytes(np.asarray(facts.completion_ids, np.int64)), *map(repr, facts[1:]))
            if key not in self.completions:
                self.completions[key] = len(self.facts)
                self.facts.append(facts)
            slots.append(self.completions[key])
        for order, grades, probability, weight in zip(
            record["order"], record["grades"], record["probability"], record["weight"], strict=True
        ):
            self.rankings.append(([slots[i] for i in order], grades, probability, weight))

    def answers(self) -> list[int]:
        """Returns for each completion the first slot with the same final answer, -1 where none is known."""
        given = [facts.answer for facts in self.facts]
        return [given.index(answer) if answer else -1 for answer in given]


def _grouped(records: Sequence[Record], numbers: Sequence[int]) -> list[_Group]:
    groups: dict[bytes, _Group] = {}
    for record, number in zip(records, numbers, strict=True):
        key = bytes(np.asarray(record["prompt_ids"], np.int64))
        if key not in groups:
            groups[key] = _Group(record["prompt_ids"], number, record["source"], record["id"])
        groups[key].add(record)
    return list(groups.values())


def _lay_out(groups: Sequence[_Group], share: bool, ghost_id: int | None) -> Flat:
    flat = Flat()
    put = flat.put_shared if share else flat.put_apart
    for group in groups:
        completions = [facts.completion_ids for facts in group.facts]
        longest = max(map(len, completions))
        ghosts = [0 if ghost_id is None else longest - len(ids) for ids in completions]
        put(group.prompt_ids, completions, [facts.step_end for facts in group.facts], ghosts, ghost_id or 0)
    return flat


def _rankings(groups: Sequence[_Group]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first = np.cumsum([0] + [len(g.facts) for g in groups])
    rows = [(int(f), *r) for f, g in zip(first, groups, strict=False) for r in g.rankings]
    k = max((len(order) for _, order, *_ in rows), default=2)
    order_RK = torch.full((len(rows), k), -1, dtype=torch.long)
    grade_RK = torch.full((len(rows), k), float("nan"))
    for r, (offset, order, grades, _, _) in enumerate(rows):
        order_RK[r, : len(order)] = torch.tensor(order) + offset
        if len(grades):
            grade_RK[r, : len(order)] = torch.tensor(grades, dtype=torch.float)
    probability = torch.tensor([float(row[3]) for row in rows])
    return order_RK, grade_RK, probability, torch.tensor([float(row[4]) for row in rows])


def _whole(numbers: Iterable[int]) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.long)  # a rank may be handed no prompt at all


def pack(
    records: Sequence[Record],
    *,
    share: bool = True,
    ghost_id: int | None = None,
    numbers: Sequence[int] | None = None,
    sources: Mapping[str, int] | None = None,
) -> Batch:
    """Returns the batch of some encoded records.

    share: a prompt's tokens once, or once per completion. ghost_id: a token id with which every completion is
    continued to the length of the longest of its prompt, invisible to all (what trlX reads past a shorter end).
    numbers: each record's prompt number in its split (default: its place). sources: name -> number.
    """
    groups = _grouped(records, range(len(records)) if numbers is None else numbers)
    flat = _lay_out(groups, share, ghost_id)
    token_T, position_T, until_T = flat.tensors()
    facts = [f for g in groups for f in g.facts]
    order_RK, grade_RK, probability_R, weight_R = _rankings(groups)
    width = max((len(f.attributes) for f in facts), default=0)
    attribute = [list(f.attributes) + [float("nan")] * (width - len(f.attributes)) for f in facts]
    return Batch(
        token_T=token_T,
        position_T=position_T,
        until_T=until_T,
        start_S=_whole(flat.start),
        own_S=_whole(flat.own),
        end_S=_whole(flat.end),
        group_S=_whole(i for i, g in enumerate(groups) for _ in g.facts),
        slot_S=_whole(slot for g in groups for slot in range(len(g.facts))),
        outcome_S=torch.tensor([f.outcome for f in facts], dtype=torch.float),
        answer_S=_whole(slot for g in groups for slot in g.answers()),
        gold_S=torch.tensor([f.gold for f in facts], dtype=torch.float),
        attribute_SA=torch.tensor(attribute, dtype=torch.float).reshape(len(facts), width),
        end_M=_whole(flat.step_end),
        segment_M=_whole(s for s, f in enumerate(facts) for _ in f.step_end),
        label_M=_whole(label for f in facts for label in f.step_label),
        order_RK=order_RK,
        grade_RK=grade_RK,
        probability_R=probability_R,
        weight_R=weight_R,
        source_G=_whole((sources or {}).get(g.source, 0) for g in groups),
        prompt_G=_whole(g.number for g in groups),
        ids=tuple(g.id for g in groups),
        completion_tokens=sum(len(f.completion_ids) for f in facts),
    )
