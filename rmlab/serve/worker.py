"""The model's process: takes requests off a pipe, computes what waits together, sends the answers.

A batch is what waits when the last one is done, in the order of arrival, up to a budget of tokens: an idle server
answers at once, a busy one computes large batches, and nothing has to be tuned. A thread empties the pipe meanwhile, so
that the front process never blocks on it. What nobody waits for any longer is not computed.

The process ends when its pipe does: it cannot survive the front process, whatever becomes of that.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias, final

from rmlab.serve.messages import Answer, Ask, Done, Failed, Refusal, Result
from rmlab.serve.options import ModelOptions

if TYPE_CHECKING:  # the front process imports this file too, and is to do without torch
    from rmlab.scoring.batches import Ids
    from rmlab.serve.engine import Engine
    from rmlab.serve.reader import Work

Encoded: TypeAlias = "tuple[Ask, list[Work]]"  # a request and its items as tokens
TOO_LATE = Refusal(503, "the request waited longer than the server's time limit; send it again later")
log = logging.getLogger("rmlab.serve")


def run(pipe: Connection, options: ModelOptions) -> None:
    """Loads the model, says so (`Hello`, or `Failed`), and answers until the pipe ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the front process decides when it is over
        signal.signal(number, signal.SIG_IGN)
    arrived: SimpleQueue[Ask] = SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, arrived), daemon=True).start()
    from rmlab.errors import RunError, UsageError

    try:
        engine = _engine(options)
    except (UsageError, RunError) as error:
        pipe.send(Failed(str(error), isinstance(error, UsageError)))
        return
    pipe.send(engine.hello())
    Worker(pipe, arrived, engine).serve()


def _receive(pipe: Connection, arrived: SimpleQueue[Ask]) -> None:
    try:
        while (ask := pipe.recv()) is not None:
            arrived.put(ask)
    except (EOFError, OSError):
        pass  # the front process is gone
    os._exit(0)  # in the middle of whatever nobody waits for


def _engine(options: ModelOptions) -> Engine:
    from rmlab.scoring.model import RewardModel
    from rmlab.serve.engine import Engine

    model = RewardModel.load(
        options.path,
        base=options.base,
        device=options.device,
        max_length=options.max_length,
        reference=options.reference,
        trust_remote_code=options.trust_remote_code,
    )
    return Engine(model, max_tokens=options.batch_tokens, max_request_tokens=options.max_request_tokens)


@final
class Worker:
    """Answers what arrives with an engine, over a pipe."""

    def __init__(self, pipe: Connection, arrived: SimpleQueue[Ask], engine: Engine) -> None:
        self._pipe, self._arrived, self._engine = pipe, arrived, engine
        self._waiting: deque[Encoded] = deque()

    def serve(self) -> None:
        """Answers requests until the process ends."""
        while True:
            self._take()
            batch = self._next_batch()
            if batch:
                self._compute(batch)

    def _take(self) -> None:
        """Moves what arrived to the waiting line, as tokens; waits for something if the line is empty."""
        refused = []
        while not self._waiting or not self._arrived.empty():
            ask = self._arrived.get()
            works = self._engine.encode(ask) if time.monotonic() < ask.deadline else TOO_LATE
            if isinstance(works, Refusal):
                refused.append(Answer(ask.number, works))
            else:
                self._waiting.append((ask, works))
            if refused and self._arrived.empty():
                self._pipe.send(Done(tuple(refused)))
                refused = []

    def _next_batch(self) -> list[Encoded]:
        """Returns the first requests that fit into the budget together, and always one."""
        batch: list[Encoded] = []
        seen: set[Ids] = set()
        tokens, late = 0, []
        while self._waiting:
            ask, works = self._waiting[0]
            if time.monotonic() >= ask.deadline:
                late.append(Answer(ask.number, TOO_LATE))
            else:
                tokens += self._engine.cost(works, seen)
                if batch and tokens > self._engine.max_tokens:
                    break
                batch.append((ask, works))
            self._waiting.popleft()
        if late:
            self._pipe.send(Done(tuple(late)))
        return batch

    def _compute(self, batch: Sequence[Encoded]) -> None:
        began = time.perf_counter()
        try:
            results = self._results(batch)
        except Exception:
            log.exception("a batch of %d requests failed; each is tried alone", len(batch))
            results = [self._alone(request) for request in batch]
        seen: set[Ids] = set()
        self._pipe.send(
            Done(
                tuple(Answer(ask.number, result) for (ask, _), result in zip(batch, results, strict=True)),
                tokens=sum(self._engine.cost(works, seen) for _, works in batch),
                seconds=time.perf_counter() - began,
                lost=sum(isinstance(result, Refusal) for result in results),
            )
        )

    def _alone(self, request: Encoded) -> tuple[Result, ...] | Refusal:
        try:
            return self._results([request])[0]
        except Exception as error:
            log.exception("a request failed")
            if type(error).__name__ == "AcceleratorError":  # every further call of this process would fail as well
                os._exit(1)  # the front process starts another one
            return Refusal(503, f"the model failed on this request ({type(error).__name__}); the server's log says why")

    def _results(self, batch: Sequence[Encoded]) -> list[tuple[Result, ...] | Refusal]:
        scored = iter(self._engine.scores([works for ask, works in batch if not ask.by_token]))
        return [self._engine.outputs(works) if ask.by_token else next(scored) for ask, works in batch]
