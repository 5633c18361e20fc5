"""The Hydra entry point: composes the configuration, runs it, and turns every failure into one sentence.

Exit codes: 0 done, 1 failed while running, 2 the request itself was wrong. `HYDRA_FULL_ERROR=1` shows tracebacks.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rmlab.errors import RunError, UsageError

EXPLAINED = (HydraException, OmegaConfBaseException, UsageError, RunError)


def main(argv: Sequence[str]) -> int:
    """Runs `train.py` with these arguments. Returns the exit code."""
    traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its exceptions to us instead of printing them
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from rmlab.build import config_dir

    # Hydra reads GROUP=null as "no value" and refuses it; here it picks the file null.yaml of that group.
    nulls = {f"{path.parent.name}=null" for path in config_dir().glob("*/null.yaml")}
    argv = [arg.replace("=null", "='null'") if arg in nulls else arg for arg in argv]
    sys.argv = ["train.py", *argv]

    try:
        codes: list[int] = []
        job = partial(_job, codes=codes, argv=argv, traceback=traceback)
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")(job)()
    except EXPLAINED as error:
        if traceback:
            raise
        return _say(error, argv)
    return max(codes, default=0)


def _job(cfg: DictConfig, *, codes: list[int], argv: Sequence[str], traceback: bool) -> None:
    """One job; in a sweep a job that fails says so and lets the others run."""
    from rmlab.training import run

    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        check_types(cfg)
        run(cfg, folder)
    except EXPLAINED as error:
        if traceback:
            raise
        codes.append(_say(error, argv))
        return
    print(f"run folder: {os.path.relpath(folder)}", flush=True)


def _say(error: BaseException, argv: Sequence[str]) -> int:
    code, sentence = explain(error, argv)
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    return code


def explain(error: BaseException, argv: Sequence[str]) -> tuple[int, str]:
    """Returns the exit code and the one sentence for an error; ours may stand behind one of Hydra's."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UsageError):
            return 2, " ".join(str(cause).split())
        if isinstance(cause, RunError):
            return 1, " ".join(str(cause).split())
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    if key := re.search(r"Could not override '([^']+)'", text):
        return 2, _unknown_key(key[1], argv)
    if missing := re.search(r"Could not find '([^']+)'", text):
        group, _, name = missing[1].rpartition("/")
        options = re.findall(r"^\t(\S+)", text, re.MULTILINE)
        shown = ", ".join(o for o in options if not o.startswith("_"))
        return 2, f"{group}={name} does not exist; type {group}= one of {shown}"
    return 2, " ".join(
        text.split()
    ) or f"the configuration could not be read: {type(error.__cause__ or error).__name__}"


def _unknown_key(key: str, argv: Sequence[str]) -> str:
    parent, _, name = key.rpartition(".")
    kept = [a for a in argv if "=" in a and a.lstrip("+~").split("=")[0] != key and not a.startswith("hydra.")]
    try:
        cfg = _compose(kept)
    except HydraException:
        cfg = _compose([])
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig):
        return f"{key} does not exist: there is no group {parent}; type one of {', '.join(map(str, cfg))}"
    names = [str(n) for n in node if not str(n).startswith("_")]
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{key} does not exist; {hint}{parent or 'a run'} has {', '.join(names)}"


def _compose(overrides: Sequence[str]) -> DictConfig:
    from rmlab.build import config_dir

    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides))


def check_types(cfg: DictConfig) -> None:
    """Raises `UsageError` for a value that is text where the configuration files have a number or a switch."""
    groups = [o for o in HydraConfig.get().overrides.task if "." not in o.split("=")[0]]
    defaults = dict(_leaves(_defaults_of(groups, cfg)))
    for key, value in _leaves(cfg):
        default = defaults.get(key)
        number = isinstance(default, int | float) and not isinstance(default, bool)
        if number and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(f"{key} is {value}, expected a number like {default}")
        if isinstance(default, bool) and not isinstance(value, bool):
            raise UsageError(f"{key} is {value}, expected true or false")


def _defaults_of(groups: Sequence[str], cfg: DictConfig) -> DictConfig:
    names = {str(k) for k in cfg if OmegaConf.is_config(cfg[k]) or cfg[k] is None}
    from hydra.core.global_hydra import GlobalHydra

    loader = GlobalHydra.instance().config_loader()
    from hydra.types import RunMode

    chosen = [g for g in groups if g.split("=")[0].lstrip("+") in names]
    return loader.load_configuration("train", overrides=chosen, run_mode=RunMode.RUN)


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, DictConfig):
        return
    for key in node:
        if key == "hydra" or OmegaConf.is_missing(node, key):
            continue
        path = f"{prefix}{key}"
        if OmegaConf.is_interpolation(node, str(key)) and prefix == "":
            continue
        value = node[key]
        yield from _leaves(value, f"{path}.") if isinstance(value, DictConfig) else [(path, value)]
