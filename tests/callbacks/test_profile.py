"""`profile=true`: real runs of a few steps whose sections add up, and the work that a cache spares."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from rmlab.build import build
from rmlab.callbacks.clock import ATTENTION, BACKWARD, COMPILED, FROZEN, FUSED, LOADER, MLP, ORDER, OTHER, PLAN, Clock
from rmlab.callbacks.profile import MEASURED, table, useful_work
from rmlab.errors import UsageError
from rmlab.training import run
from tests.composed import composed

WORLD = ("data.prompts=40", "data.val_prompts=4", "data.prompts_per_step=4", "model.shape.hidden_size=32")


def profile(folder: Path, *overrides: str) -> dict[str, Any]:
    with composed(folder, *WORLD, "profile=true", *overrides) as cfg:
        parts = run(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), folder)
    assert parts.module.global_rank == 0
    return json.loads((folder / "profile.json").read_text())


@pytest.mark.parametrize(
    ("overrides", "more", "less"),
    [
        ((), {FUSED}, {FROZEN, COMPILED, ATTENTION}),
        (("model=pythia", "model.random=true"), {ATTENTION, MLP}, {FROZEN, COMPILED, FUSED}),
        (("freeze.ratio=0.66",), {FROZEN, FUSED}, {COMPILED}),
        (("model.gradient_checkpointing=true", "data.max_tokens=auto"), {FUSED}, {FROZEN, COMPILED}),
    ],
    ids=["plain", "by parts", "frozen", "recomputed"],
)
def test_a_profile_names_every_part_once_and_they_add_up(
    overrides: tuple[str, ...], more: set[str], less: set[str], tmp_path: Path
) -> None:
    report = profile(tmp_path, *overrides)
    names = [row["part"] for row in report["parts"]]
    assert names == [name for name in ORDER if name in names]
    assert {LOADER, PLAN, BACKWARD} | more <= set(names)
    assert not less & set(names)
    assert sum(row["share"] for row in report["parts"]) == pytest.approx(1)
    assert all(row["ms"] >= 0 for row in report["parts"])
    assert report["mfu"] == pytest.approx(report["useful_gflops_per_second"] / report["matmul_gflops_per_second"])
    seconds = report["step_ms"] * MEASURED / 1000
    assert report["useful_gflops_per_second"] * seconds == pytest.approx(report["useful_gflops_per_step"] * MEASURED)
    assert table(report).row_count == len(names) + 6
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["config.yaml", "profile.json"]
    assert not (tmp_path / "model").exists()


def test_a_profile_of_a_resumed_run_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.touch()  # what it holds is never looked at
    with pytest.raises(UsageError, match=r"^profile=true measures a run of its own .*; leave ckpt_path out$"):
        profile(tmp_path, f"ckpt_path={checkpoint}")


def test_sections_are_exclusive_and_leave_nothing_out() -> None:
    """A section entered inside another stops its clock; together they are all the time since the beginning."""
    clock = Clock(torch.device("cpu"))
    begin = clock._since
    clock.enter(PLAN)
    clock.enter(ATTENTION)
    clock.leave()
    clock.turn(MLP)
    clock.leave()
    assert set(clock.seconds) == {OTHER, PLAN, ATTENTION, MLP}
    assert sum(clock.seconds.values()) == pytest.approx(clock._since - begin)
    clock.enter(BACKWARD)
    layer = torch.nn.Linear(2, 2)
    clock.watch(layer, FROZEN)
    layer(torch.ones(2))
    assert FROZEN not in clock.seconds  # computed again in the backward pass, whose time it is


def test_what_a_cache_spares_is_no_work(tmp_path: Path) -> None:
    """Two of three layers frozen: a batch that brings their states costs a third of the layers forward, and the head.
    One that brings what the head reads costs the head alone."""
    with composed(tmp_path, *WORLD, "freeze.ratio=0.66") as cfg:
        parts = build(cfg)
    parts.data.setup()
    (batch,) = parts.data.splits["train"][[(0, 1)]].batches
    reads = len(parts.module.loss.positions(batch))
    live = useful_work(parts.module, [batch])
    tail = useful_work(parts.module, [replace(batch, trunk_TD=torch.zeros(batch.tokens, 32))])
    head = useful_work(parts.module, [replace(batch, read_ND=torch.zeros(reads, 32))])
    assert parts.module.backbone.frozen == 2
    assert head.forward == 2 * 32 * reads
    assert tail.forward - head.forward == pytest.approx((live.forward - head.forward) / 3)
    assert tail.backward == live.backward > head.backward
