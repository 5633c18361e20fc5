"""`PreferenceFiles`: what is found where, how it is named, what is set aside, and what is an error."""

import gzip
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rmlab.batch import Example
from rmlab.data.account import Account
from rmlab.data.files import PEEK, PreferenceFiles
from rmlab.data.parts import source_of, split_of
from rmlab.data.source import SetAside, Source
from rmlab.errors import UsageError


def pair(prompt: str = "Sky?", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": " Blue.", "rejected": " Green.", **more}


def write(path: Path, rows: Iterable[Any] = (pair(),)) -> Path:
    """Writes JSON Lines, zipped if the name says so; a row that is bytes is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(files: PreferenceFiles, split: str = "train") -> tuple[list[Example], Account]:
    examples, account = [], Account()
    for item in files.read(split):
        if isinstance(item, SetAside):
            account.add_set_aside(item)
        else:
            account.add_used()
            examples.append(item)
    return examples, account


def names(files: PreferenceFiles) -> dict[str, list[str]]:
    return {split: [part.name for part in files.parts[split]] for split in files.splits()}


def test_it_is_a_source(tmp_path: Path) -> None:
    source: Source = PreferenceFiles(write(tmp_path / "f.jsonl"))
    assert source.splits() == ("train",)


def test_every_bad_row_is_counted_with_its_first_place(tmp_path: Path) -> None:
    """11 lines, one of them blank and no row: 2 used, 8 set aside for 7 reasons."""
    rows = [
        pair(),
        pair(chosen=" "),
        pair(chosen=" Green."),
        b'{"prompt": ',
        {"prompt": "Sky?", "chosen": "x"},
        b"",
        b'{"prompt": "\xff"}',
        b'{"prompt": "Sky?", "chosen": "a", "rejected": "b", "margin": NaN}',
        pair(prompt=""),
        pair(chosen=["x"]),
        pair(margin=1, id="last"),
    ]
    examples, account = read(PreferenceFiles(write(tmp_path / "pairs.jsonl.gz", rows)))
    assert [example.id for example in examples] == ["pairs.jsonl.gz:1", "pairs.jsonl.gz:11 (last)"]
    assert account.to_dict() == {
        "read": 10,
        "used": 2,
        "set_aside": {
            "empty": 2,
            "chosen equals rejected": 1,
            "malformed": 2,
            "missing column": 1,
            "not UTF-8": 1,
            "NaN margin": 1,
        },
        "first": {
            "empty": "pairs.jsonl.gz:2",
            "chosen equals rejected": "pairs.jsonl.gz:3",
            "malformed": "pairs.jsonl.gz:4",
            "missing column": "pairs.jsonl.gz:5",
            "not UTF-8": "pairs.jsonl.gz:7",
            "NaN margin": "pairs.jsonl.gz:8",
        },
    }


def test_a_row_nested_beyond_reason_is_malformed(tmp_path: Path) -> None:
    deep = b'{"prompt": "p", "chosen": "a", "rejected": "b", "tools": ' + b"[" * 600 + b"]" * 600 + b"}"
    _, account = read(PreferenceFiles(write(tmp_path / "f.jsonl", [pair(), deep])))
    assert (account.used, account.read) == (1, 2)


@pytest.mark.parametrize("container", ["jsonl", "json", "parquet", "table", "tables"])
def test_every_container_gives_the_same_examples(tmp_path: Path, container: str) -> None:
    """Tables fill absent columns with null, in rows and in messages alike; it must not show."""
    user, bot = {"role": "user", "content": "Sky?"}, {"role": "assistant", "content": "Blue.", "name": "b"}
    other = {"role": "assistant", "content": "Green."}
    rows = [
        {"chosen": [user, bot], "rejected": [user, other], "margin": None},  # tables take their columns from this row
        {"chosen": [user, other], "rejected": [user, bot], "margin": 2.0},
    ]
    expected, _ = read(PreferenceFiles(write(tmp_path / "jsonl" / "pairs.jsonl", rows)))
    path = tmp_path / container / f"pairs.{container}"
    path.parent.mkdir(exist_ok=True)
    if container == "json":
        path.write_text(json.dumps(rows, indent=1))
    elif container == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif container == "table":
        datasets.Dataset.from_list(rows).save_to_disk(path)
    elif container == "tables":
        datasets.DatasetDict(train=datasets.Dataset.from_list(rows)).save_to_disk(path)
    examples, account = read(PreferenceFiles(path))
    assert account.read == len(examples) == 2
    assert [e.rankings for e in examples] == [e.rankings for e in expected]
    assert [(e.prompt, e.completions[0].text) for e in examples] == [
        (e.prompt, e.completions[0].text) for e in expected
    ]
    assert examples[0].id.endswith(":1")


@pytest.mark.parametrize(
    ("there", "train", "val"),
    [
        ("pairs.jsonl", "pairs.jsonl", ""),
        ("train.jsonl.gz test.jsonl.gz", "train.jsonl.gz", "test.jsonl.gz"),
        ("train.jsonl validation.jsonl test.jsonl", "train.jsonl", "validation.jsonl"),
        ("train.jsonl dev.jsonl eval.jsonl", "train.jsonl", "dev.jsonl"),
        ("my_train.jsonl my_eval.jsonl", "my_train.jsonl", "my_eval.jsonl"),
        ("phase1_train.jsonl phase2_train.jsonl", "phase1_train.jsonl phase2_train.jsonl", ""),
        ("train/a.jsonl train/b.jsonl test/a.jsonl", "train/a.jsonl train/b.jsonl", "test/a.jsonl"),
        ("data/train-00000-of-00001.jsonl", "data/train-00000-of-00001.jsonl", ""),
        ("gsm8k.jsonl math.jsonl", "gsm8k.jsonl math.jsonl", ""),
        ("pairs.jsonl val.jsonl dataset_info.json .hidden/x.jsonl notes.txt", "pairs.jsonl", "val.jsonl"),
    ],
)
def test_splits_are_found_by_name(tmp_path: Path, there: str, train: str, val: str) -> None:
    for name in there.split():
        write(tmp_path / name)
    expected = {"train": train.split()} | ({"val": val.split()} if val else {})
    assert names(PreferenceFiles(tmp_path)) == expected


def test_splits_by_hand(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in ("a.jsonl", "b.jsonl", "train.jsonl", "sub/x.jsonl", "sub/y.jsonl"):
        write(folder / name)
    outside = write(tmp_path / "outside.jsonl")
    both = PreferenceFiles(folder, train="a.jsonl", val="sub")
    assert names(both) == {"train": ["a.jsonl"], "val": ["sub/x.jsonl", "sub/y.jsonl"]}
    assert names(PreferenceFiles(folder, train="[ab].jsonl")) == {"train": ["a.jsonl", "b.jsonl"]}
    assert names(PreferenceFiles(folder, train="train", val=str(outside)))["val"] == ["outside.jsonl"]
    assert names(PreferenceFiles(folder, subset="sub")) == {"train": ["x.jsonl", "y.jsonl"]}
    assert names(PreferenceFiles(folder / "a.jsonl", val="b.jsonl")) == {"train": ["a.jsonl"], "val": ["b.jsonl"]}
    assert names(PreferenceFiles(None, train=str(outside))) == {"train": ["outside.jsonl"]}


@pytest.mark.parametrize(
    ("path", "split", "source"),
    [
        ("hh/harmless-base/train.jsonl.gz", "train", "harmless-base"),
        ("prmbench/train/circular.jsonl.gz", "train", "circular"),
        ("x/phase2_train.jsonl", "train", "phase2"),
        ("x/valid1.jsonl", "val", "x"),
        ("x/data/train-00003-of-00010.parquet", "train", "x"),
        ("x/gpt-4o-2024-05-13.jsonl", "", "gpt-4o-2024-05-13"),
        ("x/contest.jsonl", "", "contest"),
        ("x/DPO_Demo.json", "", "DPO_Demo"),
    ],
)
def test_what_a_name_says(path: str, split: str, source: str) -> None:
    assert split_of(path.split(".")[0]) == split
    assert source_of(Path("/" + path)) == source


def test_a_rows_own_source_comes_first(tmp_path: Path) -> None:
    examples, _ = read(PreferenceFiles(write(tmp_path / "web.jsonl", [pair(), pair(source="books")])))
    assert [example.source for example in examples] == ["web", "books"]


def test_columns_are_renamed(tmp_path: Path) -> None:
    rows = [
        {"question": "Sky?", "good": "Blue.", "rejected": "Green.", "gap": None},
        {"question": "Sky?", "rejected": "x"},
    ]
    columns = {"prompt": "question", "chosen": "good", "margin": "gap"}
    examples, account = read(PreferenceFiles(write(tmp_path / "f.jsonl", rows), columns=columns))
    assert (examples[0].prompt, examples[0].completions[0].text) == ("Sky?", "Blue.")
    assert account.first == {"missing column": "f.jsonl:2"}


def test_the_layout_is_told_from_many_rows_not_from_a_bad_first_one(tmp_path: Path) -> None:
    rows = [b"what", {"note": 1}, {"chosen": "only"}, pair()]
    _, account = read(PreferenceFiles(write(tmp_path / "f.jsonl", rows)))
    assert (account.used, account.first) == (1, {"malformed": "f.jsonl:1", "missing column": "f.jsonl:2"})


def test_parts_may_have_different_layouts(tmp_path: Path) -> None:
    write(tmp_path / "pairs.jsonl")
    write(tmp_path / "outcomes.jsonl", [{"prompt": "2+2?", "completion": "4", "label": True}])
    examples, _ = read(PreferenceFiles(tmp_path))
    assert [(e.source, len(e.rankings)) for e in examples] == [("outcomes", 0), ("pairs", 1)]


def test_a_file_without_a_readable_row_is_all_set_aside(tmp_path: Path) -> None:
    _, account = read(PreferenceFiles(write(tmp_path / "f.jsonl", [b"{", b"["])))
    assert account.to_dict()["set_aside"] == {"malformed": 2}


def test_rows_are_read_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a million rows the first examples need no more than the first rows, and the layout no more than a look."""
    taken = 0

    def million() -> Iterable[dict[str, Any]]:
        nonlocal taken
        for _ in range(1_000_000):
            taken += 1
            yield pair()

    files = PreferenceFiles(write(tmp_path / "f.jsonl", [pair() for _ in range(99)]))
    monkeypatch.setattr("rmlab.data.rows._lines", lambda path, name, wanted: _rows(million(), name))
    items = files.read("train")
    for _ in range(3):
        next(items)
    assert taken == 3
    PreferenceFiles(tmp_path / "f.jsonl")
    assert taken == 3 + PEEK


def _rows(rows: Iterable[dict[str, Any]], name: str) -> Iterable[Any]:
    from rmlab.data.rows import read_table

    return read_table(rows, name)


# Errors: one sentence that names what was found, what was expected and what to type.


def message(path: Any, **options: Any) -> str:
    with pytest.raises(UsageError) as error:
        PreferenceFiles(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_path_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "harmless" / "train.jsonl")
    text = message(tmp_path / "harmles")
    assert str(tmp_path / "harmles") in text
    assert "did you mean harmless?" in text
    assert "holds train.jsonl" in message(tmp_path / "harmless" / "test.jsonl")
    assert message(tmp_path, subset="harmful").startswith("data.subset: ")
    assert message(tmp_path, train="harmful").startswith("data.train: ")
    assert "data.path=FILE" in message(None)


def test_hub_name_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Offline, an unknown owner/name is refused at once: it is neither here nor to be had."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    text = message("nobody-at-all/nothing")
    assert "nobody-at-all/nothing does not exist" in text
    assert "nor does the hub give such a data set" in text
    assert "type only one" in message("nobody-at-all/nothing/part", subset="other")


def test_a_misspelt_relative_path_is_not_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path / "data" / "pairs.jsonl")
    monkeypatch.chdir(tmp_path)
    assert "hub" not in message("data/pears.jsonl")
    assert "hub" not in message("data/pears")


