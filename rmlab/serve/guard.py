"""What every request passes before a route sees it: the key, the size of its body, and the meters."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Set
from typing import final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rmlab.serve.link import Link, Refused
from rmlab.serve.messages import writable
from rmlab.serve.meters import Meters

# No data and no scores: what an orchestrator asks, the page (which asks for the key itself), and the description.
OPEN = {"/", "/health", "/ready", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}


@final
class Key:
    """Lets requests through that carry the key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._digest = app, _digest(key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN or self._known(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        unknown = JSONResponse(
            {"detail": "this server wants a key; send it as Authorization: Bearer KEY"},
            status_code=401,
            headers={"WWW-Authenticate": "Bearer"},
        )
        await unknown(scope, receive, send)

    def _known(self, headers: Headers) -> bool:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        # Digests have one length, so the time taken says nothing of the key's.
        return hmac.compare_digest(_digest(given.encode("latin-1")), self._digest)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


@final
class BodyLimit:
    """Answers 413 to a body of more than `most` bytes and 408 to one that takes more than `seconds` to arrive, without
    reading the rest of it."""

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        self._app, self._most, self._seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reason = f"the body is larger than {self._most} bytes, the most that is taken; send it in parts"
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > self._most:
            await JSONResponse({"detail": reason}, status_code=413)(scope, receive, send)
            return
        size, until, whole = 0, asyncio.get_running_loop().time() + self._seconds, False

        async def counted() -> Message:
            nonlocal size, whole
            try:
                async with asyncio.timeout_at(None if whole else until):
                    message = await receive()
            except TimeoutError:
                late = f"the body took more than {self._seconds:g} s to arrive, the most that is waited"
                raise HTTPException(408, late, headers={"Connection": "close"}) from None
            size, whole = size + len(message.get("body", b"")), not message.get("more_body", False)
            if size > self._most:
                raise HTTPException(413, reason)
            return message

        await self._app(scope, counted, send)


@final
class Full:
    """Answers 503 while no request is taken, before anything is spent on reading one: a crowd costs little.

    A request counts from its first line, or bodies that are still on their way could fill the memory.
    """

    def __init__(self, app: ASGIApp, link: Link) -> None:
        self._app, self._link, self._inside = app, link, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if (refused := self._link.refused(self._inside)) is not None:
            await answer(refused)(scope, receive, send)
            return
        self._inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1


def answer(refused: Refused) -> JSONResponse:
    """Returns what a client gets instead of results."""
    headers = None if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
    return JSONResponse({"detail": writable(refused.reason)}, status_code=refused.status, headers=headers)


@final
class Metered:
    """Counts requests by route and status, and how long they took. known: the paths of all routes."""

    def __init__(self, app: ASGIApp, meters: Meters, known: Set[str]) -> None:
        self._app, self._meters, self._known = app, meters, known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            name = scope["path"] if scope["path"] in self._known else "other"  # anybody's path must not become a label
            self._meters.requests.labels(name, str(status)).inc()
            self._meters.latency.labels(name).observe(time.perf_counter() - began)
