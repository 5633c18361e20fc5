"""`PreferenceDataModule`: examples from any source, encoded once, batched by prompt.

Rows with the same prompt are one unit: they are never split over optimizer steps or micro-batches, and they stand on
one side of the train/validation border. Left out: shuffling of rows; only prompts are shuffled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, final

import lightning as L
import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rmlab.batch import Example
from rmlab.data.account import Account
from rmlab.data.files import PreferenceFiles
from rmlab.data.pack import pack
from rmlab.data.sampler import StepSampler
from rmlab.data.source import SetAside, Source
from rmlab.data.steps import FACTS, PromptSet, StepLoader, facts_of
from rmlab.data.store import OnBadRow, open_store
from rmlab.data.synthetic import World
from rmlab.data.tokenize import Encoder
from rmlab.errors import UsageError


@final
class PreferenceDataModule(L.LightningDataModule):
    """Turns a source into optimizer steps.

    source: where examples come from. tokenizer: of the backbone. check: `Loss.check`, why an example cannot be used.
    share_prompts: `Backbone.shares_prompts`. ghosts: `Loss.ghosts`. pair_cost: what a (query, key) pair of attention
    costs, in tokens; micro-batches are balanced by it. prompts_per_step: prompts an optimizer step.
    max_tokens: tokens a micro-batch (a memory limit; changes no result), `auto` if `limit_tokens` will say. max_length:
    tokens of a prompt with one completion. overlong: `drop` such examples or `truncate` the prompt's start.
    val_fraction: share of prompts held out where the source has no validation split. seed: order of prompts. workers:
    see `ahead`.

    Raises `UsageError` where no usable row is left.
    """

    def __init__(
        self,
        source: Source,
        *,
        tokenizer: PreTrainedTokenizerBase,
        check: Callable[[Example], str | None],
        share_prompts: bool,
        seed: int,
        ghosts: bool = False,
        pair_cost: float = 0.0,
        prompts_per_step: int = 32,
        val_prompts_per_step: int = 64,
        max_tokens: int | Literal["auto"] = 16384,
        max_length: int = 512,
        overlong: Literal["drop", "truncate"] = "drop",
        on_bad_row: OnBadRow = "skip",
        val_fraction: float = 0.1,
        chat_template: str | None = None,
        cache_dir: str | Path = "~/.cache/rmlab",
        workers: int | None = None,
    ) -> None:
        super().__init__()
        if on_bad_row not in ("skip", "error"):
            raise UsageError(f"data.on_bad_row={on_bad_row} does not exist; type skip or error")
        if not 0 < val_fraction < 1:
            raise UsageError(f"data.val_fraction is {val_fraction}, expected a number between 0 and 1")
        if workers is not None and (not isinstance(workers, int) or workers < 0):
            raise UsageError(f"data.workers is {workers}, expected 0 or more, or null")
        for name, count in (("prompts_per_step", prompts_per_step), ("val_prompts_per_step", val_prompts_per_step)):
            if count < 1:
                raise UsageError(f"data.{name} is {count}, expected 1 or more")
        self.source, self.tokenizer, self.check = source, tokenizer, check
        self.encoder = Encoder(tokenizer, max_length=max_length, overlong=overlong, chat_template=chat_template)
        # trlX's pad token is its end marker, and its loss reads on past the shorter end
        self.share, self.ghost_id, self.seed = share_prompts, self.encoder.suffix[-1] if ghosts else None, seed
        self.per_step = {"train": prompts_per_step, "val": val_prompts_per_step}
        if not isinstance(max_tokens, int) and max_tokens != "auto":
            raise UsageError(f"data.max_tokens is {max_tokens}, expected a whole number or auto")
        self.max_tokens = None if max_tokens == "auto" else max_tokens
        self.on_bad_row, self.val_fraction = on_bad_row, val_fraction
        self.cache_dir, self.workers, self.pair_cost = cache_dir, workers, pair_cost
        self.splits: dict[str, PromptSet] = {}
        self._accounts: dict[str, Account] = {}
        self.fingerprint = ""  # of the encoded records, known after setup
        self.sources: list[str] = []

    def setup(self, stage: str | None = None) -> None:
        """Opens (or writes) the encoded records and sets aside what the loss cannot use."""
        if self.splits:
            return
        store = open_store(
            self.source,
            self.encoder,
            cache_dir=self.cache_dir,
            val_fraction=self.val_fraction,
            on_bad_row=self.on_bad_row,
        )
        self._accounts, self.fingerprint = store.accounts, store.fingerprint
        for split, records in store.records.items():
            rows = self._usable(records, store.accounts[split])
            self._require(split, rows, store.accounts[split])
            self.splits[split] = PromptSet(records, rows, share=self.share, ghost_id=self.ghost_id)
        names = {name for records in store.records.values() for name in records.unique("source")}
        self.sources = sorted(names)
        for prompts in self.splits.values():
            prompts.sources = {name: i for i, name in enumerate(self.sources)}
        if self.max_tokens is not None:
            self.limit_tokens(self.max_tokens)

    def limit_tokens(self, max_tokens: int) -> None:
        """Sets the largest micro-batch. Raises `UsageError` if a prompt is larger."""
        for prompts in self.splits.values():
            self._fit(prompts, max_tokens)
        self.max_tokens = max_tokens

    def _usable(self, records: Dataset, account: Account) -> np.ndarray:
        kept = []
        for i, row in enumerate(records.select_columns(FACTS)):
            reason = self.check(facts_of(row))
            if reason is None:
                kept.append(i)
                continue
            if self.on_bad_row == "error":
                raise UsageError(f"{row['id']}: {reason}; type data.on_bad_row=skip to set such rows aside")
            account.move_aside(SetAside(reason=reason, where=row["id"]))
        return np.asarray(kept, dtype=np.int64)

    def _require(self, split: str, rows: np.ndarray, account: Account) -> None:
        if len(rows):
            return
        reasons = "; ".join(f"{n} x {why} (first {account.first[why]})" for why, n in account.set_aside.items())
        hint = "give data.val=FILE or a larger data.val_fraction" if split == "val" and not reasons else "see data.path"
        raise UsageError(f"no usable row in the {split} data: read {account.read}, {reasons or 'no rows'}; {hint}")

    def _fit(self, prompts: PromptSet, max_tokens: int) -> None:
        largest = int(prompts.tokens.argmax())
        if prompts.tokens[largest] > max_tokens:
            where = prompts.records[int(prompts.rows_of(largest)[0])]["id"]
            raise UsageError(
                f"the prompt of {where} has {prompts.tokens[largest]} tokens with its completions, more than "
                f"data.max_tokens={max_tokens}; type data.max_tokens={prompts.tokens[largest]} or a smaller "
                "data.max_length"
            )

    def _loader(self, split: str) -> StepLoader:
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        if self.max_tokens is None:
            raise UsageError("data.max_tokens=auto is found by a training run; type data.max_tokens=16384")
        prompts = self.splits[split]
        sampler = StepSampler(
            prompts.tokens,
            cost=prompts.tokens + self.pair_cost * prompts.pairs,
            prompts_per_step=self.per_step[split],
            max_tokens=self.max_tokens,
            seed=self.seed,
            shuffle=split == "train",
            rank=rank,
            ranks=ranks,
        )
        device = self.trainer.strategy.root_device.type if self.trainer else "cpu"
        return StepLoader(prompts, sampler, **ahead(self.workers, device))

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps in one pass over the training prompts; known after `setup`."""
        return -(-len(self.splits["train"]) // self.per_step["train"])

    def train_dataloader(self) -> StepLoader:
        """Returns the optimizer steps of an epoch, shuffled by prompt."""
        return self._loader("train")

    def val_dataloader(self) -> StepLoader:
        """Returns the validation prompts in reading order."""
        return self._loader("val")

    def accounts(self) -> dict[str, Account]:
        """Returns the account of the rows of each split: read = used + set aside."""
        return self._accounts

    def texts(self, prompt: int) -> tuple[str, list[str]]:
        """Returns the text of a validation prompt and of its completions in slot order (`Batch.slot_S`)."""
        split = self.splits["val"]
        rows = split.records.__getitems__(split.rows_of(prompt).tolist())
        batch = pack(rows, share=False)
        ids = batch.token_T
        spans = zip(batch.start_S.tolist(), batch.end_S.tolist(), strict=True)
        answers = [str(self.tokenizer.decode(ids[a : b + 1])) for a, b in spans]
        return str(self.tokenizer.decode(rows[0]["prompt_ids"])), answers


def ahead(workers: int | None, device: str) -> dict[str, Any]:
    """Returns the options of a loader that prepares steps ahead in `workers` processes.

    None: two where a GPU would wait for them, and none on a CPU, where they would take the cores that train.
    Page-locked memory lets a GPU fetch a step while it computes another.
    """
    count = workers if workers is not None else 2 if device == "cuda" else 0
    return {"num_workers": count, "persistent_workers": count > 0, "pin_memory": device == "cuda"}


def from_files(
    path: str | None,
    *,
    format: str = "auto",
    subset: str | None = None,
    train: str | None = None,
    val: str | None = None,
    columns: Mapping[str, str] | None = None,
    **options: Any,
) -> PreferenceDataModule:
    """Returns the data module of files, a folder or a hub data set; `options` as of `PreferenceDataModule`."""
    source = PreferenceFiles(path, format=format, subset=subset, train=train, val=val, columns=columns)
    return PreferenceDataModule(source, **options)


def from_world(
    *,
    prompts: int,
    val_prompts: int,
    completions: int,
    length: int,
    noise: float,
    neutral: float,
    temperature: float,
    world_seed: int,
    **options: Any,
) -> PreferenceDataModule:
    """Returns the data module of a generated world; the named arguments as of `World`, `options` as of
    `PreferenceDataModule`."""
    world = World(prompts, val_prompts, completions, length, noise, neutral, temperature, world_seed)
    return PreferenceDataModule(world, **options)