def test_folders_that_are_not_clear(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert "has no file that ends in .jsonl" in message(tmp_path / "none")
    write(tmp_path / "tests" / "test.jsonl")
    assert "no training file, only test.jsonl; type data.train=FILE" in message(tmp_path / "tests")
    write(tmp_path / "extra" / "train.jsonl")
    write(tmp_path / "extra" / "more.jsonl")
    assert "also more.jsonl, whose name says no split" in message(tmp_path / "extra")
    assert names(PreferenceFiles(tmp_path / "extra", val="more.jsonl"))["val"] == ["more.jsonl"]
    assert "in data.train and in data.val" in message(tmp_path / "extra", train="*.jsonl", val="more.jsonl")
    assert "type only one of the two" in message(tmp_path / "extra" / "more.jsonl", train="train.jsonl")


def test_columns_and_formats_that_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", [pair()])
    odd = write(tmp_path / "odd.jsonl", [{"a": 1, "b": 2}])
    assert message(odd).startswith("odd.jsonl: the columns a, b fit no known layout: trl (chosen, rejected); ")
    assert "data.format=trll does not exist" in message(path, format="trll")
    assert "missing column answers of the layout nectar, found chosen, prompt, rejected" in message(
        path, format="nectar"
    )
    assert "data.columns names question, but its columns are" in message(path, columns={"prompt": "question"})
    assert "data.columns.promt is no column of the layout trl" in message(path, columns={"promt": "prompt"})


# Hub data sets and `datasets` folders.


def tables(**splits: int) -> datasets.DatasetDict:
    return datasets.DatasetDict({n: datasets.Dataset.from_list([pair()] * k) for n, k in splits.items()})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the hub: `tables` is what it gives, `asked` how it was asked."""
    state: dict[str, Any] = {"configs": ["default"]}

    def load(path: str, **options: Any) -> datasets.DatasetDict:
        state["asked"] = (path, options)
        return state["tables"]

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda path: state["configs"])
    return state


def test_hub_splits_places_and_sources(hub: dict[str, Any]) -> None:
    hub["tables"] = tables(train=2, test=1)
    files = PreferenceFiles("owner/set")
    assert hub["asked"] == ("owner/set", {"name": None})
    examples, _ = read(files, "val")
    assert [(e.id, e.source) for e in examples] == [("owner/set/test:1", "set")]


def test_hub_subset_is_a_configuration_or_a_folder(hub: dict[str, Any]) -> None:
    hub["tables"] = tables(train=1)
    examples, _ = read(PreferenceFiles("owner/set/part"))
    assert hub["asked"] == ("owner/set", {"data_dir": "part"})
    assert examples[0].source == "part"
    hub["configs"] = ["default", "part"]
    examples, _ = read(PreferenceFiles("owner/set", subset="part"))
    assert hub["asked"] == ("owner/set", {"name": "part"})


@pytest.mark.parametrize(
    ("splits", "asked", "expected"),
    [
        ("train valid1 valid2 test", {}, {"train": ["train"], "val": ["valid1", "valid2"]}),
        ("train train_sft test", {}, {"train": ["train"], "val": ["test"]}),
        ("gsm8k math", {}, {"train": ["gsm8k", "math"]}),
        (
            "train_sft train_prefs test_prefs",
            {"train": "train_prefs"},
            {"train": ["train_prefs"], "val": ["test_prefs"]},
        ),
        ("train test", {"val": "train", "train": "test"}, {"train": ["test"], "val": ["train"]}),
        ("train test", {"train": "test"}, {"train": ["test"]}),
        ("gsm8k math", {"val": "math"}, {"train": ["gsm8k"], "val": ["math"]}),
    ],
)
def test_which_splits_of_a_hub_data_set(hub: dict[str, Any], splits: str, asked: dict, expected: dict) -> None:
    hub["tables"] = tables(**dict.fromkeys(splits.split(), 1))
    found = names(PreferenceFiles("owner/set", **asked))
    assert found == {split: [f"owner/set/{n}" for n in ns] for split, ns in expected.items()}


@pytest.mark.parametrize(
    ("splits", "asked", "text"),
    [
        ("train_sft train_prefs", {}, "data.train could be more than one split"),
        ("train test_sft test_prefs", {}, "data.val could be more than one split"),
        ("test", {}, "data.train could be more than one split, or none; there are test"),
        ("train", {"val": "test"}, "data.val=test is not a split; there are train"),
        ("train test", {"val": "train"}, "data.train could be more than one split, or none; there are train, test"),
        ("train test", {"val": "train", "train": "train"}, "data.train and data.val are both train"),
    ],
)
def test_unclear_splits_are_named(hub: dict[str, Any], splits: str, asked: dict, text: str) -> None:
    hub["tables"] = tables(**dict.fromkeys(splits.split(), 1))
    assert text in message("owner/set", **asked)


def test_a_datasets_folder(tmp_path: Path) -> None:
    tables(train=2, validation=1).save_to_disk(tmp_path / "saved")
    files = PreferenceFiles(tmp_path / "saved")
    assert names(files) == {"train": ["saved/train"], "val": ["saved/validation"]}
    examples, account = read(files)
    assert (examples[1].id, examples[1].source, account.read) == ("saved/train:2", "saved", 2)
    tables(train=3).save_to_disk(tmp_path / "again")
    again = PreferenceFiles(tmp_path / "again").fingerprint()
    assert files.fingerprint() == PreferenceFiles(tmp_path / "saved").fingerprint() != again


# The fingerprint.


def test_fingerprint_changes_with_content_options_and_place(tmp_path: Path) -> None:
    rows = [pair(question="A?")]
    path = write(tmp_path / "a" / "f.jsonl", rows)
    first = PreferenceFiles(path).fingerprint()
    assert PreferenceFiles(str(path)).fingerprint() == first
    others = [
        PreferenceFiles(path, columns={"prompt": "question"}).fingerprint(),
        PreferenceFiles(path, format="tldr").fingerprint(),
        PreferenceFiles(path, val=str(write(tmp_path / "a" / "g.jsonl"))).fingerprint(),
        PreferenceFiles(write(tmp_path / "a" / "h.jsonl", rows)).fingerprint(),
    ]
    write(path, [pair(question="B?")])
    others.append(PreferenceFiles(path).fingerprint())
    assert len({first, *others}) == 6


# The real files.


@pytest.mark.parametrize(
    ("folder", "layout", "train", "val"),
    [
        ("hh_rlhf/harmless-base", "trl", (1700, {"empty": 3}), (300, {"empty": 1})),
        ("alpaca_kwise", "alpaca_kwise", (550, {}), (120, {})),
        ("gsm8k_solutions", "gsm8k_solutions", (1000, {}), (150, {})),
        (
            "prmbench",
            "prmbench",
            (3203, {"error step outside the solution": 57, "modified equals original": 8, "empty": 1}),
            (718, {"error step outside the solution": 21, "empty": 1}),
        ),
    ],
)
def test_real_folders(shared_data: Path, folder: str, layout: str, train: Any, val: Any) -> None:
    files = PreferenceFiles(shared_data / folder)
    assert {found.name for split in files.layouts.values() for found in split if found} == {layout}
    for split, (rows, aside) in (("train", train), ("val", val)):
        examples, account = read(files, split)
        assert (account.read, account.set_aside) == (rows, aside)
        assert len({example.id for example in examples}) == len(examples)


def test_real_dialogues_lose_nothing(shared_data: Path) -> None:
    """Prompt + completion is the published dialogue; the layout found and the layout named give the same."""
    folder = shared_data / "hh_rlhf" / "harmless-base"
    rows = [json.loads(line) for line in gzip.decompress((folder / "test.jsonl.gz").read_bytes()).splitlines()]
    by_hand = PreferenceFiles(folder, format="hh_rlhf")
    examples, _ = read(by_hand, "val")
    assert examples == read(PreferenceFiles(folder), "val")[0]
    for example in examples:
        row = rows[int(example.id.split(":")[1]) - 1]
        chosen, rejected = (str(example.prompt) + str(c.text) for c in example.completions)
        assert (chosen, rejected) == (row["chosen"], row["rejected"])
        assert str(example.prompt).endswith("\n\nAssistant:")
        assert example.source == "harmless-base"


def test_real_gsm8k_pairs_are_right_over_wrong(shared_data: Path) -> None:
    """Counted from the published labels: right x wrong pairs a question."""
    examples, _ = read(PreferenceFiles(shared_data / "gsm8k_solutions"), "val")
    content = gzip.decompress((shared_data / "gsm8k_solutions" / "test.jsonl.gz").read_bytes())
    rows = [json.loads(line) for line in content.splitlines()]
    expected = []
    for row in rows:
        right = Counter(v["is_correct"] for v in row.values() if isinstance(v, dict))
        expected.append(right[True] * right[False])
    assert [len(example.rankings) for example in examples] == expected


def test_real_prmbench_classes(shared_data: Path) -> None:
    """Redundant steps are neutral and there only; every other kind has wrong steps instead."""
    labels: dict[str, set[int]] = {}
    for example in read(PreferenceFiles(shared_data / "prmbench"), "val")[0]:
        original, modified = example.completions
        assert {step.label for step in original.steps} == {1}
        labels.setdefault(example.source, set()).update(step.label for step in modified.steps)
    assert labels.pop("redundency") == {0, 1}
    assert set(map(frozenset, labels.values())) == {frozenset({-1, 1})}
