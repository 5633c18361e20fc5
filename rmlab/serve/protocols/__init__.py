"""What clients already speak, one file a protocol: each makes items of a body and a body of results, and no more.

A protocol is a module with `router(service)`. Names and shapes are the client's own, field for field; a field that
would change a score and is not supported is refused by name, never accepted and ignored. `model` is the exception: a
server has one model, whatever a client calls it.
"""

from __future__ import annotations

from fastapi import APIRouter

from rmlab.serve.protocols import llamafactory, openrlhf, own, tei, vllm
from rmlab.serve.service import Service


def routers(service: Service) -> list[APIRouter]:
    """Returns the routes of all protocols."""
    return [protocol.router(service) for protocol in (own, openrlhf, vllm, tei, llamafactory)]
