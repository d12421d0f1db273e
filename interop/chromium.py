"""A headless Chromium with one page, steered over its pipe by JSON messages, each ended by NUL.

It reaches no host but ``localhost``.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import subprocess
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Browser"]

_PATIENCE = 60.0
_FLAGS = (
    # Root has no sandbox; containers have a small /dev/shm and no graphics.
    "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
    "--remote-debugging-pipe",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE evil.localhost",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# Chromium reads from descriptor 3 and writes to 4. Its ends of the pipes have far higher numbers,
# so that neither replaces the other.
_PLACE_PIPES = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
_FAR_ABOVE = 64


class Browser:
    """A Chromium with one page, which keeps what it writes in ``folder``."""

    def __init__(self, folder: Path) -> None:
        down, self._write = os.pipe()
        self._read, up = os.pipe()
        far = [_far_above(down), _far_above(up)]
        self._log = folder / "chromium.log"
        command = [
            "bash",
            "-c",
            _PLACE_PIPES,
            "-",
            *map(str, far),
            "chromium",
            *_FLAGS,
            f"--user-data-dir={folder / 'profile'}",
        ]
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "DBUS_"))
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "about:blank"], cwd=folder, env={**environment, "HOME": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, pass_fds=far,
            )  # fmt: skip
        for number in far:
            os.close(number)
        self._data = b""
        self._number = 0
        self._session: dict[str, str] = {}
        self.console: list[str] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = {
            "sessionId": self.call("Target.attachToTarget", targetId=page, flatten=True)[
                "sessionId"
            ]
        }
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for number in (self._read, self._write):
            os.close(number)

    def call(self, method: str, /, **parameters: Any) -> dict[str, Any]:
        """Call a method of Chromium; return the result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == self._number:
                if "error" in heard:
                    raise AssertionError(f"{method}: {heard['error']}")
                result: dict[str, Any] = heard["result"]
                return result
            if heard.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.console.append(json.dumps(heard["params"]))

    def _hear(self) -> dict[str, Any]:
        while b"\0" not in self._data:
            if not select.select([self._read], [], [], _PATIENCE)[0]:
                raise AssertionError("Chromium sends nothing")
            piece = os.read(self._read, 1 << 16)
            if not piece:
                raise AssertionError(f"Chromium has ended: {self._log.read_text(errors='replace')}")
            self._data += piece
        message, _, self._data = self._data.partition(b"\0")
        heard: dict[str, Any] = json.loads(message)
        return heard

    def look(self, *, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the window and the colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        mood = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[mood])

    def visit(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until(
            lambda: (
                self.run("document.readyState") == "complete" and self.run("location.href") == url
            )
        )

    def run(self, script: str) -> Any:
        """Return the value of an expression, in the page."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get(
            "value"
        )

    def text(self) -> str:
        """Return the text that the page shows."""
        found: str = self.run("document.body.innerText")
        return found

    def until(self, condition: Callable[[], object], seconds: float = _PATIENCE) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise AssertionError("it has not come true")
            time.sleep(0.1)

    def picture(self) -> bytes:
        """Take a screenshot, as PNG."""
        return b64decode(self.call("Page.captureScreenshot", format="png")["data"])


def _far_above(number: int) -> int:
    """Return the same file by a number that no other program's convention uses.

    The old number is closed.
    """
    far: int = fcntl.fcntl(number, fcntl.F_DUPFD, _FAR_ABOVE)
    os.close(number)
    return far
