"""A headless Chromium that types and clicks, driven over its DevTools protocol; no driver is installed."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

WAIT = 60.0


class Browser:
    """A page in a browser. Use `async with Browser(url) as page`."""

    def __init__(self, url: str, width: int = 1180, height: int = 900) -> None:
        binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if binary is None:
            pytest.skip("no Chromium here; on Debian type apt-get install chromium")
        self._url, self._size, self._numbers = url, (width, height), itertools.count(1)
        self._folder = tempfile.TemporaryDirectory(prefix="rmlab-browser-", ignore_cleanup_errors=True)
        self._log = Path(self._folder.name) / "log"
        quiet = (
            "--disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
        )
        command = [binary, "--headless", "--no-sandbox", "--disable-gpu", *quiet.split(), "--remote-debugging-port=0"]
        command += [f"--user-data-dir={self._folder.name}/profile", f"--window-size={width},{height}", "about:blank"]
        with self._log.open("w") as stream:
            self._process = subprocess.Popen(command, stderr=stream)
        self.console: list[str] = []

    async def __aenter__(self) -> Browser:
        port = await self._port()
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json") as response:
            pages = [one for one in await response.json() if one["type"] == "page"]
        self._socket = await self._session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)
        for domain in ("Page", "Runtime", "Log"):
            await self.send(f"{domain}.enable")
        await self.send("Page.navigate", url=self._url)
        await self.until("document.readyState === 'complete' && location.protocol === 'http:'")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()
        await self._session.close()
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    async def _port(self) -> str:
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            if found := re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", self._log.read_text()):
                return found[1]
            await asyncio.sleep(0.05)
        raise AssertionError(self._log.read_text())

    async def send(self, method: str, **parameters: Any) -> Any:
        """Returns the result of a DevTools command."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(WAIT):
            async for message in self._socket:
                said = json.loads(message.data)
                advice = said.get("params", {}).get("entry", {}).get("level") == "verbose"
                if said.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded") and not advice:
                    self.console.append(json.dumps(said["params"]))
                if said.get("id") == number:
                    assert "error" not in said, said
                    return said["result"]
        raise AssertionError("the browser went away")

    async def value(self, expression: str) -> Any:
        """Returns what a JavaScript expression is."""
        found = await self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + WAIT
        while not await self.value(expression):
            assert time.monotonic() < end, (expression, await self.value("document.body.innerText"))
            await asyncio.sleep(0.05)

    async def click(self, selector: str) -> None:
        """Presses the mouse in the middle of an element."""
        x, y = await self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def type(self, selector: str, text: str) -> None:
        """Clicks into a field and types."""
        await self.click(selector)
        await self.send("Input.insertText", text=text)

    async def colours(self, scheme: str) -> None:
        """Pretends that the person prefers `light` or `dark`."""
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def screenshot(self, path: Path) -> None:
        """Writes the whole page as PNG."""
        shot = await self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
