"""The model's process when its accelerator fails."""

from __future__ import annotations

import multiprocessing
from queue import SimpleQueue
from typing import Any

import pytest
import torch

from rmlab.serve.messages import Ask
from rmlab.serve.worker import Worker


class Failing:
    """An engine whose every batch fails; a machine without an accelerator has no other way to see that."""

    max_tokens = 1

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def encode(self, ask: Ask) -> list[Any]:
        return []

    def cost(self, works: Any, seen: Any) -> int:
        return 1

    def scores(self, asked: Any) -> Any:
        raise self._error("CUDA error: an illegal memory access was encountered")


def answer_one(pipe: Any, error: type[Exception]) -> None:
    engine: Any = Failing(error)
    arrived: SimpleQueue[Ask] = SimpleQueue()
    arrived.put(Ask(0, float("inf"), ()))
    Worker(pipe, arrived, engine).serve()


@pytest.mark.parametrize(("error", "survives"), [(torch.AcceleratorError, False), (RuntimeError, True)])
def test_a_lost_accelerator_ends_the_process_and_other_failures_do_not(error: type[Exception], survives: bool) -> None:
    """A process never gets its CUDA context back, so that another one must be started."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=answer_one, args=(theirs, error), daemon=True)
    process.start()
    theirs.close()
    try:
        if survives:
            assert "RuntimeError" in ours.recv().answers[0].results.reason
            assert process.is_alive()
        else:
            with pytest.raises(EOFError):
                ours.recv()
            process.join(60)
            assert process.exitcode == 1
    finally:
        process.kill()
        process.join()
