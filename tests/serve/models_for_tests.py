"""Tiny random models for servers: one that ranks, one that judges steps, one that judges tokens, one that is broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rmlab.export import export
from tests.folders import exported, tiny_module

LINEAR = {"_target_": "rmlab.heads.linear.LinearHead"}
OPTIONS: dict[str, dict[str, Any]] = {
    "bt": {},
    "prm": dict(loss={"_target_": "rmlab.losses.prm.ProcessReward", "rule": "min"}, head=LINEAR),
    "orm": dict(loss={"_target_": "rmlab.losses.orm.OutcomeReward"}),
}


def folder_of(root: Path, name: str) -> Path:
    """Returns the exported folder of a model."""
    return exported(root / name, **OPTIONS[name])


def broken(folder: Path) -> Path:
    """Returns the folder of a model whose every score is not a number."""
    module, encoder, facts = tiny_module()
    export(module, encoder, facts, folder)  # which checks the scores it writes, so they are spoilt afterwards
    for file in folder.glob("*.safetensors"):
        weights = {name: torch.full_like(x, torch.nan) if "norm" in name else x for name, x in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    return folder
