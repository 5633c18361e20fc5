"""States on disk: computed once, then shared by later epochs, later runs and all jobs of a sweep.

An entry is a folder named by a hash of everything that decides what is in it. It is written under a temporary name,
flushed and renamed, so one that has its name is whole; whoever opens it compares every file's checksum with the list
inside and a sample of the states with its own, and what differs is computed again. Jobs that start together wait for
the one that computes. All entries together keep within a budget: those unused for longest go first.

Left out: entries that grow or are mended in part. Whatever changes, all states of an entry change with it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from filelock import FileLock, Timeout

from rmlab.errors import RunError, UsageError
from rmlab.model.disk import digest_of_file, digest_of_text, flush, last_used, size_of
from rmlab.model.states import Kept, Prompts, States, Work

FORMAT = 1  # raise it when what entries hold changes its meaning
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LIST = "entry.json"
GB = 10**9

Right = Callable[[Mapping[str, States]], bool]


@final
class DiskCache:
    """Keeps states in `folder`/trunk.

    max_gb: the most that all entries may take, in GB of 10^9 bytes. dtype: what a state is stored as, `fp32` (exact) or
    `bf16` (half the size). Raises `UsageError` for values that cannot be.
    """

    def __init__(self, folder: str | Path, max_gb: float = 50.0, dtype: str = "fp32") -> None:
        if dtype not in DTYPES:
            raise UsageError(f"cache.dtype={dtype} does not exist; type cache.dtype={' or cache.dtype='.join(DTYPES)}")
        if not max_gb > 0:
            raise UsageError(f"cache.max_gb is {max_gb}, expected more than 0; type cache=null to keep nothing")
        self.folder, self.max_bytes, self.dtype = Path(folder).expanduser() / "trunk", int(max_gb * GB), dtype

    def open(
        self, key: Mapping[str, Any], splits: Mapping[str, Prompts], kept: Kept, right: Right
    ) -> dict[str, States]:
        """Returns the states of every split: read, if they are there and whole, or else computed first.

        key: whatever decides what they are, ready for JSON. right: whether states that were read equal this run's own
        in a sample. Raises `UsageError` if they need more than the budget or the disk has, if the folder cannot be
        written, or if the model gives other states every time; `RunError` if writing fails.
        """
        text = json.dumps({**key, "format": FORMAT, "dtype": self.dtype, "field": kept.field}, sort_keys=True)
        entry = self.folder / digest_of_text(text)
        states = self._read(entry, text, kept, right)
        if states is None:
            with self._alone(entry):
                states = self._read(entry, text, kept, right)  # another job may have been faster
                if states is None:
                    self._write(entry, text, splits, kept)
                    states = self._read(entry, text, kept, right)
        if states is None:
            raise UsageError(
                "cache=disk cannot serve this model, whose frozen layers give other states every time; type cache=null"
            )
        with suppress(OSError):  # it may belong to someone else
            os.utime(entry)
        return states

    def _read(self, entry: Path, key: str, kept: Kept, right: Right) -> dict[str, States] | None:
        """Returns the states of an entry, or None unless every byte is what was written for this key."""
        try:
            listed = json.loads((entry / LIST).read_text())
            if listed["key"] != key or any(digest_of_file(entry / n) != told for n, told in listed["files"].items()):
                return None
            states = {split: self._mapped(entry, split, rows, kept) for split, rows in listed["rows"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return states if right(states) else None

    def _mapped(self, entry: Path, split: str, rows: int, kept: Kept) -> States:
        size, dtype = rows * kept.width, DTYPES[self.dtype]
        table = torch.from_file(str(entry / f"{split}.states"), shared=False, size=size, dtype=dtype)
        return States(kept.field, table.view(rows, kept.width), np.load(entry / f"{split}.npy"))

    @contextmanager
    def _alone(self, entry: Path) -> Iterator[None]:
        """Waits until no other job writes the entry. A job that dies lets go."""
        lock = FileLock(entry.with_suffix(".lock"))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                print("trunk cache: waiting for the job that computes it", flush=True)
                lock.acquire()
        except OSError as error:
            raise UsageError(
                f"cache_dir={self.folder.parent} cannot be written ({error.strerror}); type cache_dir=FOLDER of "
                "another, or cache=null"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _write(self, entry: Path, key: str, splits: Mapping[str, Prompts], kept: Kept) -> None:
        works = {split: Work(prompts, kept) for split, prompts in splits.items()}
        width, dtype = kept.width, DTYPES[self.dtype]
        size = {split: work.rows * width * dtype.itemsize for split, work in works.items()}
        writing, began = entry.with_suffix(".writing"), time.monotonic()
        for left in (entry, writing):  # damaged or stale; and of a job that died
            shutil.rmtree(left, ignore_errors=True)
        try:
            self._reserve(writing, size)
            rows, total = sum(work.rows for work in works.values()), sum(size.values())
            print(f"trunk cache: computing {rows:,} states of {width} x {self.dtype}, {_gb(total)}, into {entry}")
            for split, work in works.items():
                np.save(writing / f"{split}.npy", work.write(writing / f"{split}.states", dtype))
            files = {path.name: digest_of_file(path) for path in sorted(writing.iterdir())}
            listed = {"key": key, "rows": {split: work.rows for split, work in works.items()}, "files": files}
            (writing / LIST).write_text(json.dumps(listed))
            flush(writing)
            os.rename(writing, entry)
            flush(self.folder)
        except OSError as error:
            raise RunError(f"{writing}: the states could not be written ({error.strerror or error})") from error
        finally:
            shutil.rmtree(writing, ignore_errors=True)
        print(f"trunk cache: computed in {time.monotonic() - began:.1f} s", flush=True)

    def _reserve(self, writing: Path, size: Mapping[str, int]) -> None:
        """Makes room and files of these sizes, so that jobs that write other entries at the same time count them."""
        with FileLock(self.folder / "budget.lock"):
            self._make_room(sum(size.values()))
            writing.mkdir()
            for split, count in size.items():
                with (writing / f"{split}.states").open("wb") as file:
                    file.truncate(count)

    def _make_room(self, size: int) -> None:
        """Removes what dead jobs left, and the entries unused for longest until `size` bytes more are in the budget.

        Raises `UsageError` if they never are or if the disk has less.
        """
        if size > self.max_bytes:
            half = " or cache.dtype=bf16" if self.dtype == "fp32" and size <= 2 * self.max_bytes else ""
            raise UsageError(
                f"cache=disk needs {_gb(size)}, more than cache.max_gb={self.max_bytes / GB:g}; type "
                f"cache.max_gb={-(-size * 100 // GB) / 100:g}{half}, or cache=null"
            )
        entries = sorted((path for path in self.folder.iterdir() if path.is_dir()), key=last_used)
        taken = {path: size_of(path) for path in entries if not _left_by_the_dead(path)}
        for path in [path for path in taken if not path.suffix]:
            if sum(taken.values()) + size > self.max_bytes:
                shutil.rmtree(path, ignore_errors=True)
                del taken[path]
        if sum(taken.values()) + size > self.max_bytes:
            raise UsageError(
                f"cache=disk needs {_gb(size)}, and jobs that run now are writing so much else that it would be more "
                f"than cache.max_gb={self.max_bytes / GB:g}; type a larger cache.max_gb, or start it after them"
            )
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise UsageError(
                f"cache=disk needs {_gb(size)}, but {self.folder} has {_gb(free)} left; type cache_dir=FOLDER on "
                "another disk, or cache=null"
            )


def _left_by_the_dead(path: Path) -> bool:
    """Removes a folder that nobody writes any more, and returns whether it was one."""
    if path.suffix != ".writing":
        return False
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0):
            shutil.rmtree(path, ignore_errors=True)
            return True
    except Timeout:
        return False


def _gb(size: int) -> str:
    return f"{size / GB:.3g} GB"
