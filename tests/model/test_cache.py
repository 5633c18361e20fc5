"""States on disk: whole or computed again, within a budget, one computation however many jobs.

The model is a table look-up (token and position), so what every row must be is known without a backbone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rmlab.batch import Batch
from rmlab.data.pack import pack
from rmlab.errors import RunError, UsageError
from rmlab.model.cache import GB, LIST, DiskCache
from rmlab.model.states import Kept, States, rows_of
from tests.worlds import random_records

WIDTH = 4


class Records:
    """Prompts of two records each, which share the prompt."""

    def __init__(self, seed: int, count: int, **packing: Any) -> None:
        self.count, self.packing = count, packing
        records = random_records(seed, count)
        self.units = [
            (r, s | {"prompt_ids": r["prompt_ids"]})
            for r, s in zip(records, random_records(seed + 1, count), strict=True)
        ]

    def __len__(self) -> int:
        return self.count

    def batch(self, prompts: Sequence[int]) -> Batch:
        """Returns the batch of some prompts."""
        rows = [record for p in prompts for record in self.units[p]]
        return pack(rows, numbers=[p for p in prompts for _ in range(2)], **self.packing)


def look_up(batch: Batch) -> Tensor:
    """Returns states [T, 4] that differ from token to token."""
    token, position = batch.token_T.float(), batch.position_T.float()
    return torch.stack([token, position, token * position, torch.sin(token)], 1)


def every_token(batch: Batch) -> Tensor:
    return torch.arange(batch.tokens)


def kept(states: Callable[[Batch], Tensor] = look_up) -> Kept:
    return Kept(field="trunk_TD", width=WIDTH, places=every_token, states=states, max_tokens=120)


SPLITS = {"train": Records(1, 20), "val": Records(50, 3)}
ROWS = {split: SPLITS[split].batch(range(len(SPLITS[split]))).tokens for split in SPLITS}
SIZE = sum(ROWS.values()) * WIDTH * 4


def always(found: Mapping[str, States]) -> bool:
    return True


def fill(folder: Path, key: str = "a", right: Any = always, **options: Any) -> tuple[dict[str, States], int]:
    """Opens the cache. Returns the states and how many micro-batches were computed for it."""
    computed: list[int] = []

    def states(batch: Batch) -> Tensor:
        assert batch.tokens <= 120 or batch.prompt_G.numel() == 1
        computed.append(batch.tokens)
        return look_up(batch)

    found = DiskCache(folder, **options).open({"key": key}, SPLITS, kept(states), right)
    return found, len(computed)


def whole(found: Mapping[str, States]) -> bool:
    """Returns whether every state of every prompt is what the look-up gives."""
    return all(
        torch.equal(found[split].of([p]), look_up(prompts.batch([p])))
        for split, prompts in SPLITS.items()
        for p in range(len(prompts))
    )


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "trunk").iterdir() if path.is_dir())


# --- what is kept


def test_states_are_computed_once_and_read_ever_after(tmp_path: Path) -> None:
    first, computed = fill(tmp_path)
    assert whole(first)
    assert computed < len(SPLITS["train"]) + len(SPLITS["val"])  # in micro-batches of several prompts
    again, none = fill(tmp_path)
    assert whole(again)
    assert none == 0
    (entry,) = entries(tmp_path)
    assert sum(path.stat().st_size for path in entry.glob("*.states")) == SIZE


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, States]:
    return fill(tmp_path_factory.mktemp("stored"))[0]


@given(st.permutations(range(20)), st.integers(0, 20))
def test_any_prompts_in_any_order_bring_their_states(stored: dict[str, States], order: list[int], count: int) -> None:
    batch = SPLITS["train"].batch(order[:count])
    found = stored["train"].into(batch, order[:count])
    assert torch.equal(found.trunk_TD, look_up(batch))
    assert found.token_T is batch.token_T


@pytest.mark.parametrize("packing", [dict(share=True), dict(share=False), dict(share=True, ghost_id=7)], ids=str)
def test_rows_are_counted_by_prompt(packing: dict[str, Any]) -> None:
    """Against each prompt in a batch of its own: all tokens, and what is read at the ends."""
    records = Records(3, 5, **packing)
    batch = records.batch(range(5))
    alone = [records.batch([p]) for p in range(5)]
    assert rows_of(batch, torch.arange(batch.tokens)) == [one.tokens for one in alone]
    assert rows_of(batch, batch.end_S) == [one.end_S.numel() for one in alone]
    assert rows_of(batch, batch.end_M) == [one.end_M.numel() for one in alone]


def test_rows_that_are_not_by_prompt_are_refused() -> None:
    batch = SPLITS["val"].batch(range(3))
    with pytest.raises(ValueError, match="do not stand together"):
        rows_of(batch, batch.end_S.flip(0))


def test_bf16_takes_half_and_rounds(tmp_path: Path) -> None:
    found, _ = fill(tmp_path, dtype="bf16")
    batch = SPLITS["train"].batch([4, 9])
    assert torch.equal(found["train"].of([4, 9]), look_up(batch).bfloat16())
    (entry,) = entries(tmp_path)
    assert sum(path.stat().st_size for path in entry.glob("*.states")) == SIZE // 2
    assert fill(tmp_path)[1] > 0  # fp32 is another entry
    assert len(entries(tmp_path)) == 2


# --- damage


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 16)


@pytest.mark.parametrize("damage", [flipped, shortened, lengthened, Path.unlink])
@pytest.mark.parametrize("name", ["train.states", "val.states", "train.npy", LIST])
def test_a_damaged_file_is_noticed_and_computed_again(
    damage: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    fill(tmp_path)
    (entry,) = entries(tmp_path)
    damage(entry / name)
    found, computed = fill(tmp_path)
    assert computed > 0
    assert whole(found)
    assert fill(tmp_path)[1] == 0


def test_an_entry_without_a_list_is_none(tmp_path: Path) -> None:
    """What a job that renamed too early would leave."""
    fill(tmp_path)
    (entry,) = entries(tmp_path)
    (entry / LIST).write_text("{}")
    assert fill(tmp_path)[1] > 0


def test_states_that_are_not_this_runs_are_computed_again(tmp_path: Path) -> None:
    fill(tmp_path)
    stale = [True, True]  # as read before and behind the lock
    found, computed = fill(tmp_path, right=lambda states: not (stale and stale.pop()))
    assert computed > 0
    assert whole(found)


def test_a_model_that_never_gives_the_same_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"give other states every time; type cache=null"):
        fill(tmp_path, right=lambda states: False)


# --- budget and disk


def test_more_than_the_budget_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"needs .* GB, more than cache\.max_gb=.*; type cache\.max_gb=0.01") as caught:
        fill(tmp_path, max_gb=(SIZE - 1) / GB)
    assert "cache.dtype=bf16" in str(caught.value)
    with pytest.raises(UsageError) as caught:
        fill(tmp_path, max_gb=(SIZE - 1) / GB / 4)
    assert "cache.dtype=bf16" not in str(caught.value)  # half would still be too much
    assert entries(tmp_path) == []
    assert capsys.readouterr().out == ""
    assert fill(tmp_path, max_gb=SIZE / GB)[1] > 0
    assert f"computing {sum(ROWS.values()):,} states of 4 x fp32" in capsys.readouterr().out


def test_entries_unused_for_longest_make_room(tmp_path: Path) -> None:
    """A budget of two entries and a half: with a third, the one opened least recently goes."""
    budget = dict(max_gb=2.5 * SIZE / GB + 1e-5)  # the lists and spans are a few kB
    for age, key in enumerate("ab"):
        before = set(entries(tmp_path)) if age else set()
        fill(tmp_path, key, **budget)
        (entry,) = set(entries(tmp_path)) - before
        os.utime(entry, (age + 1, age + 1))  # long ago
    assert fill(tmp_path, "a", **budget)[1] == 0  # used just now
    fill(tmp_path, "c", **budget)
    assert len(entries(tmp_path)) == 2
    assert fill(tmp_path, "a", **budget)[1] == 0
    assert fill(tmp_path, "c", **budget)[1] == 0
    assert fill(tmp_path, "b", **budget)[1] > 0


def test_a_full_disk_is_named_and_nothing_stays(tmp_path: Path) -> None:
    def fails(batch: Batch) -> Tensor:
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"could not be written \(No space left on device\)"):
        DiskCache(tmp_path).open({"key": "a"}, SPLITS, kept(fails), always)
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(dtype="fp16"), r"cache\.dtype=fp16 does not exist; type cache\.dtype=fp32 or cache\.dtype=bf16"),
        (dict(max_gb=0), r"cache\.max_gb is 0, expected more than 0"),
    ],
)
def test_values_that_cannot_be_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        DiskCache(tmp_path, **options)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cache_dir=.*file cannot be written .*type cache_dir=FOLDER of another"):
        fill(tmp_path / "file")


# --- several jobs


def count_slowly(log: Path, batch: Batch) -> Tensor:
    with log.open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.02)
    return look_up(batch)


def wait_to_be_killed(log: Path, batch: Batch) -> Tensor:
    log.touch()
    signal.pause()
    raise AssertionError("went on after a signal")


def job(folder: Path, states: Callable[[Batch], Tensor], barrier: Any) -> None:
    barrier.wait()
    found = DiskCache(folder).open({"key": "a"}, SPLITS, kept(states), always)
    os._exit(0 if whole(found) else 3)


def test_jobs_that_start_together_compute_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, log = context.Barrier(3), tmp_path / "log"
    states = partial(count_slowly, log)
    jobs = [context.Process(target=job, args=(tmp_path, states, barrier)) for _ in range(3)]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join(60)
    assert [one.exitcode for one in jobs] == [0, 0, 0]
    assert len(set(log.read_text().split())) == 1
    assert len(entries(tmp_path)) == 1


def test_what_a_killed_job_left_is_removed(tmp_path: Path) -> None:
    """Killed while it writes; then the same key, and another one, find nothing of it in their way."""
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    for key in ("a", "b"):
        log.unlink(missing_ok=True)
        one = context.Process(target=job, args=(tmp_path, partial(wait_to_be_killed, log), context.Barrier(1)))
        one.start()
        while not log.is_file():
            assert one.is_alive()
            time.sleep(0.005)
        os.kill(one.pid or 0, signal.SIGKILL)
        one.join()
        (left,) = entries(tmp_path)
        assert left.suffix == ".writing"
        found, computed = fill(tmp_path, key)
        assert computed > 0
        assert whole(found)
        (entry,) = entries(tmp_path)
        assert not entry.suffix
        for path in entry.iterdir():
            path.unlink()
        entry.rmdir()
