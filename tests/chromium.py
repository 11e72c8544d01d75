"""Headless Chromium over the pipe of its DevTools protocol (chromedevtools.github.io/devtools-protocol)."""

import base64
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")

_PATIENCE = 120
"""Seconds."""

_TOO_SMALL = """[...document.querySelectorAll("svg text")].filter(text => text.checkVisibility()
  && text.getBoundingClientRect().height < 10 && !text.closest("g").querySelector("circle[cx]:not([cx='16'])")
).map(text => text.textContent).join()"""
_TOO_WIDE = """[...document.querySelectorAll("main *")].filter(part => part.checkVisibility()
  && part.getBoundingClientRect().right > innerWidth + 1).map(part => part.outerHTML.slice(0, 80)).join()"""


class Browser:
    """One page. ``complaints``: what its console and the browser's log say, and what it asked of elsewhere."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._rest = send, receive, b""
        self._count, self._session, self._loaded, self.complaints = 0, "", False, list[str]()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> Any:
        while b"\0" not in self._rest:
            assert select.select([self._receive], [], [], _PATIENCE)[0], "Chromium does not answer"
            data = os.read(self._receive, 1 << 20)
            assert data, "Chromium has ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        event = json.loads(line)
        method, params = event.get("method", ""), event.get("params", {})
        self._loaded |= method == "Page.loadEventFired"
        if method in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(params))
        if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "data:")):
            self.complaints.append(params["request"]["url"])
        return event

    def open(self, page: Path, width: int, *, dark: bool = False, media: str = "") -> None:
        """Show ``page`` in a window of this width, once it is loaded."""
        scale = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **scale)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._loaded = False
        self.call("Page.navigate", url=page.as_uri())
        while not self._loaded:  # which may come before the answer
            self._next()

    def value(self, expression: str) -> Any:
        """Of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, file: Path) -> None:
        """The whole page as a PNG."""
        height = self.value("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self.value("innerWidth"), "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A Chromium with its profile in ``folder``."""
    (to_read, to_send), (from_read, from_send) = os.pipe(), os.pipe()

    for end in (to_read, from_send):
        os.set_inheritable(end, True)
    # Chromium reads from 3 and writes to 4, which may be either end of ours until then.
    script = f'exec 8<&{to_read} 9>&{from_send}; exec 3<&8 4>&9 8<&- 9>&-; exec "$@"'
    argv = ("bash", "-c", script, "sh", PROGRAM, *_FLAGS, "--remote-debugging-pipe", f"--user-data-dir={folder}")
    log = (folder.parent / f"{folder.name}.log").open("wb")
    with log, subprocess.Popen(argv, pass_fds=(to_read, from_send), stdout=log, stderr=log) as process:
        os.close(to_read)
        os.close(from_send)
        try:
            yield Browser(to_send, from_read)
        finally:
            process.terminate()
            process.wait(30)
            os.close(to_send)
            os.close(from_read)


def misfits(shown: Browser, width: int) -> list[str]:
    """What of the page that is ``shown`` is too wide for a window of this width, or too small to be read."""
    over = shown.value("document.documentElement.scrollWidth") - width
    found = [f"the page: {over} pixels"] if over > 0 else []
    return [*found, *filter(None, (shown.value(_TOO_WIDE), shown.value(_TOO_SMALL)))]
