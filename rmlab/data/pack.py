"""Encoded records -> `Batch`: every token once, a prompt followed by each of its completions.

Records with the same prompt become one group, and a completion that occurs twice with the same facts is stored once,
so TRL-style pairs that share a prompt or an answer cost what a K-wise list costs. With `share=False` every completion
carries its own copy of the prompt: what bidirectional encoders need, where a prompt's states depend on its completion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmlab.batch import Batch

Record = Mapping[str, Any]  # one encoded example, see rmlab/data/tokenize.py


@dataclass(slots=True)
class _Group:
    prompt_ids: Sequence[int]
    number: int
    source: str
    id: str
    completions: dict[tuple[Any, ...], int] = field(default_factory=dict)  # identity -> slot
    facts: list[tuple[Sequence[int], float, float, Sequence[int], Sequence[int], Sequence[float]]] = field(
        default_factory=list
    )
    rankings: list[tuple[list[int], Sequence[float], float, float]] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Adds a record's completions (each once) and its rankings, renumbered to this group's slots."""
        columns = ("completion_ids", "outcome", "gold", "step_end", "step_label", "attributes")
        slots = []
        for facts in zip(*(record[name] for name in columns), strict=True):
            key = (bytes(np.asarray(facts[0], np.int64)), *map(repr, facts[1:]))
            if key not in self.completions:
                self.completions[key] = len(self.facts)
                self.facts.append(facts)
            slots.append(self.completions[key])
        for order, grades, probability, weight in zip(
            record["order"], record["grades"], record["probability"], record["weight"], strict=True
        ):
            self.rankings.append(([slots[i] for i in order], grades, probability, weight))


def _grouped(records: Sequence[Record], numbers: Sequence[int]) -> list[_Group]:
    groups: dict[bytes, _Group] = {}
    for record, number in zip(records, numbers, strict=True):
        key = bytes(np.asarray(record["prompt_ids"], np.int64))
        if key not in groups:
            groups[key] = _Group(record["prompt_ids"], number, record["source"], record["id"])
        groups[key].add(record)
    return list(groups.values())


@dataclass(slots=True)
class _Tokens:
    """The flat token axis under construction."""

    ids: list[np.ndarray] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)
    until: list[np.ndarray] = field(default_factory=list)
    size: int = 0

    def put(self, ids: Sequence[int], position: int, until: int) -> None:
        n = len(ids)
        self.ids.append(np.asarray(ids, np.int64))
        self.positions.append(np.arange(position, position + n))
        self.until.append(np.full(n, until, np.int64))
        self.size += n

    def put_ghosts(self, count: int, token: int, position: int) -> None:
        """Adds tokens nobody sees, not even they themselves; they see their own sequence."""
        self.put([token] * count, position, 0)
        self.until[-1] = np.arange(self.size - count, self.size)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        columns = (self.ids, self.positions, self.until)
        a, b, c = (torch.from_numpy(np.concatenate([np.empty(0, np.int64), *x])) for x in columns)
        return a, b, c


def _lay_out(groups: Sequence[_Group], share: bool, ghost_id: int | None) -> tuple[_Tokens, list[int], list[int]]:
    """Returns the token axis and each completion's first and last flat index."""
    tokens, start, end = _Tokens(), [], []
    for group in groups:
        lengths = [len(ids) for ids, *_ in group.facts]
        ghosts = [max(lengths) - n if ghost_id is not None else 0 for n in lengths]
        prompt = len(group.prompt_ids)
        if share:
            tokens.put(group.prompt_ids, 0, tokens.size + prompt + sum(lengths) + sum(ghosts))
        for (ids, *_), ghost in zip(group.facts, ghosts, strict=True):
            n = len(ids)
            if not share:
                tokens.put(group.prompt_ids, 0, tokens.size + prompt + n + ghost)
            start.append(tokens.size)
            tokens.put(ids, prompt, tokens.size + n + ghost)
            end.append(tokens.size - 1)
            if ghost and ghost_id is not None:
                tokens.put_ghosts(ghost, ghost_id, prompt + n)
    return tokens, start, end


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
    tokens, start, end = _lay_out(groups, share, ghost_id)
    token_T, position_T, until_T = tokens.tensors()
    facts = [f for g in groups for f in g.facts]
    steps = [(start[s] + e, s, label) for s, f in enumerate(facts) for e, label in zip(f[3], f[4], strict=True)]
    step_M3 = torch.tensor(steps, dtype=torch.long).reshape(-1, 3)
    order_RK, grade_RK, probability_R, weight_R = _rankings(groups)
    width = max((len(f[5]) for f in facts), default=0)
    attribute = [list(f[5]) + [float("nan")] * (width - len(f[5])) for f in facts]
    return Batch(
        token_T=token_T,
        position_T=position_T,
        until_T=until_T,
        start_S=_whole(start),
        end_S=_whole(end),
        group_S=_whole(i for i, g in enumerate(groups) for _ in g.facts),
        slot_S=_whole(slot for g in groups for slot in range(len(g.facts))),
        outcome_S=torch.tensor([float(f[1]) for f in facts]),
        gold_S=torch.tensor([float(f[2]) for f in facts]),
        attribute_SA=torch.tensor(attribute, dtype=torch.float).reshape(len(facts), width),
        end_M=step_M3[:, 0],
        segment_M=step_M3[:, 1],
        label_M=step_M3[:, 2],
        order_RK=order_RK,
        grade_RK=grade_RK,
        probability_R=probability_R,
        weight_R=weight_R,
        source_G=_whole((sources or {}).get(g.source, 0) for g in groups),
        prompt_G=_whole(g.number for g in groups),
        ids=tuple(g.id for g in groups),
    )
