"""What `/metrics` shows: Prometheus counters, gauges and histograms of one server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
TOKENS = tuple(4**n for n in range(2, 10))
REQUESTS = tuple(2**n for n in range(11))
SCORES = (-50.0, -20.0, -10.0, -5.0, -2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


@final
class Meters:
    """The meters of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("rmlab_requests", "Requests answered", ["route", "status"], registry=registry)
        self.latency = Histogram(
            "rmlab_request_seconds", "Arrival to answer", ["route"], buckets=SECONDS, registry=registry
        )
        self.queue = Gauge("rmlab_queue_requests", "Requests waiting or being computed", registry=registry)
        self.ready = Gauge("rmlab_ready", "1 while a model is loaded", registry=registry)
        self.restarts = Counter("rmlab_worker_restarts", "Times the model's process ended early", registry=registry)
        self.batch_tokens = Histogram(
            "rmlab_batch_tokens", "Tokens of a batch, shared prompts once", buckets=TOKENS, registry=registry
        )
        self.batch_requests = Histogram(
            "rmlab_batch_requests", "Requests computed together", buckets=REQUESTS, registry=registry
        )
        self.batch_seconds = Histogram("rmlab_batch_seconds", "Time in the model", buckets=SECONDS, registry=registry)
        self.lost = Counter("rmlab_failed", "Requests that the model had no finite number for", registry=registry)
        self.scores = Histogram("rmlab_scores", "Raw scores given", buckets=SCORES, registry=registry)

    def observe(self, scores: Iterable[float]) -> None:
        """Counts raw scores into their distribution."""
        for score in scores:
            self.scores.observe(score)

    def text(self) -> bytes:
        """Returns all of it in Prometheus' text format."""
        return generate_latest(self._registry)
