"""`rmlab score --output FOLDER`: every row once and in order, whoever is killed, however many do it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rmlab import RewardModel
from rmlab.cli import main
from rmlab.data.rows import RawRow, read_rows
from rmlab.scoring.bulk import work as bulk
from tests.folders import exported

ROWS = 100
PARTS = 13  # of 8 rows each


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("models") / "bt")


def row(number: int) -> dict[str, Any]:
    """Rows of every kind, one in twenty of them bad."""
    if number % 20 == 7:
        return {"id": number, "prompt": f"Q{number}"}
    if number % 5 == 1:
        return {"id": number, "prompt": f"Q{number}", "completions": ["yes", "no" * (number % 7 + 1)]}
    return {"id": number, "prompt": f"Q{number // 3}", "completion": "a" * (number % 11 + 1), "grade": number / 2}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same rows as JSON Lines, as Parquet in row groups that are not parts, and as a folder of two files."""
    root = tmp_path_factory.mktemp("rows")
    rows = [row(number) for number in range(ROWS)]
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    columns = {name: [given.get(name) for given in rows] for name in (*rows[0], "completions")}
    pq.write_table(pa.table(columns), root / "rows.parquet", row_group_size=13)
    (root / "folder").mkdir()
    (root / "folder" / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:37]))
    (root / "folder" / "b.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[37:]))
    return {"jsonl": root / "rows.jsonl", "parquet": root / "rows.parquet", "folder": root / "folder"}


def arguments(model: Path, source: Path, folder: Path, *options: str) -> list[str]:
    wanted = ["--model", str(model), "--input", str(source), "--output", str(folder), "--part-rows", "8"]
    return ["score", *wanted, *options]


def read(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder).to_pylist()
    return found


@pytest.fixture(scope="module")
def expected(model: Path) -> list[dict[str, Any]]:
    """What every way of doing it must give, from one call of `RewardModel.score` per row."""
    reward = RewardModel.load(model, device="cpu")
    found = []
    for given in (row(number) for number in range(ROWS)):
        gained: dict[str, Any] = {"score": None, "scores": None, "ranks": None, "error": None}
        if "completion" in given:
            gained["score"] = reward.score([given["prompt"]], [given["completion"]])[0]
        elif "completions" in given:
            gained["scores"] = reward.score([given["prompt"]], [given["completions"]])[0]
            gained["ranks"] = [1, 2] if gained["scores"][0] > gained["scores"][1] else [2, 1]
        else:
            gained["error"] = "expected the columns prompt and steps or chosen and rejected or"
        found.append({"completion": None, "completions": None, "grade": None} | given | gained)
    return found


def check(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [r["id"] for r in found] == list(range(ROWS))
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert (one["error"] or "")[:60].startswith((other["error"] or "")[:60])
        kept = [name for name in one if name not in ("score", "scores", "error")]
        assert {name: one[name] for name in kept} == {name: other[name] for name in kept}
        assert one["score"] == (None if other["score"] is None else pytest.approx(other["score"], abs=1e-5))
        assert one["scores"] == (None if other["scores"] is None else pytest.approx(other["scores"], abs=1e-5))


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "folder"])
def test_a_folder_holds_every_row_once_in_order(
    kind: str,
    model: Path,
    inputs: dict[str, Path],
    expected: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "new" / "scores"
    assert main(arguments(model, inputs[kind], folder)) == 0
    check(read(folder), expected)
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["_SUCCESS", "_job.json", *(f"part-{i:06d}.parquet" for i in range(PARTS))]
    assert capsys.readouterr().err.startswith("95 of 100 rows scored, 5 could not be (first: ")
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("part-*")}
    assert main(arguments(model, inputs[kind], folder)) == 0  # all is there: nothing is scored again
    assert {p.name: p.stat().st_mtime_ns for p in folder.glob("part-*")} == before


def command(*given: str) -> list[str]:
    return [sys.executable, "-m", "rmlab", *given]


