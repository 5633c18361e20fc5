"""The page at `/`: type a prompt and answers, see what the model makes of them.

One self-contained document: style and script are inlined, nothing is fetched but the server's own routes, and the
browser is told to allow nothing else. Whatever is shown is set as text, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent


def _inlined(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


STYLE, SCRIPT = _inlined("page.css"), _inlined("page.js")
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def page() -> str:
    """Returns the document."""
    return _inlined("page.html").replace("{{style}}", STYLE).replace("{{script}}", SCRIPT)
