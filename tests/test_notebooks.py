"""Every notebook runs from top to bottom in a folder of its own, with this interpreter, and is kept without outputs."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
CELL_SECONDS = 300  # a cell that takes longer hangs


@pytest.fixture(scope="session", autouse=True)
def environment() -> Any:
    """Kernels find the project without its being installed, and run on one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def execute(notebook: Any, folder: Path) -> list[str]:
    """Runs a notebook in a folder. Returns the text of each code cell's outputs, `image/png` for a picture."""
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", resources=where).execute()
    return ["".join(map(said, cell.outputs)) for cell in notebook.cells if cell.cell_type == "code"]


def said(output: Any) -> str:
    data = output.get("data", {})
    return "image/png" if "image/png" in data else str(output.get("text") or data.get("text/plain", ""))


def test_the_kernel_is_this_interpreter(tmp_path: Path) -> None:
    notebook = new_notebook(cells=[new_code_cell("import sys; print(sys.executable)")])
    assert execute(notebook, tmp_path) == [f"{sys.executable}\n"]


@every_notebook
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].cell_type == "markdown"
    for cell in notebook.cells:
        assert not re.search(r"""["'](/|~)""", cell.source)  # a path on somebody's machine
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def check_first(whole: str) -> None:
    """It reaches nine tenths of what is possible, orders the four answers, and picks better the more it may choose."""
    for shown in ("image/png", "train: 6000 rows read, 6000 used", "no padding", "packing: shared"):
        assert shown in whole
    assert float(re.search(r"share reached +([\d.]+)", whole)[1]) > 0.9  # type: ignore[index]
    assert float(re.search(r"ECE ([\d.]+)", whole)[1]) < 0.06  # type: ignore[index]
    scores = [float(s) for s in re.findall(r"^ *([+-][\d.]+)  (?:right|wrong)", whole, re.MULTILINE)]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    picked = [float(x) for x in re.findall(r"^\d +([\d.]+) +[\d.]+$", whole, re.MULTILINE)]
    assert len(picked) == 4
    assert picked == sorted(picked)
    assert picked[3] > picked[0] + 0.3


CHECKS = {"01_first_reward_model": check_first}  # what a notebook tells its reader has to be so


@every_notebook
def test_notebooks_run(path: Path, tmp_path: Path) -> None:
    """No cell fails or prints a warning."""
    whole = "\n".join(execute(nbformat.read(path, as_version=4), tmp_path))
    assert "Warning" not in whole
    CHECKS[path.stem](whole)
