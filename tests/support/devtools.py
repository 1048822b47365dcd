"""Drive a real browser over the DevTools protocol: many pages, sizes and color schemes in one process.

`tests.support.browser` starts a browser for each page, which is simpler for one page.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import ClientConnection, connect

from tests.support.probes import browser
from tests.support.waiting import wait_for

_REPLY_S = 60


class Tab:
    """A tab of the browser.

    Attributes:
        problems: Exceptions and console errors of the page, and its requests to other hosts.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self.problems: list[str] = []
        self._connection = connection
        self._count = 0
        self._is_loaded = False
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._count += 1
        sent = {"id": self._count, "method": method, "params": parameters}
        self._connection.send(json.dumps(sent))
        while (message := self._receive()).get("id") != self._count:
            self._note(message)
        assert "error" not in message, f"{method}: {message['error']}"
        return message["result"]

    def open(self, address: str) -> None:
        """Load a page and wait for its `load` event. Forget the problems of the page before."""
        self.problems.clear()
        self._is_loaded = False
        self.send("Page.navigate", url=address)
        while not self._is_loaded:
            self._note(self._receive())

    def resize(self, width: int, height: int = 900) -> None:
        """Set the size of the viewport in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, scheme: str) -> None:
        """Set the color scheme of the system, `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.send("Emulation.setEmulatedMedia", features=[feature])

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression, of its result if it is a promise."""
        how = {"awaitPromise": True, "returnByValue": True}
        reply = self.send("Runtime.evaluate", expression=script, **how)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def _receive(self) -> dict[str, Any]:
        return json.loads(self._connection.recv(timeout=_REPLY_S))

    def _note(self, message: dict[str, Any]) -> None:
        match message:
            case {"method": "Page.loadEventFired"}:
                self._is_loaded = True
            case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
                self.problems.append(f"exception: {details}")
            case {"method": "Runtime.consoleAPICalled", "params": {"type": "error", "args": said}}:
                self.problems.append(f"console: {said}")
            case {"method": "Log.entryAdded", "params": {"entry": {"level": "error"} as entry}}:
                self.problems.append(f"log: {entry['text']} {entry.get('url', '')}")
            case {"method": "Network.requestWillBeSent", "params": {"request": {"url": url}}}:
                if not url.startswith(("file:", "data:", "blob:")):
                    self.problems.append(f"request: {url}")


@contextlib.contextmanager
def open_tab(folder: Path) -> Iterator[Tab]:
    """Start a browser with its profile in `folder`, and end it afterwards."""
    profile = folder / "profile"
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    # Only addresses of this machine; the browser itself sends no requests either.
    switches += ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
    switches += ["--disable-background-networking", "--no-first-run"]
    process = subprocess.Popen(
        [browser(), *switches, f"--user-data-dir={profile}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with connect(_page_address(profile), max_size=None) as connection:
            yield Tab(connection)
    finally:
        process.terminate()
        process.wait()


def _page_address(profile: Path) -> str:
    """Return the WebSocket address of the browser's page, once it listens."""
    listening = profile / "DevToolsActivePort"
    wait_for(lambda: listening.exists() and listening.read_text().count("\n"), timeout_s=60)
    port = listening.read_text().partition("\n")[0]
    with urlopen(f"http://127.0.0.1:{port}/json") as reply:
        return next(
            each["webSocketDebuggerUrl"] for each in json.load(reply) if each["type"] == "page"
        )
