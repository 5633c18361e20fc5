"""A reward model over HTTP: `rmlab serve`.

The front process speaks HTTP (FastAPI, uvicorn) and never imports torch; the model lives in a process of its own, so a
request is answered while the model computes, and a crash of the model is an answer (503) and a restart, not an outage.
"""
