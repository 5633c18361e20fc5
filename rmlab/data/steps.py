"""One split as optimizer steps: prompts addressed by number, and the loader that knows how far it has come.

Rows with the same prompt are one unit, wherever in the data they stand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, final

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from rmlab.batch import Batch, Completion, Example, Ranking, Step, StepOfBatches
from rmlab.data.pack import pack
from rmlab.data.sampler import Micro, StepSampler

FACTS = ["outcome", "gold", "step_end", "step_label", "attributes", "order", "grades", "probability", "weight", "id"]


def facts_of(row: Mapping[str, Any]) -> Example:
    """Returns what was judged in an encoded record as an `Example` without its texts, for `Loss.check`."""
    completions = tuple(
        Completion(
            text="",
            outcome=outcome,
            gold=gold,
            steps=tuple(Step(end=e, label=label) for e, label in zip(ends, labels, strict=True)),
            attributes=tuple(attributes),
        )
        for outcome, gold, ends, labels, attributes in zip(
            *(row[c] for c in ("outcome", "gold", "step_end", "step_label", "attributes")), strict=True
        )
    )
    rankings = tuple(
        Ranking(order=tuple(order), grades=tuple(grades), probability=p, weight=w)
        for order, grades, p, w in zip(*(row[c] for c in ("order", "grades", "probability", "weight")), strict=True)
    )
    return Example(prompt="", completions=completions, rankings=rankings, id=row["id"])


class Precomputed(Protocol):
    """What was computed before for every prompt of a split, like the states behind a frozen trunk."""

    def into(self, batch: Batch, prompts: Sequence[int]) -> Batch:
        """Returns the batch of these prompts with it."""


def completion_lengths(records: Dataset) -> np.ndarray:
    """Returns the tokens of each completion of all records, in order."""
    lengths = [pc.list_value_length(pc.list_flatten(chunk)) for chunk in records.data.column("completion_ids").chunks]
    return np.concatenate([np.empty(0), *(x.to_numpy(zero_copy_only=False) for x in lengths)])


def longest_of_prompt(length_S: np.ndarray, unit_S: np.ndarray) -> np.ndarray:
    """Returns for each completion the length of the longest of its prompt `unit_S`: ghosts continue it to there."""
    longest = np.zeros(unit_S.max() + 1)
    np.maximum.at(longest, unit_S, length_S)
    return longest[unit_S]


def visible_pairs(length_S: np.ndarray, prompt_S: np.ndarray, share: bool) -> np.ndarray:
    """Returns how many (query, key) pairs attention computes for each completion, given its and its prompt's length.

    shared: a completion's tokens see the prompt and what stands before them; else every token of a sequence counts with
    every other, as an encoder computes it. The prompt's own pairs are not in it where it is shared.
    """
    return length_S * (prompt_S + (length_S + 1) / 2) if share else (prompt_S + length_S) ** 2


@final
class PromptSet(TorchDataset[StepOfBatches]):
    """One split, addressed by prompt: rows with the same prompt are one unit, in the order they were first read.

    `tokens` and `pairs` hold every prompt's size and the (query, key) pairs of its attention, completions and ghosts
    included; equal completions and openings that are stored once make what is packed smaller, never larger.
    `precomputed`, if it is set, goes into the steps.
    """

    def __init__(self, records: Dataset, rows: np.ndarray, *, share: bool, ghost_id: int | None) -> None:
        self.records, self.share, self.ghost_id = records, share, ghost_id
        self.sources: dict[str, int] = {}
        self.precomputed: Precomputed | None = None
        columns = records.select_columns(["prompt_hash", "prompt_tokens", "completions"])
        table = columns.with_format("numpy")[:]
        _, first, unit = np.unique(table["prompt_hash"][rows], return_index=True, return_inverse=True)
        unit = np.argsort(np.argsort(first))[unit]  # number the units by first appearance
        order = np.argsort(unit, kind="stable")
        self.rows = rows[order]
        self.offsets = np.r_[0, np.cumsum(np.bincount(unit, minlength=len(first)))]
        unit_R = np.full(len(records), len(first))  # records that are not in use make one more, left out at the end
        unit_R[rows] = unit
        tokens, pairs = self._completion_sizes(table, unit_R)
        prompt = table["prompt_tokens"][rows[np.sort(first)]].astype(float) if share else np.zeros(len(first))
        self.tokens = (tokens[: len(first)] + prompt).astype(np.int64)
        self.pairs = pairs[: len(first)] + prompt * (prompt + 1) / 2

    def _completion_sizes(self, table: Mapping[str, np.ndarray], unit_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the tokens and pairs of each prompt's completions. unit_R: the prompt of each record."""
        record_S = np.repeat(np.arange(len(unit_R)), table["completions"])
        prompt_S, unit_S = table["prompt_tokens"][record_S].astype(float), unit_R[record_S]
        length_S = completion_lengths(self.records)
        if self.ghost_id is not None:
            length_S = longest_of_prompt(length_S, unit_S)
        tokens_S = length_S if self.share else prompt_S + length_S  # shared: once, however many rows the prompt has
        pairs_S = visible_pairs(length_S, prompt_S, self.share)
        return np.bincount(unit_S, weights=tokens_S), np.bincount(unit_S, weights=pairs_S)

    def __len__(self) -> int:
        return len(self.tokens)

    def rows_of(self, prompt: int) -> np.ndarray:
        """Returns the record numbers of a prompt."""
        return self.rows[self.offsets[prompt] : self.offsets[prompt + 1]]

    def __getitem__(self, micros: list[Micro]) -> StepOfBatches:
        """Returns the optimizer step made of these micro-batches."""
        batches = [self.batch(micro) for micro in micros]
        if self.precomputed is not None:
            batches = [self.precomputed.into(batch, micro) for batch, micro in zip(batches, micros, strict=True)]
        return StepOfBatches(batches=tuple(batches))

    def fingerprint(self) -> str:
        """Returns a hash of which records make which prompt, and of how they are packed."""
        whole = hashlib.sha256(f"{self.share} {self.ghost_id}".encode())
        for part in (self.rows, self.offsets):
            whole.update(part.astype(np.int64).tobytes())
        return whole.hexdigest()[:24]

    def batch(self, prompts: Sequence[int]) -> Batch:
        """Returns the batch of some prompts, without what was computed before."""
        rows = [self.rows_of(p) for p in prompts]
        numbers = [p for p, r in zip(prompts, rows, strict=True) for _ in r]
        records = self.records.__getitems__(np.concatenate(rows).tolist() if rows else [])
        return pack(records, share=self.share, ghost_id=self.ghost_id, numbers=numbers, sources=self.sources)


@final
class StepLoader(DataLoader[StepOfBatches]):
    """A DataLoader of optimizer steps that knows where it is, so that a run resumes in the middle of an epoch."""

    def __init__(self, dataset: PromptSet, sampler: StepSampler, **options: Any) -> None:
        super().__init__(dataset, batch_size=None, sampler=sampler, **options)  # type: ignore[arg-type]
        self._steps, self._done = sampler, 0

    def __iter__(self) -> Iterator[StepOfBatches]:  # type: ignore[override]
        self._done = self._steps._skip
        for step in super().__iter__():
            self._done += 1
            yield step

    def state_dict(self) -> dict[str, int]:
        """Returns epoch and steps handed out; Lightning stores it in the checkpoint."""
        return {"epoch": self._steps.epoch, "step": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues after the steps already handed out."""
        finished = state["step"] >= len(self)
        self._steps.resume(state["epoch"] + finished, 0 if finished else state["step"])
