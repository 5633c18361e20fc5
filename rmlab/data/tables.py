"""Data sets of the `datasets` library, from a folder or the hub: which of their splits is which.

They are memory-mapped files, so memory does not grow with them; from the hub they are downloaded once and kept.
Left out: streaming from the hub, which would download again in every epoch.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import datasets

from rmlab.data.parts import VALIDATION, Parts, TablePart, split_of
from rmlab.errors import UsageError
from rmlab.network import hub_is_silent

Tables: TypeAlias = datasets.DatasetDict | datasets.Dataset


def from_hub(path: str, subset: str | None, absent: str) -> Tables:
    """Returns a hub data set; `path` is `OWNER/NAME` or `OWNER/NAME/SUBSET`, a subset a configuration or a folder.

    absent: why the path is no local one, for the message. Raises `UsageError` if it cannot be had.
    """
    owner, name, *rest = path.split("/")
    if rest and subset is not None:
        raise UsageError(f"data.path={path} names a subset and data.subset={subset} another; type only one of the two")
    repository, part = f"{owner}/{name}", "/".join(rest) or subset
    try:
        if hub_is_silent():
            raise ConnectionError("it cannot be reached")
        if part is None or part in datasets.get_dataset_config_names(repository):
            return datasets.load_dataset(repository, name=part)
        return datasets.load_dataset(repository, data_dir=part)
    except Exception as error:  # the hub's failures have no class in common
        reason = (str(error) or type(error).__name__).split("\n")[0]
        raise UsageError(
            f"{absent}; nor does the hub give such a data set ({reason}); type data.path=FILE or data.path=FOLDER"
        ) from error


def in_tables(tables: Tables, name: str, train: str | None, val: str | None) -> Parts:
    """Returns the parts of the splits asked for, or of those whose names say it. `name`: the data set's own.

    Raises `UsageError` if it is not clear which splits are meant.
    """
    if isinstance(tables, datasets.Dataset):
        tables = datasets.DatasetDict(train=tables)
    said: dict[str, list[str]] = {}
    for split in tables:
        said.setdefault(split_of(str(split)), []).append(str(split))
    if train is not None and train == val:
        raise UsageError(f"data.train and data.val are both {train}; leave one of them out")
    validation = [split for split in next((said[word] for word in VALIDATION if word in said), []) if split != train]
    training = [split for split in said.get("train") or said.get("", []) if split != val]
    there = [str(split) for split in tables]
    chosen = {"train": _pick("train", train, training, there), "val": _pick("val", val, validation, there)}
    source = name.rsplit("/", 1)[-1]
    return {
        split: tuple(TablePart(tables[n], f"{name}/{n}", source if split_of(n) else n) for n in names)
        for split, names in chosen.items()
        if names
    }


def _pick(key: str, asked: str | None, said: list[str], there: list[str]) -> list[str]:
    """Returns the split asked for, or those that can only be meant: `train`, or all that differ by a number only."""
    if asked is not None and asked in there:
        return [asked]
    if asked is None and key in said:
        return [key]
    unnumbered = {re.sub(r"[\W\d_]", "", split) for split in said}
    clear = len(unnumbered) == 1 or not any(split_of(split) for split in said)
    if asked is None and clear and (said or key == "val"):
        return said
    problem = f"data.{key}={asked} is not a split" if asked else f"data.{key} could be more than one split, or none"
    raise UsageError(f"{problem}; there are {', '.join(there)}; type data.{key}=NAME")
