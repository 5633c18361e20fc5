"""The stateful shell: gathers one row per fact over batches and ranks, and hands them on as one record in one order.

Sums per batch would be smaller, but AUROC, intervals over prompts and the report all need the rows. They are sorted by
content before anything is computed, so the number of ranks and the order of batches change no digit.

Rows are computed with on the CPU in float64; until then whole numbers travel as int64 and reals as float32 (which is
what models give, and all that some accelerators have).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, replace
from math import nan
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from rmlab.batch import Batch, Judgements
from rmlab.errors import RunError

Row = TypeVar("Row", bound=Any)  # a frozen dataclass of tensors [N]


class RowMetric(Metric, ABC, Generic[Row]):
    """A metric whose state is rows. `sources` names the sources for numbers per source; none are given without it.

    A subclass calls `_append` in `update` and `_gathered` in `compute`, which returns every key it ever has, with nan
    for what the data does not define.
    """

    full_state_update = False
    whole_NC: list[Tensor]
    real_NC: list[Tensor]

    def __init__(self, record: type[Row], whole: Sequence[str], sources: Sequence[str] = ()) -> None:
        super().__init__()
        self.record = record
        self.whole = tuple(whole)
        self.real = tuple(f.name for f in fields(record) if f.name not in whole)
        self.sources = tuple(sources)
        self._last: Row | None = None
        self.add_state("whole_NC", [], dist_reduce_fx="cat")
        self.add_state("real_NC", [], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forgets the rows. A rank without data must still take part in the gathering with tensors of the right kind:
        torchmetrics would send a one-dimensional float for it, whatever the other ranks send."""
        super().reset()
        self.whole_NC.append(torch.empty(0, len(self.whole), dtype=torch.int64, device=self.device))
        self.real_NC.append(torch.empty(0, len(self.real), dtype=torch.float32, device=self.device))

    def _append(self, rows: Row) -> None:
        whole = [getattr(rows, name).detach().long() for name in self.whole]
        real = [getattr(rows, name).detach().float() for name in self.real]
        self.whole_NC.append(torch.stack(whole, dim=1))
        self.real_NC.append(torch.stack(real, dim=1))

    def _gathered(self) -> Row:
        """Returns the rows of all ranks, sorted by the whole columns and then by the real ones."""
        whole, real = dim_zero_cat(self.whole_NC).cpu(), dim_zero_cat(self.real_NC).cpu()
        keys = [*reversed(real.numpy().T), *reversed(whole.numpy().T)]  # lexsort's first key is its last
        order = torch.from_numpy(np.lexsort(keys))
        columns = dict(zip(self.whole, whole[order].T.contiguous(), strict=True))
        columns |= dict(zip(self.real, real[order].T.double().contiguous(), strict=True))
        rows: Row = self.record(**columns)
        self._last = rows
        return rows

    def rows(self) -> Row:
        """Returns the rows the last `compute` used, over all ranks; `reset` keeps them. Raises `RunError` before it."""
        if self._last is None:
            raise RunError(f"{type(self).__name__} has no rows yet: its compute() has not run, so validate first")
        return self._last


class JudgementMetric(RowMetric[Judgements], ABC):
    """A metric over `Judgements`, which `rows()` gives back gathered: float64 and int64 on the CPU, every field filled.

    A field that the loss left empty is filled with -1 (whole numbers) or nan.
    """

    WHOLE: ClassVar = ("group_J", "source_J", "slot_J", "second_J", "step_J", "label_J", "predicted_J")

    def __init__(self, sources: Sequence[str] = ()) -> None:
        super().__init__(Judgements, self.WHOLE, sources)

    @abstractmethod
    def update(self, judged: Judgements, score_S: Tensor, batch: Batch) -> None:
        """Takes one batch."""

    def _add(self, judged: Judgements) -> None:
        length = len(judged.group_J)
        absent = [f.name for f in fields(judged) if len(getattr(judged, f.name)) != length]
        blank = {name: judged.margin_J.new_full((length,), -1 if name in self.WHOLE else nan) for name in absent}
        self._append(replace(judged, **blank))


def certain_where_gold(judged: Judgements, batch: Batch) -> Judgements:
    """Returns outcome or step judgements with `gold_J` set: in a generated world the labels follow from the text.

    So the true probability is the label itself wherever the batch carries true rewards, and nan elsewhere.
    """
    known = bool(batch.gold_S.isfinite().all())
    return replace(judged, gold_J=judged.outcome_J if known else torch.full_like(judged.outcome_J, nan))


def select(rows: Row, chosen_N: Tensor) -> Row:
    """Returns the chosen rows (a mask or indices) of a record."""
    chosen: Row = replace(rows, **{f.name: getattr(rows, f.name)[chosen_N] for f in fields(rows)})
    return chosen


def per_source(
    rows: Row,
    source_N: Tensor,
    sources: Sequence[str],
    summarise: Callable[[Row], dict[str, float]],
    keys: Collection[str],
) -> dict[str, float]:
    """Returns the numbers over all rows and, where there are two sources or more, `KEY/SOURCE` for `keys` of each."""
    numbers = summarise(rows)
    for index, source in enumerate(sources if len(sources) > 1 else ()):
        part = summarise(select(rows, source_N == index))
        numbers |= {f"{key}/{source}": part[key] for key in keys}
    return numbers


def with_interval(*names: str) -> tuple[str, ...]:
    """Returns each name with the names of its interval's ends."""
    return tuple(f"{name}{end}" for name in names for end in ("", "_low", "_high"))
