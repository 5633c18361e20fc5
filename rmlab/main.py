"""The Hydra entry point: composes the configuration, runs it, and turns every failure into one sentence.

Exit codes: 0 done, 1 failed while running, 2 the request itself was wrong. `HYDRA_FULL_ERROR=1` shows tracebacks.
An exception that is none of these is a defect of rmlab: it keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rmlab.errors import RunError, UsageError
from rmlab.explain import explain
from rmlab.help import help_text
from rmlab.overrides import check_dashes, check_values, config_dir, readable

EXPLAINED = (HydraException, OmegaConfBaseException, UsageError, RunError, OSError)
FULL = "HYDRA_FULL_ERROR"


class JobFailed(Exception):
    """A job of a sweep failed and has said why. Its only argument is the exit code."""


def main(argv: Sequence[str]) -> int:
    """Runs `train.py` with these arguments. Returns the exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if {"-h", "--help"} & set(argv):
        return _help()
    if "--resolve" in argv:
        import rmlab.build  # noqa: F401  # has a resolver of its own
    arguments, asked, typed = readable(argv), os.environ.get(FULL), sys.argv
    codes = [0]

    def train(cfg: DictConfig) -> None:
        with _full_errors(asked), _command(typed):  # for the processes that a run may start
            _job(cfg, arguments, codes)

    try:
        check_dashes(arguments)
        # Hydra reads sys.argv, and with full errors it hands its exceptions to us instead of printing them.
        with _full_errors("1"), _command(["train.py", *arguments]):
            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")(train)()
    except JobFailed as failed:
        return int(failed.args[0])
    except EXPLAINED as error:
        return _say(error, arguments)
    return max(codes)


def _help() -> int:
    try:
        print(help_text(config_dir()), flush=True)
    except BrokenPipeError:  # the reader had enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # the interpreter flushes once more at its end
    return 0


def _job(cfg: DictConfig, arguments: Sequence[str], codes: list[int]) -> None:
    """One job. In a sweep a job that fails says so and the others run; what it raises comes back from any launcher."""
    from rmlab.training import run

    choices = HydraConfig.get()
    try:
        check_values(cfg, choices.overrides.task, groups=list(choices.runtime.choices))
        trained = run(cfg, Path(choices.runtime.output_dir))
    except EXPLAINED as error:
        code = _say(error, arguments)
        if choices.mode is RunMode.MULTIRUN:
            raise JobFailed(code) from error
        codes.append(code)
        return
    folder = choices.run.dir if choices.mode is RunMode.RUN else Path(choices.sweep.dir) / choices.sweep.subdir
    if trained.module.global_rank == 0:
        print(f"run folder: {folder}", flush=True)


def _say(error: BaseException, arguments: Sequence[str]) -> int:
    """Prints the sentence for an error and returns the exit code; raises the error where tracebacks are asked for."""
    if os.environ.get(FULL) == "1":
        raise error
    code, sentence = explain(error, arguments)
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    return code


@contextmanager
def _full_errors(value: str | None) -> Iterator[None]:
    """Gives the variable a value (None: takes it away) for a while."""
    before = os.environ.pop(FULL, None)
    try:
        if value is not None:
            os.environ[FULL] = value
        yield
    finally:
        os.environ.pop(FULL, None)
        if before is not None:
            os.environ[FULL] = before


@contextmanager
def _command(argv: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = before
