"""How much memory this process may still take, and how much a forward pass keeps for its backward pass.

Left out: swap, and what other processes may take later.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import Tensor

# (limit, what is used) of a group of processes, as version 2 and version 1 of the kernel's control groups name them.
GROUP_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
MOUNTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"))


def available_bytes() -> int:
    """Returns the bytes that are free on this machine or, if that is less, under a container's limit."""
    return min([psutil.virtual_memory().available, *_under_limits(_groups())])


def _groups() -> list[Path]:
    """Returns the folders of this process's control groups and of those above them."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return []
    names = {line.split(":", 2)[2].lstrip("/") for line in lines if line.split(":", 2)[1] in ("", "memory")}
    return [folder for mount in MOUNTS for name in names for folder in (mount / name, *(mount / name).parents)]


def _under_limits(folders: list[Path]) -> list[int]:
    left = []
    for folder in folders:
        for limit, used in GROUP_FILES:
            try:
                left.append(int((folder / limit).read_text()) - int((folder / used).read_text()))
            except (OSError, ValueError):  # not this version, or "max": no limit
                continue
    return left


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """Returns the bytes that a computation keeps for its backward pass, each storage counted once; runs it forward."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()  # held, so that no address is given out twice
    del result
    return sum(storages.values())
