"""A headless Chromium, driven over a pipe in its own protocol: pages opened, judged and made pictures of."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = Path(__file__).parent.parent / ".venv/axe/node_modules/axe-core/axe.min.js"
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium; `scripts/setup --browser` installs it"
)
needs_axe = pytest.mark.skipif(
    CHROMIUM is None or not AXE.exists(),
    reason="needs chromium and axe-core; `scripts/setup --browser` installs them",
)
_PATIENCE_S = 60.0


class Browser:
    """One page of a browser that can reach nothing; close() ends it."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        to_it, ours = os.pipe(), os.pipe()
        self._out, self._in = to_it[1], ours[0]
        # It reads 3 and writes 4, which are taken here: bash, as dash knows no descriptor above 9.
        theirs = [fcntl.fcntl(each, fcntl.F_DUPFD, 50) for each in (to_it[0], ours[1])]
        command = f'exec 3<&{theirs[0]} 4>&{theirs[1]}; exec "$@"'
        self._process = subprocess.Popen(
            [
                *("bash", "-c", command, "bash", CHROMIUM, "--headless", "--no-sandbox"),
                *("--disable-gpu", "--remote-debugging-pipe", "--disable-dev-shm-usage"),
                *("--disable-background-networking", "--no-first-run", "--hide-scrollbars"),
                *(f"--user-data-dir={profile}", "--proxy-server=127.0.0.1:9", "about:blank"),
            ],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for each in (to_it[0], ours[1], *theirs):
            os.close(each)
        self._number = 0
        self._rest = b""
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Ask the browser for something; return what it answers."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)
        raise AssertionError(f"no answer to {method}")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._in, 1 << 20)
            assert data, "the browser has gone"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def open(self, path: Path, width: int = 1100, theme: str = "light") -> float:
        """Open a page of that width and theme; return the seconds until it is loaded and drawn."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.call("Emulation.setEmulatedMedia", media="", features=features)
        self.events.clear()
        begun = time.monotonic()
        self.call("Page.navigate", url=path.as_uri())
        drawn = "new Promise(d => requestAnimationFrame(() => requestAnimationFrame(() => d(1))))"
        while self.ask("document.readyState") != "complete":
            time.sleep(0.01)
        self.ask(drawn)
        return time.monotonic() - begun

    def ask(self, expression: str) -> Any:
        """Run an expression in the page; return its value, a promise's too."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def complaints(self) -> list[str]:
        """Return what was written to the console, and what was thrown, since the page was opened."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(each) for each in self.events if each.get("method") in kinds]

    def requests(self) -> list[str]:
        """Return what the page asked for since it was opened, itself and what it carries left out."""
        asked = [
            str(each["params"]["request"]["url"])
            for each in self.events
            if each.get("method") == "Network.requestWillBeSent"
        ]
        return [each for each in asked[1:] if not each.startswith("data:")]

    def picture(self, path: Path) -> None:
        """Save the whole page as a PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def press(self, key: str, code: int) -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **text,
            )

    def close(self) -> None:
        """End the browser."""
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        self._process.wait(20)
