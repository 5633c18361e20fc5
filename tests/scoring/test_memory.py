"""Memory does not grow with the input, measured in a process of its own; and how far a job is can be seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rmlab.scoring.progress import progress
from tests.folders import exported

ROW = '{"prompt": "Q%d", "completion": "%s", "kept": "%s"}\n'
GROWN = """
import resource, sys
from rmlab.cli import main
model, small, large, output = sys.argv[1:]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = main(["score", "--model", model, "--input", small, "--output", output + "/small"]) or peak()
after = main(["score", "--model", model, "--input", large, "--output", output + "/large"]) or peak()
print((after - before) / 1024)
"""


def test_ten_times_the_rows_take_no_more_memory(tmp_path: Path) -> None:
    """2,048 rows and 20,480, 5 kB each: 100 MB on disk, more than twice that as Python objects. The peak grows by less
    than a quarter of the file."""
    model = exported(tmp_path / "model")
    files = {"small": 2048, "large": 20480}
    for name, rows in files.items():
        with (tmp_path / f"{name}.jsonl").open("w") as stream:
            stream.writelines(ROW % (i % 50, "a" * (i % 3 + 1), "x" * 5000) for i in range(rows))
    inputs = [str(tmp_path / f"{name}.jsonl") for name in files]
    command = [sys.executable, "-c", GROWN, str(model), *inputs, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 25


def test_progress_shows_how_many_and_how_long(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """A bar on a terminal, nothing in a log file."""
    for terminal in (False, True):
        monkeypatch.setenv("TTY_COMPATIBLE", str(int(terminal)))
        with progress("scoring", 10) as told:
            told(10)
        shown = capsys.readouterr().err
        assert ("10/10" in shown and "scoring" in shown and "0:00:00" in shown) is terminal
        assert bool(shown) is terminal
