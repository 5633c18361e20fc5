"""A bar on a terminal, plain lines elsewhere, silence where asked."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from rmlab.callbacks.progress import RunProgress
from rmlab.callbacks.throughput import Throughput
from rmlab.errors import RunError
from tests.tiny_run import TinyData, tiny_module, trainer


def run(folder: Path, progress: RunProgress, *, terminal: bool) -> str:
    output = io.StringIO()
    progress._console = Console(file=output, force_terminal=terminal, width=140)
    trainer(folder, [progress, Throughput()]).fit(tiny_module(), TinyData())
    return output.getvalue()


def test_plain_lines_without_a_terminal(tmp_path: Path) -> None:
    text = run(tmp_path, RunProgress(every_seconds=1e-9), terminal=False)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0].startswith("step 1/12  loss 0.")
    assert "tokens/s" in lines[-1]
    assert "val accuracy 0." in lines[-1]


def test_rare_lines_show_validations_only(tmp_path: Path) -> None:
    lines = run(tmp_path, RunProgress(every_seconds=3600), terminal=False).splitlines()
    assert [line.split()[1] for line in lines] == ["6/12", "12/12"]


def test_silence(tmp_path: Path) -> None:
    assert run(tmp_path, RunProgress(every_seconds=0), terminal=False) == ""


def test_other_ranks_say_nothing(tmp_path: Path) -> None:
    progress = RunProgress(every_seconds=1e-9)
    progress.disable()
    assert run(tmp_path, progress, terminal=False) == ""


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    progress = RunProgress()
    text = run(tmp_path, progress, terminal=True)
    assert "12/12" in text
    assert "loss 0." in text
    assert "tokens/s" in text
    assert "validating" in text
    assert progress._bar is None


def test_the_terminal_is_given_back_after_a_failure(tmp_path: Path) -> None:
    progress, module = RunProgress(), tiny_module()
    progress._console = Console(file=io.StringIO(), force_terminal=True)

    def fail(*_: object) -> None:
        raise RunError("boom")

    module.training_step = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(RunError):
        trainer(tmp_path, [progress]).fit(module, TinyData())
    assert progress._bar is None
