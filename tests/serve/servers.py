"""Real server processes for tests: `rmlab serve` on a free loopback port, with a deadline for everything."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

WAIT = 90.0  # seconds for what takes three on an idle machine


class Server:
    """A running server. Attributes: `url`, `process`, `http` (a client), `log` (its stderr so far, as a path)."""

    def __init__(self, model: Path | str, *options: str, environment: dict[str, str] | None = None) -> None:
        with tempfile.NamedTemporaryFile(prefix="rmlab-serve-", suffix=".log", delete=False) as stream:
            self.log = Path(stream.name)
            command = [sys.executable, "-m", "rmlab", "serve", "--model", str(model), "--port", "0", *options]
            self.process = subprocess.Popen(command, stderr=stream, env={**os.environ, **(environment or {})})
        self.url = self._address()
        self.http = httpx.Client(base_url=self.url, timeout=WAIT)

    def _address(self) -> str:
        def said() -> str | None:
            found = re.search(r"listening on (http://\S+)", self.log.read_text())
            return found and found[1]

        return self.wait_for(said)

    def wait_for(self, condition: Any) -> Any:
        """Returns what `condition()` gives as soon as it is true; fails with the log after `WAIT` seconds."""
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            if value := condition():
                return value
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"waited in vain; the log: {self.log.read_text()}")

    def wait_ready(self) -> Server:
        """Returns the server when its model is loaded."""
        self.wait_for(self.ready)
        return self

    def ready(self) -> bool:
        """Returns whether a model is loaded."""
        return self.http.get("/ready").status_code == 200

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """Returns the answer to a JSON body."""
        return self.http.post(path, json=body, **options)

    def worker(self) -> psutil.Process:
        """Returns the process that holds the model."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if "spawn_main" in " ".join(child.cmdline()))

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stops the model's process for a while."""
        worker = self.worker()
        worker.suspend()
        try:
            yield
        finally:
            if worker.is_running():
                worker.resume()

    def metric(self, name: str) -> float:
        """Returns the sum of a meter over its labels."""
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}(\{{|\s)", line))

    def stop(self) -> int:
        """Ends the server as an orchestrator does. Returns its exit code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(WAIT)
        finally:
            self.process.kill()
            self.log.unlink(missing_ok=True)
