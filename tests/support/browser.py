"""Headless Chromium, spoken to through a pipe (its DevTools protocol): pages as people see them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_MEASURE = """({
  width: document.documentElement.scrollWidth,
  undecoded: [...document.images].filter(image => !image.naturalWidth).map(image => image.alt),
  pictures: document.images.length,
})"""


class Look(NamedTuple):
    """A page in a window."""

    width: int
    """Of the document, in CSS pixels: more than the window's means that one must scroll sideways."""
    pictures: int
    undecoded: list[str]
    """Names of pictures that are not shown."""
    troubles: list[str]
    """What the console tells, of scripts, of the page's own policy, or of requests."""
    requests: list[str]
    """Addresses of what the page fetched, without itself and what is in it."""


class Browser:
    """One process of Chromium with one page."""

    def __init__(self, program: str, profile: Path) -> None:
        """`profile` is a folder that it may write to."""
        its_input, self._to = os.pipe()
        self._from, its_output = os.pipe()
        self._rest = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self._unheard: set[int] = set()
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
        self._process = subprocess.Popen(
            [
                *("bash", "-c", f'exec "$@" 3<&{its_input} 4>&{its_output}', "bash"),
                *(program, *options, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"),
            ],
            pass_fds=(its_input, its_output),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(its_input)
        os.close(its_output)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        # Workers wait until they are listened to; see `_receive`.
        self._call("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=True, flatten=True)

    def close(self) -> None:
        """End the process."""
        self._call("Browser.close")
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def look(self, page: Path | str, width: int, height: int = 844, dark: bool = False) -> Look:
        """Open a page in a window of so many CSS pixels, below 600 as a phone does.

        Args:
            page: an HTML file, or a URL.
            width: of the window.
            height: of the window.
            dark: as people who prefer it see it.
        """
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[feature])
        self._events.clear()
        self._call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while "Page.loadEventFired" not in {event["method"] for event in self._events}:
            self._events.append(self._receive())
        return self.seen()

    def seen(self) -> Look:
        """The page that is open, as it is now; troubles and requests are those since it was opened."""
        found = self._call("Runtime.evaluate", expression=_MEASURE, returnByValue=True)["result"]["value"]
        told = (
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Network.loadingFailed",
        )
        urls = [
            event["params"]["request"]["url"]
            for event in self._events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return Look(
            width=found["width"],
            pictures=found["pictures"],
            undecoded=found["undecoded"],
            troubles=[json.dumps(event) for event in self._events if event["method"] in told],
            requests=[url for url in urls[1:] if not url.startswith("data:")],
        )

    def click(self, *selectors: str) -> None:
        """Click on elements of the page."""
        for selector in selectors:
            script = f"document.querySelector({json.dumps(selector)}).click()"
            assert "exceptionDetails" not in self._call("Runtime.evaluate", expression=script), selector

    def press(self, key: str, code: int) -> None:
        """Press a key; `code` is its number on Windows."""
        for kind in ("rawKeyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag the mouse, in CSS pixels of the window."""
        for kind, (x, y), held in (
            ("mousePressed", start, 1),
            ("mouseMoved", end, 1),
            ("mouseReleased", end, 0),
        ):
            self._call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=held, clickCount=1
            )

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in an input of the page."""
        script = f"document.querySelector({json.dumps(selector)})"
        node = self._call("Runtime.evaluate", expression=script)["result"]["objectId"]
        self._call("DOM.setFileInputFiles", files=[str(file)], objectId=node)

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives in the page, a JSON value."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def faults(self, axe: str) -> list[str]:
        """What axe-core, whose script this is, finds that keeps people from reading or using the page."""
        self.value(f"{axe}; undefined")
        rule = "rule => rule.nodes.map(node => `${rule.id}: ${rule.help}: ${node.html}`)"
        found: list[str] = self.value(f"axe.run().then(found => found.violations.flatMap({rule}))")
        return found

    def until(self, expression: str, seconds: float = 120) -> None:
        """Wait until an expression is true in the page."""
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, f"{expression}: not after {seconds} s; {self._events}"
            time.sleep(0.05)

    def save_into(self, folder: Path) -> None:
        """Where what pages save is put."""
        self._call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def text(self) -> str:
        """What a reader of the page is given, with what its style sheet adds."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return "".join(node["name"]["value"] for node in nodes if node["role"]["value"] == "StaticText")

    def _call(self, method: str, **parameters: Any) -> Any:
        """Ask, and wait for the answer."""
        browsers = method.startswith("Browser.")
        number = self._ask(method, None if browsers else getattr(self, "_session", None), **parameters)
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._events.append(answer)

    def _ask(self, method: str, session: str | None, **parameters: Any) -> int:
        """Returns the number that the answer will have."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        return self._number

    def _receive(self) -> dict[str, Any]:
        """The next event, or answer. A worker that starts is listened to, and what it answers is no event."""
        while True:
            message = self._next()
            if message.get("method") == "Target.attachedToTarget":
                about = message["params"]
                if about["targetInfo"]["type"] == "worker":
                    for method in ("Runtime.enable", "Log.enable", "Network.enable"):
                        self._unheard.add(self._ask(method, about["sessionId"]))
                    self._unheard.add(self._ask("Runtime.runIfWaitingForDebugger", about["sessionId"]))
            if message.get("id") not in self._unheard:
                return message

    def _next(self) -> dict[str, Any]:
        parts = [self._rest]
        while b"\0" not in parts[-1]:
            part = os.read(self._from, 1 << 20)
            assert part, f"the browser has ended with {self._process.wait()}"
            parts.append(part)
        message, _, self._rest = b"".join(parts).partition(b"\0")
        return dict(json.loads(message))


@contextlib.contextmanager
def start(program: str, profile: Path) -> Iterator[Browser]:
    """A browser that ends with the block."""
    browser = Browser(program, profile)
    try:
        yield browser
    finally:
        browser.close()
