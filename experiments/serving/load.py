"""Closed-loop clients: each sends a request, waits for the answer, sends the next. Loopback only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

import aiohttp
import numpy as np

WORDS = ["the", "of", "and", "to", "in", "is", "that", "was", "for", "with", "they", "had", "what", "all", "because"]
Bodies = Callable[[], Iterator[Any]]


@dataclass(frozen=True, slots=True)
class Load:
    """What some clients saw: answers a second, latencies in milliseconds, refusals (503) a second."""

    per_second: float
    p50: float
    p99: float
    refused: float


def text(random: Random, low: int, high: int) -> str:
    """Returns words of `low` to `high` characters in all; most are short."""
    size = low + (high - low) * random.random() ** 2
    words: list[str] = []
    while sum(map(len, words)) + len(words) < size:
        words.append(random.choice(WORDS))
    return " ".join(words)


def short() -> Iterator[Any]:
    """Yields requests of distinct texts, 20 to 200 characters."""
    random = Random(0)
    while True:
        yield {"inputs": text(random, 20, 200), "raw_scores": True}


def long() -> Iterator[Any]:
    """Yields requests of distinct texts, 200 to 800 characters."""
    random = Random(0)
    while True:
        yield {"inputs": text(random, 200, 800), "raw_scores": True}


def sharing() -> Iterator[Any]:
    """Yields requests as RL sends them: eight completions in a row for each prompt, in a request each."""
    random = Random(0)
    for number in count():
        if number % 8 == 0:
            prompt = f"{number}: {text(random, 200, 500)}\n\n"
        yield {"inputs": [prompt, text(random, 20, 150)], "raw_scores": True}


async def _load(url: str, bodies: Iterator[Any], clients: int, seconds: float) -> Load:
    latencies: list[float] = []
    refused = 0
    begin = time.perf_counter()
    warm, end = begin + seconds / 5, begin + seconds  # what the first fifth sees is not counted
    random = Random(1)

    async def client(http: aiohttp.ClientSession) -> None:
        nonlocal refused
        while (sent := time.perf_counter()) < end:
            async with http.post(f"{url}/predict", json=next(bodies)) as response:
                await response.read()
                now = time.perf_counter()
                if response.status == 503:
                    refused += warm <= now < end
                    pause = float(response.headers["Retry-After"]) * random.uniform(0.5, 1)
                    await asyncio.sleep(max(0.0, min(pause, end - now)))
                    continue
                assert response.status == 200, await response.text()
                if warm <= now < end:
                    latencies.append(now - sent)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    p50, p99 = (1000 * float(np.quantile(latencies or [np.nan], q)) for q in (0.5, 0.99))
    return Load(len(latencies) / (end - warm), p50, p99, refused / (end - warm))


def measure(url: str, bodies: Bodies, clients: int, seconds: float) -> Load:
    """Returns what `clients` clients saw of a server for some seconds."""
    return asyncio.run(_load(url, bodies(), clients, seconds))
