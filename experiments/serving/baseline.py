"""What one writes in ten minutes: FastAPI in front of a `transformers` pipeline, one request after the other.

It answers the /predict of text-embeddings-inference, raw, as `rmlab serve` does. The pipeline is called where the
request arrives: in a thread pool it is slower, because the threads take turns on the same cores.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from transformers import pipeline


def main(model: str, threads: int) -> None:
    """Serves on a free port, which it prints."""
    torch.set_num_threads(threads)
    score = pipeline("text-classification", model=model, device="cpu", function_to_apply="none")
    app = FastAPI()

    @app.post("/predict")
    async def predict(body: dict[str, Any]) -> list[dict[str, Any]]:
        texts = body["inputs"]
        return score(texts if isinstance(texts, str) else "".join(texts))  # type: ignore[no-any-return]

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        return {}

    listening = socket.create_server(("127.0.0.1", 0))
    print(f"listening on http://127.0.0.1:{listening.getsockname()[1]}", file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="error")).run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
