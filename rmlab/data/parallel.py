"""Encoding in several processes, in the order of the source and with the results of one.

The beginning is encoded here; small data ends before a process would have started, and shows whether they would help.
For the rest every process reads the source itself and encodes every n-th block: examples are dearer to hand over than
to read. Blocks come back through pipes, whose small buffers hold a fast process up, so memory does not grow with the
data. What reading raises is raised here, where it would have come.

Left out: sharing out what is read. A source is one stream of lines, and has to be read to know where they begin.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

from rmlab.data.source import SetAside, Source
from rmlab.data.tokenize import Encoder

Outcome = dict[str, Any] | SetAside  # the encoded record, or why there is none
BEGINNING = 2048  # examples encoded before processes are started; well under a second
BLOCK = 128  # examples in a block
GAIN = 1.5  # how much faster it must promise to be: all processes read everything, and handing over costs time too
MOST = 8  # processes; one reads and writes about as fast as eight encode
# A fork starts at once and needs nothing pickled. It is safe here: the children neither compute with torch nor touch a
# GPU. Other systems start Python anew.
METHOD = "fork" if sys.platform == "linux" else "spawn"


def encoded(source: Source, split: str, encoder: Encoder, *, processes: int | None = None) -> Generator[Outcome]:
    """Yields what becomes of each row of a split, in order. processes: default one a core, at most `MOST`."""
    count = min(MOST, _cores()) if processes is None else processes
    items, reading, encoding = source.read(split), 0.0, 0.0
    for _ in range(BEGINNING):
        begin = time.thread_time()
        item = next(items, None)
        middle = time.thread_time()
        if item is None:
            return
        outcome = _outcome(item, encoder)
        reading, encoding = reading + middle - begin, encoding + time.thread_time() - middle
        yield outcome
    if count > 1 and reading + encoding > GAIN * (reading + encoding / count):
        yield from _from_processes(source, split, encoder, count)
    else:
        yield from (_outcome(item, encoder) for item in items)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _outcome(item: Any, encoder: Encoder) -> Outcome:
    if isinstance(item, SetAside):
        return item
    record = encoder.encode(item)
    return SetAside(reason=record, where=item.id) if isinstance(record, str) else record


def _from_processes(source: Source, split: str, encoder: Encoder, count: int) -> Iterator[Outcome]:
    """Yields the outcomes behind the beginning."""
    with _started(source, split, encoder, count) as pipes:
        for block in range(sys.maxsize):
            try:
                found = pipes[block % count].recv()
            except EOFError:
                raise RuntimeError("a process that encodes ended without a word; it may have been killed") from None
            if isinstance(found, BaseException):
                raise found
            if found is None:
                return
            yield from found


@contextmanager
def _started(source: Source, split: str, encoder: Encoder, count: int) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context(METHOD)
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    ends = [end for pipe in pipes for end in pipe]
    workers = [
        context.Process(  # type: ignore[attr-defined]
            target=_work,
            args=(source, split, encoder, (number, count), pipe[1], ends if METHOD == "fork" else ()),
            daemon=True,
        )
        for number, pipe in enumerate(pipes)
    ]
    try:
        for worker in workers:
            worker.start()
        for _, writing in pipes:
            writing.close()
        yield [reading for reading, _ in pipes]
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _work(
    source: Source, split: str, encoder: Encoder, place: tuple[int, int], own: Connection, ends: Sequence[Connection]
) -> None:
    """Sends every n-th block of outcomes, then None; or what was raised. `ends` are those that a fork inherited."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run stops us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for end in ends:
        if end is not own:  # or no pipe would break when the run is killed, and we would wait for ever
            end.close()
    number, count = place
    try:
        items = islice(source.read(split), BEGINNING, None)
        block = 0
        while found := list(islice(items, BLOCK)):
            if block % count == number:
                own.send([_outcome(item, encoder) for item in found])
            block += 1
        own.send(None)
    except BrokenPipeError:
        return
    except BaseException as error:
        own.send(error)
