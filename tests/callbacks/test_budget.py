"""`data.max_tokens=auto`: the search against known capacities, and a run that it leaves bit for bit as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hypothesis import given, settings
from hypothesis import strategies as st

from rmlab.build import build
from rmlab.callbacks.budget import FindMaxTokens, _found, by_arithmetic, by_trying, densest
from rmlab.callbacks.memory import _under_limits, available_bytes, saved_bytes
from rmlab.errors import UsageError
from rmlab.training import build_trainer
from tests.composed import SMALL, composed, fit


@settings(deadline=None)
@given(capacity=st.integers(1, 10**6), least=st.integers(1, 10**4), beyond=st.integers(0, 10**6))
def test_the_search_ends_just_below_the_capacity(capacity: int, least: int, beyond: int) -> None:
    tried, most = [], least + beyond

    def fits(tokens: int) -> bool:
        tried.append(tokens)
        return tokens <= capacity

    found = by_trying(fits, least, most)
    reachable = max(least, min(capacity, most))
    assert 0.94 * reachable - 1 <= found <= reachable
    assert found == most or capacity < most
    assert least <= min(tried, default=least) <= max(tried, default=least) <= most
    assert len(tried) <= 30


@settings(deadline=None)
@given(fixed=st.integers(0, 10**6), each=st.integers(1, 10**5), room=st.integers(0, 10**9), least=st.integers(1, 5000))
def test_arithmetic_fills_the_room_exactly_where_memory_is_a_line(fixed: int, each: int, room: int, least: int) -> None:
    found = by_arithmetic(lambda tokens: fixed + each * tokens, room, least, most=16_384)
    inside = min(max((room - fixed) // each, least), 16_384)
    assert abs(found - inside) <= 1


def test_a_step_that_is_small_is_not_measured() -> None:
    assert by_arithmetic(lambda tokens: pytest.fail("measured"), 0, least=10, most=900) == 900


def test_what_is_kept_is_counted_once() -> None:
    """exp keeps its result, 400 bytes; x * y keeps both, and x twice is still one: 400 + 400 + 400."""
    x, y = torch.ones(100, requires_grad=True), torch.ones(100, requires_grad=True)
    assert saved_bytes(lambda: x.exp()) == 400
    assert saved_bytes(lambda: (x * y) * x) == 400 + 400 + 400


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    """Version 2, version 1 and one without a limit: 70, 30 and nothing."""
    for name, files in {
        "a": {"memory.max": "100", "memory.current": "30"},
        "b": {"memory.limit_in_bytes": "50\n", "memory.usage_in_bytes": "20\n"},
        "c": {"memory.max": "max", "memory.current": "30"},
    }.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    assert _under_limits([tmp_path / name for name in "abcd"]) == [70, 30]
    assert 0 < available_bytes() < 2**50


TWO_EPOCHS = ("model.dropout=0.1", "data.prompts=24", "data.prompts_per_step=8")


def test_a_run_that_finds_it_ends_on_the_weights_of_one_that_was_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With dropout, so that a single number drawn by the search would show; the found number is told to the other."""
    with composed(tmp_path, *SMALL, *TWO_EPOCHS, "data.max_tokens=auto") as cfg:
        auto, callback = build(cfg), FindMaxTokens()
    losses = fit(auto, steps=3, callbacks=[callback])
    found = callback.max_tokens
    prompts = auto.data.splits["train"]
    assert found == auto.data.max_tokens == int(np.sort(prompts.tokens)[-8:].sum())  # a whole step fits
    assert f"data.max_tokens=auto: {found:,} tokens in a micro-batch" in capsys.readouterr().out
    with composed(tmp_path, *SMALL, *TWO_EPOCHS, f"data.max_tokens={found}") as cfg:
        told = build(cfg)
    assert fit(told, steps=3) == losses
    for name, weights in told.module.state_dict().items():
        assert torch.equal(weights, auto.module.state_dict()[name]), name
    assert all(densest(prompts, n) for n in (1, 100))
    for n in (int(prompts.tokens.max()), 300):
        assert prompts.tokens[list(densest(prompts, n))].sum() <= n


def test_a_device_of_another_kind_is_searched_like_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step this small is not measured, so that nothing has to be on the device named: Apple's, here."""
    with composed(tmp_path, *SMALL, "data.max_tokens=auto") as cfg:
        parts, trainer = build(cfg), build_trainer(cfg, tmp_path)
    parts.data.setup()
    on_cpu = _found(trainer, parts.module, parts.data)
    monkeypatch.setattr(parts.module, "_device", torch.device("mps"))
    assert _found(trainer, parts.module, parts.data) == on_cpu > 0


def test_a_resumed_run_keeps_its_number(tmp_path: Path) -> None:
    with composed(tmp_path, *SMALL, "data.max_tokens=auto") as cfg:
        parts, callback = build(cfg), FindMaxTokens()
    callback.load_state_dict({"max_tokens": 333})
    fit(parts, steps=1, callbacks=[callback])
    assert parts.data.max_tokens == 333
    assert callback.state_dict() == {"max_tokens": 333}


def test_the_word_is_understood_where_it_is_typed(tmp_path: Path) -> None:
    with composed(tmp_path, *SMALL, "data.max_tokens=auto") as cfg:
        assert any(isinstance(c, FindMaxTokens) for c in build_trainer(cfg, tmp_path).callbacks)
        data = build(cfg).data
    data.setup()
    with pytest.raises(UsageError, match=r"type data\.max_tokens=16384"):
        data.train_dataloader()
    with (
        composed(tmp_path, "data.max_tokens=many") as cfg,
        pytest.raises(InstantiationException, match=r"data\.max_tokens is many, expected a whole number or auto"),
    ):
        build(cfg)
