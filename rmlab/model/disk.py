"""Files that others rely on: checksums, sizes, and waiting until a disk has them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
import xxhash
from torch import Tensor

CHUNK = 1 << 24  # bytes read at once


def digest_of_file(path: Path) -> str:
    """Returns a hash of a file's bytes."""
    total = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            total.update(chunk)
    return total.hexdigest()


def digest_of_text(text: str) -> str:
    """Returns a hash of a text."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Returns a hash of named tensors: names, types, shapes and every byte."""
    total = xxhash.xxh3_128()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def flush(folder: Path) -> None:
    """Waits until the disk has a folder and the files directly in it."""
    for path in (*(p for p in folder.iterdir() if p.is_file()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def size_of(folder: Path) -> int:
    """Returns the bytes of the files in a folder; one that disappears meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def last_used(path: Path) -> float:
    """Returns when a folder was last touched, in seconds since 1970; 0 if it has disappeared."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
