"""A headless Chromium driven over its DevTools protocol, with nothing but a WebSocket client."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.sync.client import ClientConnection, connect

from support.chromium import chromium

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-port=0",
)


class Browser:
    """One page. `errors` collects what the page complained about: exceptions, refused loads, broken policies."""

    def __init__(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        program = chromium()
        assert program is not None
        self._process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.errors: list[str] = []
        self._number = 0
        self._closing = ExitStack()
        self._socket = self._closing.enter_context(self._connect())
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setScrollbarsHidden", hidden=True)
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.resize(width, height)
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()
        self._process.terminate()
        self._process.wait(20)
        self._profile.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Runs one command of the protocol; what the page complains about meanwhile is noted."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def resize(self, width: int, height: int) -> None:
        """Sets the size of the window's inside."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, address: str) -> None:
        """Goes to a page and waits until it is loaded."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str, timeout_s: float = 60.0) -> None:
        """Waits until an expression is true in the page."""
        end = time.monotonic() + timeout_s
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never true: {condition}\n{self.evaluate('document.body.innerText')}"
            time.sleep(0.05)

    def choose_file(self, selector: str, path: Path) -> None:
        """Chooses a file in a file field, as a person would in its dialog."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def type(self, selector: str, text: str) -> None:
        """Types into a field in place of what it holds, and presses Enter."""
        self.evaluate(f"(document.querySelector({selector!r}).focus(), document.querySelector({selector!r}).select())")
        self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
            )

    def choose(self, selector: str, value: str) -> None:
        """Chooses an entry of a list."""
        field = f"document.querySelector({selector!r})"
        self.evaluate(f"({field}.value = {value!r}, {field}.dispatchEvent(new Event('change', {{bubbles: true}})))")

    def click(self, selector: str) -> None:
        """Clicks on the middle of an element."""
        x, y = self.middle(selector)
        self.drag((x, y), (x, y))

    def middle(self, selector: str) -> tuple[float, float]:
        """Where the middle of an element is in the window; it is scrolled to."""
        self.evaluate(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        x, y, width, height = self.place(selector)
        return x + width / 2, y + height / 2

    def place(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element in the window."""
        box = f"document.querySelector({selector!r}).getBoundingClientRect()"
        x, y, width, height = self.evaluate(f"(({{x, y, width, height}}) => [x, y, width, height])({box})")
        return x, y, width, height

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Presses the mouse at a point of the window, moves it and lets it go."""
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def screenshot(self) -> bytes:
        """What is seen, as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def _connect(self) -> ClientConnection:
        """The page's own connection; the browser writes the port that it chose into its profile."""
        place, end = Path(self._profile.name) / "DevToolsActivePort", time.monotonic() + 60
        while not (place.exists() and place.read_text().strip()):
            assert time.monotonic() < end, "Chromium did not start"
            assert self._process.poll() is None, "Chromium ended at once"
            time.sleep(0.05)
        port = place.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
            (page,) = [target for target in json.load(answer) if target["type"] == "page"]
        return connect(page["webSocketDebuggerUrl"], max_size=None)

    def _note(self, message: dict[str, Any]) -> None:
        method, given = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(given["exceptionDetails"].get("exception", given))[:500])
        elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.errors.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")