def test_killed_at_any_moment_and_run_again(model: Path, inputs: dict[str, Path], tmp_path: Path) -> None:
    """A real process, killed with SIGKILL as soon as one part is there, then six; what is there is never
    touched again, and the end is, byte for byte, what an undisturbed run writes."""
    folder, whole = tmp_path / "scores", tmp_path / "whole"
    assert main(arguments(model, inputs["jsonl"], whole)) == 0
    kept: dict[str, int] = {}
    for parts in (1, 6):
        process = subprocess.Popen(command(*arguments(model, inputs["jsonl"], folder)), stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(folder.glob("part-*"))) < parts:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        there = {p.name: p.stat().st_mtime_ns for p in folder.glob("part-*")}
        assert len(there) >= parts
        assert kept.items() <= there.items()
        kept = there
        if len(there) < PARTS:
            assert not (folder / "_SUCCESS").exists()
    (folder / ".part-000003.parquet.somewhere-1.writing").write_bytes(b"left by a killed process")
    assert main(arguments(model, inputs["jsonl"], folder)) == 0
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in whole.iterdir())
    for path in whole.glob("part-*"):
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_two_processes_of_torchrun_write_what_one_writes(model: Path, inputs: dict[str, Path], tmp_path: Path) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert main(arguments(model, inputs["parquet"], whole)) == 0
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rmlab"]
    done = subprocess.run(
        [*run, *arguments(model, inputs["parquet"], shared)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "95 of 100 rows scored" in done.stderr
    for path in whole.iterdir():
        assert (shared / path.name).read_bytes() == path.read_bytes()


def test_each_process_does_its_share_and_the_last_one_says_so(
    model: Path, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The parts of process 1 of 2 are the odd ones; a world of another size does not do them again."""
    folder = tmp_path / "scores"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(arguments(model, inputs["jsonl"], folder)) == 0
    assert capsys.readouterr().err == ""
    odd = {p.name: p.stat().st_mtime_ns for p in folder.glob("part-*")}
    assert set(odd) == {f"part-{i:06d}.parquet" for i in range(1, PARTS, 2)}
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert main(arguments(model, inputs["jsonl"], folder)) == 0
    assert odd.items() <= {p.name: p.stat().st_mtime_ns for p in folder.glob("part-*")}.items()
    assert "95 of 100 rows scored" in capsys.readouterr().err


def test_ctrl_c_says_how_far_it_came_and_how_to_go_on(
    model: Path, inputs: dict[str, Path], expected: list[dict[str, Any]], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    folder, written = tmp_path / "scores", bulk.table_of

    def interrupted(*given: Any) -> Any:
        if len(list(folder.glob("part-*"))) == 3:
            raise KeyboardInterrupt
        return written(*given)

    monkeypatch.setattr(bulk, "table_of", interrupted)
    assert main(arguments(model, inputs["jsonl"], folder)) == 1
    assert "stopped with 3 of 13 parts written; type the same command to go on" in capsys.readouterr().err
    assert [p.name for p in folder.glob(".*")] == []
    monkeypatch.undo()
    assert main(arguments(model, inputs["jsonl"], folder)) == 0
    check(read(folder), expected)


def test_a_folder_of_another_request_is_left_alone(
    model: Path, inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scores"
    assert main(arguments(model, inputs["jsonl"], folder)) == 0
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    other = tmp_path / "rows.jsonl"
    other.write_text(inputs["jsonl"].read_text().replace("Q1", "Q2"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    refused = {
        "begun with another input": arguments(model, other, folder),
        "begun with another model": arguments(exported(tmp_path / "model", seed=1), inputs["jsonl"], folder),
        "begun with another max_length": arguments(model, inputs["jsonl"], folder, "--max-length", "50"),
        "is there already and holds no scores": arguments(model, inputs["jsonl"], tmp_path / "notes"),
        "type --output": arguments(model, inputs["jsonl"], tmp_path / "scores.parquet"),
        "--part-rows needs a folder": arguments(model, inputs["jsonl"], tmp_path / "scores.jsonl"),
    }
    for message, typed in refused.items():
        capsys.readouterr()
        assert main(typed) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_json_of_mixed_types_and_bad_lines_fit_in_one_table(model: Path, tmp_path: Path) -> None:
    """A column of text and messages is kept as JSON text, whole numbers beside fractions become fractions, half of a
    surrogate pair becomes a question mark, and a line that is no row says where it stands."""
    messages = [{"role": "user", "content": "Hi"}]
    rows: list[Any] = [
        {"prompt": "Q", "completion": "a", "x": None, "n": 1, "empty": {}},
        {"prompt": messages, "completion": "a", "x": "late", "n": 2.5, "empty": {}},
        {"prompt": "Q", "completion": "\ud800", "n": 2**70},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + "{broken\n")
    code = main(
        ["score", "--model", str(model), "--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "s")]
    )
    found = read(tmp_path / "s")
    assert code == 0
    assert [json.loads(r["prompt"]) for r in found[:3]] == ["Q", messages, "Q"]
    assert [r["x"] for r in found] == [None, "late", None, None]
    assert [r["n"] and json.loads(r["n"]) for r in found] == [1, 2.5, 2**70, None]
    assert [r["empty"] for r in found] == ["{}", "{}", None, None]
    assert found[2]["completion"] == "?"
    assert found[2]["error"] == "not UTF-8"
    assert found[3]["error"] == "in.jsonl:4: malformed"
    assert all(r["score"] is not None for r in found[:2])


def test_a_row_that_cannot_be_scored_has_no_score_of_before(model: Path, tmp_path: Path) -> None:
    """Scores of one model, scored again by one that refuses some rows: in parts and in a file those have none."""
    long = "a" * 60
    rows = [
        {"prompt": "Q", "completion": "a", "completions": None},
        {"prompt": "Q", "completion": long, "completions": None},
        {"prompt": "Q", "completion": None, "completions": ["a", long]},
        {"prompt": "Q", "completion": None, "completions": ["a", "b"]},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(arguments(model, tmp_path / "in.jsonl", tmp_path / "first")) == 0
    first = read(tmp_path / "first")
    assert all(r["score"] is not None or r["scores"] is not None for r in first)
    assert main(arguments(model, tmp_path / "first", tmp_path / "second", "--max-length", "30")) == 0
    second = read(tmp_path / "second")
    assert second[0]["score"] == pytest.approx(first[0]["score"], abs=1e-5)
    assert second[3]["scores"] == pytest.approx(first[3]["scores"], abs=1e-5)
    for found in second[1:3]:
        assert [found["score"], found["scores"], found["ranks"]] == [None, None, None]
        assert found["error"].startswith("over-long")
    typed = ["--model", str(model), "--input", str(tmp_path / "first"), "--output", str(tmp_path / "out.jsonl")]
    assert main(["score", *typed, "--max-length", "30"]) == 0
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for found in written[1:3]:
        assert not {"score", "scores", "ranks"} & found.keys()
        assert found["error"].startswith("over-long")


def test_a_column_of_text_that_is_called_score_is_replaced(model: Path, tmp_path: Path) -> None:
    """Also in a row that has nothing to score, in whose own columns no score is gained."""
    rows = [{"prompt": "Q", "completion": "a", "score": "8"}, {"prompt": "Q", "score": "eight"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(arguments(model, tmp_path / "in.jsonl", tmp_path / "scores")) == 0
    scored, bad = read(tmp_path / "scores")
    assert scored["score"] == pytest.approx(RewardModel.load(model, device="cpu").score(["Q"], ["a"])[0], abs=1e-5)
    assert bad["score"] is None
    assert bad["error"].startswith("expected the columns")


def test_columns_of_json_text_are_read_as_what_they_say(model: Path, tmp_path: Path) -> None:
    """Texts and messages in one column: the parts are input again, with the same rows, types and scores."""
    rows: list[dict[str, Any]] = [
        {"prompt": "Q", "completion": "a"},
        {"prompt": [{"role": "user", "content": "Q"}], "completion": "a"},
        {"prompt": '"Q"', "completion": "a"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(arguments(model, tmp_path / "in.jsonl", tmp_path / "first")) == 0
    (part,) = (tmp_path / "first").glob("part-*")
    found = [dict(given.values) for given in read_rows(part) if isinstance(given, RawRow)]
    assert [{name: r[name] for name in rows[0]} for r in found] == rows
    assert len({r["score"] for r in found}) == 3
    assert main(arguments(model, tmp_path / "first", tmp_path / "second")) == 0
    assert pq.read_table(tmp_path / "second").equals(pq.read_table(tmp_path / "first"))
    schemas = [pq.read_schema(tmp_path / name / part.name) for name in ("first", "second")]
    assert schemas[0].equals(schemas[1], check_metadata=True)


def test_no_row_that_can_be_scored_is_an_error(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_text('{"a": 1}\n')
    assert main(arguments(model, tmp_path / "in.jsonl", tmp_path / "scores")) == 2
    assert "none of its 1 rows could be scored (first: in.jsonl:1: expected the columns" in capsys.readouterr().err
    (tmp_path / "none.jsonl").write_text("")
    assert main(arguments(model, tmp_path / "none.jsonl", tmp_path / "none")) == 2
    assert not (tmp_path / "none").exists()
