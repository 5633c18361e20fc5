"""Two real processes train as one does, also where a step has fewer prompts than there are ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

SMALL = [
    "data.prompts=9",  # 4 + 4 + 1: in the last step one rank has nothing
    "data.val_prompts=5",  # and so in validation
    "data.prompts_per_step=4",
    "data.val_prompts_per_step=4",
    "data.max_tokens=400",
    "model.shape.num_hidden_layers=2",
    "trainer.max_epochs=2",
    "trainer.val_check_interval=1.0",
    "callbacks=null",
    "logger=null",
]


def trained(folder: Path, *options: str) -> dict[str, torch.Tensor]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RMLAB_CACHE": str(folder / "cache")}
    command = [sys.executable, "train.py", *SMALL, *options, f"hydra.run.dir={folder / 'run'}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "run" / "model" / "model.safetensors")


def test_two_processes_end_on_the_weights_of_one(tmp_path: Path) -> None:
    """Six steps of AdamW in fp32: sums in another order differ in the last digit, and Adam divides by small numbers."""
    one = trained(tmp_path / "one")
    two = trained(tmp_path / "two", "strategy=ddp", "strategy.accelerator=cpu", "strategy.devices=2")
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-5, rtol=1e-5)
