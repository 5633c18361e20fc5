"""metrics.json, data.json and the table of a real run."""

import io
import json
from math import nan
from pathlib import Path

import pytest
from rich.console import Console

from rmlab.callbacks.record import RunRecord, account_table, metrics_table
from rmlab.callbacks.throughput import Throughput
from rmlab.data.account import Account
from rmlab.data.source import SetAside
from tests.tiny_run import TinyData, tiny_module, trainer

CONTRACT = [
    "val/accuracy",
    "val/accuracy_low",
    "val/accuracy_high",
    "val/margin",
    "val/ece",
    "val/brier",
    "val/nll",
    "val/n",
    "val/ties",
    "train/loss",
    "train/tokens_per_second",
    "train/pairs_per_second",
    "train/seconds",
    "peak_memory_mb",
    "val/headline",
]


def printed(table: object) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_leaves_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit, module = trainer(tmp_path, [Throughput(), RunRecord()]), tiny_module()
    fit.fit(module, TinyData())
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(CONTRACT) <= set(metrics)
    assert all(value is None or isinstance(value, float) for value in metrics.values())
    exact = module.metrics.compute()
    assert metrics["val/accuracy"] == pytest.approx(exact["accuracy"], abs=1e-7)
    assert metrics["val/accuracy_low"] < metrics["val/accuracy"] < metrics["val/accuracy_high"]
    assert metrics["train/pairs_per_second"] * metrics["train/seconds"] == pytest.approx(96)
    assert metrics["val/n"] == 32
    data = json.loads((tmp_path / "data.json").read_text())
    assert data["train"] == {"read": 96, "used": 96, "set_aside": {}, "first": {}}
    assert data["val"]["read"] == data["val"]["used"] + 1 == 33
    assert data["val"]["set_aside"] == {"over-long": 1}
    shown = capsys.readouterr().out
    assert f"{metrics['val/accuracy_low']:.4f} to {metrics['val/accuracy_high']:.4f}" in shown
    assert "val[1].jsonl:7" in shown


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    module = tiny_module()
    module.on_train_batch_end = lambda *_: module.log("train/odd", nan, batch_size=1)  # type: ignore[method-assign]
    trainer(tmp_path, [RunRecord()]).fit(module, TinyData(steps=2))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["train/odd"] is None
    assert "train/seconds" not in metrics  # nobody measured it


def test_the_account_is_there_even_if_the_first_step_fails(tmp_path: Path) -> None:
    module = tiny_module()

    def fail(*_: object) -> None:
        raise RuntimeError("boom")

    module.training_step = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="boom"):
        trainer(tmp_path, [RunRecord()]).fit(module, TinyData())
    assert (tmp_path / "data.json").exists()
    assert not (tmp_path / "metrics.json").exists()


def test_tables_show_what_there_is() -> None:
    table = printed(metrics_table({"val/auroc": 0.75, "val/auroc_low": 0.7, "val/auroc_high": 0.8, "val/ece": None}))
    assert "AUROC" in table
    assert "0.7000 to 0.8000" in table
    assert "ECE" not in table
    assert "accuracy" not in table
    account = Account()
    account.add_set_aside(SetAside(reason="empty", where="[red]x.jsonl:3"))
    assert "[red]x.jsonl:3" in printed(account_table({"train": account}))  # a file's name is not markup
