"""A headless Chromium for the tests, driven by the DevTools protocol over a pair of pipes.

What enters: addresses to open and expressions to evaluate. What leaves: their values, and pictures.
Called by the browser tests. Every wait has a bound, the one process started is ended by its own id,
and nothing but the loopback address is asked for anything.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from shutil import which
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ANSWER_S_MAX: Final = 30.0
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# WHY: the browser reads its commands from the file descriptor 3 and answers on 4.
LAUNCH: Final = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4);"
    " os.execv(sys.argv[3], sys.argv[3:])"
)


class BrowserError(Exception):
    """The browser said no, or nothing."""


def find_chromium() -> str | None:
    """Find a Chromium on the PATH."""
    return next((path for path in map(which, NAMES) if path), None)


class Browser:
    """A running browser; `run` starts one."""

    def __init__(self, process: subprocess.Popen[bytes], to_fd: int, from_fd: int) -> None:
        self.process = process
        self._to_fd = to_fd
        self._from_fd = from_fd
        self._rest = b""
        self._number = 0

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one command and return its result; events on the way are dropped."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        if session is not None:
            command["sessionId"] = session
        os.write(self._to_fd, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_S_MAX
        while True:
            found = json.loads(self._read(deadline))
            if found.get("id") == self._number:
                break
        if "error" in found:
            raise BrowserError(f"{method}: {found['error']}")
        result = found["result"]
        assert isinstance(result, dict)
        return result

    def _read(self, deadline: float) -> bytes:
        while b"\0" not in self._rest:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self._from_fd], [], [], left_s)[0]:
                raise BrowserError(f"no answer within {ANSWER_S_MAX} s")
            data = os.read(self._from_fd, 1 << 16)
            if not data:
                raise BrowserError(f"the browser has ended: {self.process.poll()}")
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return message

    def open(self, url: str = "about:blank") -> Page:
        """Open a page in a tab of its own."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, target, attached["sessionId"])
        page.go(url)
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command to this tab."""
        return self._browser.ask(method, self._session, **params)

    def go(self, url: str) -> None:
        """Go to an address; returns when the page has loaded."""
        self.ask("Page.navigate", url=url)
        if url != "about:blank":
            self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression: str) -> Any:
        """Evaluate an expression in the page; a promise is awaited."""
        found = self.ask(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            raise BrowserError(json.dumps(found["exceptionDetails"])[:2000])
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Wait until an expression is true in the page, and return its value."""
        deadline = time.monotonic() + ANSWER_S_MAX
        while True:
            with suppress(BrowserError):  # the page may be on its way to another
                if value := self.evaluate(expression):
                    return value
            if time.monotonic() > deadline:
                shown = self.evaluate("document.body && document.body.innerText")
                raise BrowserError(f"not within {ANSWER_S_MAX} s: {expression}\n{shown}")
            time.sleep(0.02)

    def show(self, width: int, height: int, scheme: str = "light") -> None:
        """Set the size of the window, and whether the user likes it dark."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=features)

    def picture(self, path: Path) -> None:
        """Write a picture of the window as PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """Close the tab; its page is hidden first, as when a person closes it."""
        self._browser.ask("Target.closeTarget", targetId=self._target)


@contextmanager
def run(path: str, profile: Path) -> Iterator[Browser]:
    """Run the browser at `path` with an empty profile."""
    ends = [_move(fd) for pipe in (os.pipe(), os.pipe()) for fd in pipe]
    to_read, to_write, from_read, from_write = ends
    # WHY: what the sanitized build preloads into Python does not fit a browser.
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    launch = [sys.executable, "-c", LAUNCH, str(to_read), str(from_write)]
    process = subprocess.Popen(
        [*launch, path, *FLAGS, f"--user-data-dir={profile}"],
        env=env,
        pass_fds=(to_read, from_write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(from_write)
    try:
        yield Browser(process, to_write, from_read)
    finally:
        # The browser ends itself, and its helper processes, when its pipe is closed.
        os.close(to_write)
        try:
            process.wait(ANSWER_S_MAX)
        finally:
            process.kill()
            process.wait()
            os.close(from_read)


def _move(fd: int) -> int:
    """Move a file descriptor away from 3 and 4."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(fd)
    return moved
