"""What a worker asks the machine: the time when all work is done, the most memory that was taken, what it is."""

from __future__ import annotations

import os
import platform
import resource
import time
from typing import Any


def synchronized() -> float:
    """Returns the time in seconds, once a GPU (if one is used) has done what it was given."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_mb(device: str) -> float:
    """Returns the most memory (2**20 bytes) taken so far: of the GPU, or of the process."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def facts(device: str, threads: int) -> dict[str, Any]:
    """Returns what the numbers were measured on and with."""
    from importlib.metadata import version

    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else _cpu()
    packages = {package: version(package) for package in ("torch", "transformers", "trl", "lightning")}
    return {"device": name, "threads": threads, "cores": os.cpu_count(), "load": os.getloadavg()[0]} | packages


def _cpu() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.processor()
