"""The HTTP application: the protocols' routes, health, metrics, the page, and errors in one sentence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse

import rmlab
from rmlab.serve.guard import OPEN, BodyLimit, Full, Key, Metered, answer
from rmlab.serve.link import AGAIN, LOADING, Refused
from rmlab.serve.messages import writable
from rmlab.serve.meters import Meters
from rmlab.serve.page import HEADERS, page
from rmlab.serve.protocols import routers
from rmlab.serve.service import ERRORS, Error, Service

STATES: dict[int | str, dict[str, Any]] = {503: {"model": Error, "description": "The model is being loaded."}}


def make_app(service: Service, meters: Meters, key: str | None) -> FastAPI:
    """Returns the application. It starts the model's process when it starts, and ends it when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(service.link.run())
        try:
            yield
        finally:  # a second signal ends the server by cancelling this, and the model's process must not outlive it
            running.cancel()
            service.link.close()

    app = FastAPI(
        title="rmlab",
        summary=f"Rewards from {service.name}",
        version=rmlab.__version__,
        lifespan=lifespan,
        responses={401: ERRORS[401]},
    )
    for routes in routers(service):
        app.include_router(routes)
    _add_states(app, service, meters)
    app.add_exception_handler(Refused, _refused)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _malformed)  # type: ignore[arg-type]
    app.add_middleware(BodyLimit, most=service.limits.max_body, seconds=service.limits.timeout)
    app.add_middleware(Full, link=service.link)
    if key is not None:
        app.add_middleware(Key, key=key)
    known = OPEN | app.openapi()["paths"].keys()
    app.add_middleware(Metered, meters=meters, known=known)  # outermost: it counts what the others refuse
    return app


def _add_states(app: FastAPI, service: Service, meters: Meters) -> None:
    began, html = int(time.time()), page()

    @app.get("/", response_class=HTMLResponse, tags=["page"])
    async def index() -> HTMLResponse:
        """A page on which a person compares answers."""
        return HTMLResponse(html, headers=HEADERS)

    @app.get("/health", tags=["state"])
    async def health() -> dict[str, str]:
        """The server runs; it may still be loading its model."""
        return {"status": "ok"}

    @app.get("/ready", tags=["state"], responses=STATES)
    async def ready() -> dict[str, str]:
        """A model is loaded and requests are answered."""
        if service.link.hello is None:
            raise Refused(LOADING, AGAIN)
        return {"status": "ready"}

    @app.get("/metrics", tags=["state"])
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", tags=["state"])
    async def models() -> dict[str, Any]:
        """The one model of this server, as OpenAI's clients list models."""
        hello = service.link.hello
        return {
            "object": "list",
            "data": [
                {
                    "id": service.name,
                    "object": "model",
                    "created": began,
                    "owned_by": "rmlab",
                    "max_model_len": None if hello is None else hello.max_length,
                }
            ],
        }


async def _refused(request: Request, error: Refused) -> JSONResponse:
    return answer(error)


async def _malformed(request: Request, error: RequestValidationError) -> JSONResponse:
    # What was sent is not repeated: it may be long, and half a surrogate pair cannot even be written.
    found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3]]
    return JSONResponse({"detail": writable("; ".join(found))[:2000]}, status_code=422)
