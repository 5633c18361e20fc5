"""The weight files of a folder that came from anywhere: safetensors, or pickles of which only tensors are read."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from rmlab.scoring.parts import explained

PATTERNS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin", "*.pt")
SUFFIXES = (".bin", ".pt")  # read with weights_only


def weight_files(path: Path) -> list[Path]:
    """Returns the weight files of a folder, or the file itself if it is one."""
    if path.is_file():
        return [path] if path.suffix in (*SUFFIXES, ".safetensors") else []
    names = [p for pattern in PATTERNS for p in sorted(path.glob(pattern))]
    # A folder that holds the same weights twice is read once.
    kind = names[0].suffix if names else ""
    return [p for p in names if p.suffix == kind]


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every weight; of safetensors, the tensors themselves are not read."""
    return {name: shape for file in weight_files(path) for name, shape in _shapes(file).items()}


def read_weights(file: Path) -> dict[str, Tensor]:
    """Returns the tensors of a file. Raises `UsageError` if it is none of weights."""
    if file.suffix == ".safetensors":
        return explained(str(file), lambda: load_file(file))
    # Only tensors are unpickled; mmap leaves them on disk until they are used.
    found = explained(str(file), lambda: torch.load(file, map_location="cpu", weights_only=True, mmap=True))
    return {name: t for name, t in found.items() if isinstance(t, Tensor)} if isinstance(found, dict) else {}


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    if file.suffix == ".safetensors":
        return explained(str(file), lambda: _header(file))
    return {name: tuple(tensor.shape) for name, tensor in read_weights(file).items()}


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(file, framework="pt") as stream:
        return {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
