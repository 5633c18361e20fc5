"""Servers that the tests of one file share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.servers import Server


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Returns a function that starts a server; all of them are stopped in the end."""
    servers: list[Server] = []

    def begin(model: Path | str, *options: str, **environment: Any) -> Server:
        servers.append(Server(model, *options, environment=environment))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()
