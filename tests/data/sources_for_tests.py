"""Sources held in memory, and what it takes to open one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmlab.batch import Completion, Example, Ranking
from rmlab.data.datamodule import PreferenceDataModule
from rmlab.data.source import SetAside
from rmlab.data.store import Store, open_store
from rmlab.data.tokenize import Encoder
from rmlab.model.builtin import byte_tokenizer

Item = Example | SetAside


class Memory:
    """A source of given items, which counts how often it is read."""

    def __init__(self, **splits: Sequence[Item]) -> None:
        self.items: Mapping[str, Sequence[Item]] = splits
        self.reads = 0

    def splits(self) -> tuple[str, ...]:
        return tuple(self.items)

    def fingerprint(self) -> str:
        return repr(self.items)

    def read(self, split: str) -> Iterator[Item]:
        self.reads += 1
        yield from self.items[split]


def pair(prompt: str, good: str = "good", bad: str = "bad", row: int = 0, source: str = "file") -> Example:
    """Returns a pair that stands in row `row` of the file train.jsonl."""
    return Example(
        prompt=prompt,
        completions=(Completion(text=good), Completion(text=bad)),
        rankings=(Ranking(order=(0, 1)),),
        source=source,
        id=f"train.jsonl:{row}",
    )


def encoder(**options: Any) -> Encoder:
    return Encoder(byte_tokenizer(), **({"max_length": 60, "overlong": "drop"} | options))


def opened(source: Any, cache: Path, **options: Any) -> Store:
    made = {"encoder": encoder(), "val_fraction": 0.3, "on_bad_row": "skip"} | options
    return open_store(source, cache_dir=cache, **made)


def data_module(source: Any, cache: Path, **options: Any) -> PreferenceDataModule:
    """Returns a data module that has been set up."""
    made = dict(
        tokenizer=byte_tokenizer(),
        check=lambda example: None,
        share_prompts=True,
        seed=1,
        val_fraction=0.3,
        prompts_per_step=4,
        max_tokens=100_000,
    )
    data = PreferenceDataModule(source, cache_dir=cache, **(made | options))
    data.setup()
    return data
