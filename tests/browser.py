"""A real browser for tests of HTML pages: headless Chromium, spoken to over a pipe (DevTools protocol), nothing to install.

    with Browser() as browser:
        page = browser.open("report.html", width=390, height=844, scheme="dark")
        assert page.console == [] and page.requests == ["file:///.../report.html"]
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.screenshot("phone.png")                  # what is in the window; full=True for the whole document

Tests that need it are marked with `needs_browser`, which skips them, and says so, where there is none. The browser reaches no
network: pages are files. It is ended by its process id, and its profile is a folder that goes with it.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: pages were not rendered (apt install chromium)"
)

_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars"),
    "--remote-debugging-pipe",
]
_PATIENCE = 180.0  # seconds for one answer


class Browser:
    """A Chromium of our own, as a context manager."""

    def __enter__(self) -> Browser:
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        # Chromium reads commands from descriptor 3 and answers on 4. Ours are moved out of the way of both first.
        ours = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for pipe in (os.pipe(), os.pipe()) for end in pipe]
        commands, self._write, self._read, answers = ours

        def connect() -> None:
            os.dup2(commands, 3)
            os.dup2(answers, 4)

        self._process = subprocess.Popen(
            [str(CHROMIUM), *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(3, 4),
            preexec_fn=connect,
        )
        os.close(commands)
        os.close(answers)
        self._buffer, self._number = b"", 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(
        self, path: str | Path, width: int = 1280, height: int = 800, scheme: str = "light", javascript: bool = True
    ) -> Page:
        """Load a page in a window of that size.

        Args:
            path: an HTML file.
            width: of the window, CSS px.
            height: of the window, CSS px.
            scheme: "light" or "dark", as the page's `prefers-color-scheme` sees it.
            javascript: whether the page's scripts may run; `Page.evaluate` works in any case.
        """
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.call("Emulation.setScriptExecutionDisabled", value=not javascript)
        page.call("Page.setLifecycleEventsEnabled", enabled=True)
        loader = page.call("Page.navigate", url=Path(path).resolve().as_uri())["loaderId"]
        self._until(lambda: loader in page.loaded, "the page to load")  # and not the blank one before it
        return page

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its result."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer: dict[str, Any] = {}

        def answered() -> bool:
            answer.update(self._answers.pop(number, {}))
            return bool(answer)

        self._until(answered, method)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _until(self, done: Any, what: str) -> None:
        """Handle what arrives until `done`."""
        deadline = time.monotonic() + _PATIENCE
        while not done():
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._read, 1 << 20) if ready else b""
            assert chunk, f"Chromium {'is gone' if ready else 'does not answer'}; waited for {what}"
            *messages, self._buffer = (self._buffer + chunk).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers[message["id"]] = message
                elif message.get("sessionId") in self._pages:
                    self._pages[message["sessionId"]].hear(message["method"], message["params"])


class Page:
    """A page that is open.

    Attributes:
        console: what it wrote to the console, with exceptions, violations of its content security policy and failed loads.
        requests: the addresses it asked for, its own first.
    """

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target
        self.console: list[str] = []
        self.requests: list[str] = []
        self.loaded: set[str] = set()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol for this page."""
        return self._browser.call(method, self._session, **params)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, which may be a promise; it must be JSON."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Type one printable character into whatever has the focus."""
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def screenshot(self, path: str | Path, full: bool = False, selector: str | None = None) -> Path:
        """Write what the window shows as PNG; with `full`, the whole document; with `selector`, that element alone."""
        options: dict[str, Any] = {"captureBeyondViewport": full or selector is not None}
        if selector is not None:
            self.evaluate(f"document.querySelector({json.dumps(selector)}).scrollIntoView()")
            self.evaluate("new Promise(requestAnimationFrame)")  # what is drawn only when seen is drawn now
            box = self.evaluate(
                f"(({{x, y, width, height}}) => ({{x: x + scrollX, y: y + scrollY, width, height}}))"
                f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
            )
            options["clip"] = box | {"scale": 1}
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **options)["data"]))
        return Path(path)

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def hear(self, event: str, params: dict[str, Any]) -> None:
        """Take note of an event."""
        if event == "Page.lifecycleEvent":
            if params["name"] == "load":
                self.loaded.add(params["loaderId"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Runtime.consoleAPICalled":
            self.console.append(f"{params['type']}: {' '.join(str(a.get('value')) for a in params['args'])}")
        elif event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.console.append(f"exception: {details.get('exception', {}).get('description', details['text'])}")
        elif event == "Log.entryAdded":
            self.console.append(f"{params['entry']['level']}: {params['entry']['text']}")
