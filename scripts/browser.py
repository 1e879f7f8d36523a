"""A headless Chromium, driven over the DevTools protocol, for screenshots and tests.

async with Browser.start(tmp_path) as browser:
    await browser.open("file:///.../report.html", width=390, dark=True)
    png = await browser.screenshot()
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# The browser itself makes no network requests; only the page can.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
)  # fmt: skip
ANSWER_S = 120.0


class Browser:
    """One page of one browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._num_sent = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, profile: Path) -> AsyncIterator[Browser]:
        """Start a browser with its profile in the folder `profile`. Raises FileNotFoundError if none is installed."""
        if CHROMIUM is None:
            raise FileNotFoundError("Chromium is not installed (`apt-get install chromium`)")
        process = await asyncio.create_subprocess_exec(
            CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with aiohttp.ClientSession() as session:
                async with asyncio.timeout(ANSWER_S):
                    address = await _page_address(session, profile / "DevToolsActivePort")
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    yield cls(socket)
        finally:
            process.terminate()
            await process.wait()

    async def open(self, url: str, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Show a page in a window of the given size in CSS pixels; a narrow window imitates a phone."""
        phone = width < 600
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        await self._call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._call("Emulation.setEmulatedMedia", features=[scheme])
        await self._call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def value(self, script: str) -> Any:
        """Evaluate a JavaScript expression in the page."""
        return (await self._call("Runtime.evaluate", expression=script, returnByValue=True))["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression is true. Raises TimeoutError if that takes too long."""
        async with asyncio.timeout(ANSWER_S):
            while not await self.value(script):
                await asyncio.sleep(0.2)

    async def click(self, text: str, within: str = "*") -> None:
        """Wait for an element with exactly this text and click the innermost one; `within` is a CSS selector."""
        found = f"[...document.querySelectorAll({within!r})].filter(e => e.innerText?.trim() === {text!r}).pop()"
        await self.until(f"!!{found}")
        await self.value(f"{found}.click()")

    async def screenshot(self, top: int = 0) -> bytes:
        """The content of the window from `top` pixels down, as PNG."""
        await self.value(f"window.scrollTo(0, {top})")
        await asyncio.sleep(0.3)
        return base64.b64decode((await self._call("Page.captureScreenshot", format="png"))["data"])

    async def picture(self, selector: str, margin: int) -> bytes:
        """The first element of a CSS selector, with `margin` pixels around it, as PNG."""
        box = await self.value(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
        left, top = await self.value("[scrollX, scrollY]")
        clip = {"x": box["x"] + left - margin, "y": box["y"] + top - margin, "scale": 1}
        clip |= {side: box[side] + 2 * margin for side in ("width", "height")}
        answer = await self._call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    async def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._num_sent += 1
        await self._socket.send_json({"id": self._num_sent, "method": method, "params": parameters})
        async with asyncio.timeout(ANSWER_S):
            while True:
                message = json.loads((await self._socket.receive()).data)
                if message.get("id") == self._num_sent:
                    if "error" in message:
                        raise RuntimeError(f"{method}: {message['error']['message']}")
                    result: dict[str, Any] = message["result"]
                    return result


async def _page_address(session: aiohttp.ClientSession, port_file: Path) -> str:
    """Wait for the page and return its DevTools address."""
    while True:
        if port_file.exists() and (port := port_file.read_text().partition("\n")[0]):
            async with session.get(f"http://127.0.0.1:{port}/json") as reply:
                for target in await reply.json():
                    if target["type"] == "page":
                        return str(target["webSocketDebuggerUrl"])
        await asyncio.sleep(0.1)
