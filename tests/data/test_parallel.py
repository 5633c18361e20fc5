"""Encoding in processes: records, accounts and errors of one process, in its order, and nothing left over."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rmlab.data import parallel
from rmlab.data.parallel import encoded
from rmlab.data.source import SetAside
from rmlab.data.synthetic import World
from rmlab.errors import UsageError
from tests.data.sources_for_tests import Item, Memory, encoder, opened, pair


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that a few hundred rows go through every process several times, whether or not it helps."""
    monkeypatch.setattr(parallel, "GAIN", 0.0)
    monkeypatch.setattr(parallel, "BEGINNING", 20)
    monkeypatch.setattr(parallel, "BLOCK", 7)


def rows(count: int) -> list[Item]:
    """Returns rows of which some are bad in every way there is."""
    made: list[Item] = []
    for i in range(count):
        bad = {5: pair("p", good="", row=i), 6: pair("p", good="x" * 99, row=i)}
        made.append(
            SetAside(reason="malformed", where=f"train.jsonl:{i}")
            if i % 9 == 4
            else bad.get(i % 9, pair(f"p{i}", row=i))
        )
    return made


@pytest.mark.parametrize("count", [0, 19, 20, 21, 27, 28, 150])
@pytest.mark.parametrize("processes", [2, 3])
def test_the_outcomes_are_those_of_one_process_in_its_order(count: int, processes: int) -> None:
    """Also where the data ends with the beginning, with a block, or before every process has had one."""
    source = Memory(train=rows(count))
    expected = list(encoded(source, "train", encoder(), processes=1))
    assert len(expected) == count
    assert repr(list(encoded(source, "train", encoder(), processes=processes))) == repr(expected)
    assert multiprocessing.active_children() == []


def test_processes_that_are_started_anew_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems without a fork: source and encoder have to travel. They begin where the constants of a new process
    say, so only the blocks behind that are asked of them."""
    monkeypatch.undo()
    monkeypatch.setattr(parallel, "GAIN", 0.0)
    monkeypatch.setattr(parallel, "METHOD", "spawn")
    source = World(parallel.BEGINNING + 2 * parallel.BLOCK, 1, 2, 2, 0.3, 0.15, 0.25, 1)
    expected = list(encoded(source, "train", encoder(), processes=1))
    assert repr(list(encoded(source, "train", encoder(), processes=2))) == repr(expected)


def test_a_store_is_the_same_however_many_processes_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Memory(train=rows(150))
    stores = []
    for cores in (1, 3):
        monkeypatch.setattr(parallel, "_cores", lambda cores=cores: cores)
        stores.append(opened(source, tmp_path / str(cores)))
    for one, other in zip(*(store.accounts.values() for store in stores), strict=True):
        assert one.to_dict() == other.to_dict()
    files = [sorted(p for p in (tmp_path / str(cores)).rglob("*.arrow")) for cores in (1, 3)]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]
    assert stores[0].fingerprint == stores[1].fingerprint


def test_the_first_bad_row_is_the_error_whichever_process_met_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "_cores", lambda: 3)
    items = [pair(f"p{i}", row=i) for i in range(120)]
    items[60], items[55] = pair("p", good="", row=60), pair("p", good="x" * 99, row=55)
    with pytest.raises(UsageError, match=r"^train\.jsonl:55: over-long; type data\.on_bad_row=skip"):
        opened(Memory(train=items), tmp_path, on_bad_row="error")
    assert multiprocessing.active_children() == []
    assert list((tmp_path / "encoded").iterdir()) == []


class Breaking(Memory):
    """A source that fails, or whose process is killed, at row 60."""

    def __init__(self, how: str, **splits: Any) -> None:
        super().__init__(**splits)
        self.how = how

    def read(self, split: str) -> Iterator[Item]:
        for i, item in enumerate(super().read(split)):
            if i == 60 and self.how == "raise":
                raise UsageError("train.jsonl ends in the middle of a row")
            if i == 60:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [("raise", UsageError, "in the middle"), ("kill", RuntimeError, "ended without a word")],
)
def test_what_goes_wrong_in_a_process_is_raised_here(how: str, error: type[Exception], message: str) -> None:
    source = Breaking(how, train=[pair(f"p{i}", row=i) for i in range(100)])
    taken: list[Any] = []
    with pytest.raises(error, match=message):
        taken.extend(encoded(source, "train", encoder(), processes=2))
    assert 20 <= len(taken) <= 60
    assert multiprocessing.active_children() == []


def write_and_die(cache: Path) -> None:
    class Dying(Memory):
        def read(self, split: str) -> Iterator[Item]:
            yield from list(super().read(split))[:10]
            os.kill(os.getpid(), signal.SIGKILL)

    opened(Dying(train=rows(19)), cache)


def test_what_a_killed_writer_leaves_is_removed_by_the_next_and_a_living_one_is_not_disturbed(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=write_and_die, args=(tmp_path,))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    folder = tmp_path / "encoded"
    assert len([p for p in folder.glob(".writing-*") if p.is_dir()]) == 1

    class Nested(Memory):
        """While it is read, a second store is written beside it."""

        def read(self, split: str) -> Iterator[Item]:
            opened(Memory(train=rows(18)), tmp_path)
            (writing,) = (p for p in folder.glob(".writing-*") if p.is_dir())  # the dead one's is gone, ours is there
            assert (writing / "train.arrow").exists()
            yield from super().read(split)

    opened(Nested(train=rows(19)), tmp_path)
    assert len(list(folder.iterdir())) == 2
    assert not list(folder.glob(".writing-*"))
