"""The benchmark beside TRL at its smallest: both trainers start from the same loss, and a row has all it should."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "throughput" / "run.py"

pytestmark = pytest.mark.skipif(find_spec("trl") is None, reason="trl is not installed: pip install -e '.[bench]'")


def test_one_row_with_the_same_first_loss(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run itself ends with an error where the first losses differ by more than 1e-4."""
    monkeypatch.setenv("RMLAB_BENCH_DATA", str(shared_data))
    out = tmp_path / "out.json"
    options = ["--json", str(out), "--quick", "--size", "tiny", "--threads", "1", "--only", "full_fp32"]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert report["first_loss"]["trl"] == pytest.approx(report["first_loss"]["rmlab"], abs=1e-4)
    assert report["machine"]["threads"] == 1
    (row,) = report["settings"].values()
    assert set(row) >= {"unit", "trl", "rmlab", "ratio", "goal", "peak_mb", "mfu"}
    assert row["ratio"] == pytest.approx(row["rmlab"][0] / row["trl"][0])
    assert 0 < row["mfu"] < 1
    assert row["peak_mb"]["rmlab"] > 0
