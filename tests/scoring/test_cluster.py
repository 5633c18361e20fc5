"""`rmlab score --engine ray`: a local Ray cluster writes the folder that one process writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rmlab.cli import main
from tests.folders import exported


def arguments(model: Path, source: Path, folder: Path, *options: str) -> list[str]:
    return [
        "score",
        "--model",
        str(model),
        "--input",
        str(source),
        "--output",
        str(folder),
        "--part-rows",
        "8",
        *options,
    ]


def write_rows(path: Path) -> Path:
    rows = [{"prompt": f"Q{i // 3}", "completion": "a" * (i % 11 + 1)} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": 60}]))
    return path


def test_a_ray_cluster_writes_what_one_process_writes(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed; type pip install -c constraints.txt -e '.[ray]'")
    model, source = exported(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert main(arguments(model, source, whole, "--device", "cpu")) == 0
    typed = arguments(model, source, shared, "--engine", "ray", "--workers", "2", "--device", "cpu")
    done = subprocess.run(
        [sys.executable, "-m", "rmlab", *typed],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "120"},
    )
    assert done.returncode == 0, done.stderr
    assert "60 of 61 rows scored, 1 could not be (first: rows.jsonl:61: " in done.stderr
    assert sorted(p.name for p in shared.iterdir()) == sorted(p.name for p in whole.iterdir())
    for path in whole.iterdir():
        assert (shared / path.name).read_bytes() == path.read_bytes()


def test_what_ray_cannot_do_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rows(tmp_path / "rows.jsonl")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(arguments(tmp_path, source, tmp_path / "out", "--engine", "ray")) == 2
    assert "--engine ray needs Ray, which is not installed; type pip install 'rmlab[ray]'" in capsys.readouterr().err
    assert main(arguments(tmp_path, source, tmp_path / "out", "--workers", "2")) == 2
    assert "--workers is for --engine ray; type torchrun" in capsys.readouterr().err
    typed = ["score", "--model", "x", "--input", str(source), "--output", str(tmp_path / "o.jsonl"), "--engine", "ray"]
    assert main(typed) == 2
    assert "--engine needs a folder to write parts to; type --output FOLDER" in capsys.readouterr().err
