"""Chromium without a window, over its debugging pipe: what a page looks like and does in a real browser."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = (
    "NO BROWSER HERE: how the pages look and what they do in one was not checked; "
    "apt install --no-install-recommends chromium"
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--remote-debugging-pipe",
)


class Browser:
    """One tab; every call waits for its answer.

    Attributes:
        errors: what scripts threw and what the console was given as an error.
        requests: addresses that pages loaded, `data:` ones left out.
    """

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._ids = send, receive, count(1)
        self._buffer, self._session = b"", None
        self._loaded = False
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the debugging protocol, and its result."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._receive, 1 << 20)
            assert chunk, "the browser is gone"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: Mapping[str, Any]) -> None:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            self.errors.append(json.dumps(parameters["args"])[:500])
        elif method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            self.requests += [] if url.startswith("data:") else [url]

    def view(self, width: int, *, dark: bool = False, height: int = 800) -> None:
        """A screen of so many CSS pixels, in one of the colour schemes."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, page: Path, fragment: str = "") -> float:
        """Open a file; seconds until its load event."""
        self._loaded, start = False, time.perf_counter()
        self.call("Page.navigate", url="about:blank")
        while not self._loaded:
            self._note(self._read())
        self._loaded, start = False, time.perf_counter()
        self.call("Page.navigate", url=page.resolve().as_uri() + fragment)
        while not self._loaded:
            self._note(self._read())
        return time.perf_counter() - start

    def value(self, script: str) -> Any:
        """What a script evaluates to, a promise's value where it gives one."""
        out = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in out, out["exceptionDetails"]
        return out["result"].get("value")

    def until(self, script: str, seconds: float = 60.0) -> Any:
        """A script's value as soon as it is true; an element is no value."""
        end = time.monotonic() + seconds
        while not (value := self.value(script)):
            assert time.monotonic() < end, f"never true: {script}; {self.errors}"
            time.sleep(0.02)
        return value

    def press(self, key: str, code: int) -> None:
        """A key, as a person presses it."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **(text if kind == "keyDown" else {}),
            )

    def screenshot(self, path: Path, *, full: bool = True) -> None:
        """The page as a PNG, from its beginning to its end."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser; a test without one is skipped and says so."""
    program = next((name for name in NAMES if shutil.which(name)), None)
    if program is None:
        pytest.skip(MISSING)
    to_browser, from_browser = os.pipe(), os.pipe()

    def as_three_and_four() -> None:
        copies = os.dup(to_browser[0]), os.dup(from_browser[1])
        os.dup2(copies[0], 3)
        os.dup2(copies[1], 4)

    with tempfile.TemporaryDirectory() as profile:
        process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(3, 4),
            preexec_fn=as_three_and_four,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        made = Browser(to_browser[1], from_browser[0])
        try:
            yield made
        finally:
            os.close(to_browser[1])
            process.terminate()
            process.wait(30)
            os.close(from_browser[0])
