"""A headless Chromium, driven over pipes by its own protocol: nothing to install but the browser.

The protocol is that of https://chromedevtools.github.io/devtools-protocol/, a JSON object a message, each
ended by a null byte.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_PIPES: Final = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)
_KEYS: Final = {"Enter": ("\r", 13), "Escape": ("", 27), "ArrowLeft": ("", 37), "ArrowRight": ("", 39)}


def find_chromium() -> str | None:
    """Return the program, or None; Windows has no pipes of this kind."""
    return None if sys.platform == "win32" else next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A browser with one page; everything it asked for and complained of is kept.

    Attributes
    ----------
    asked
        Addresses of all requests but data URIs.
    said
        Errors, warnings and dialogues.
    """

    def __init__(self, program: str, profile: Path) -> None:
        theirs, to_them = os.pipe()
        from_them, answers = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        flags += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PIPES, str(theirs), str(answers), program, *flags],
            pass_fds=(theirs, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(answers)
        self._to, self._from = os.fdopen(to_them, "wb"), os.fdopen(from_them, "rb")
        self._number = 0
        self._half = b""
        self._session = ""
        self._events: list[str] = []
        self.asked: list[str] = []
        self.said: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        self.send("Browser.close")
        self._process.wait()
        self._to.close()
        self._from.close()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give a command and return its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        return self._until(lambda answer: answer.get("id") == self._number)

    def open(self, page: Path, fragment: str = "") -> None:
        """Open a file in a fresh document and wait until all of it is there."""
        self.send("Page.navigate", url="about:blank")
        self._await_load()
        self.asked.clear()
        self.said.clear()
        self.send("Page.navigate", url=page.resolve().as_uri() + fragment)
        self._await_load()

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page, awaited when it is a promise."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression in the page is true."""
        self.run(
            "new Promise((done) => { const look = () => "
            f"({condition}) ? done() : requestAnimationFrame(look); look(); }})"
        )

    def key(self, name: str) -> None:
        """Press and release a key."""
        text, code = _KEYS[name]
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code=name,
                text=text,
                windowsVirtualKeyCode=code,
            )

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send a mouse event, such as ``mouseMoved``, at a place in the window."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def window(self, width: int, height: int = 900, *, scheme: str = "light") -> None:
        """Set the window's size in px and whether the reader wants light or dark."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def picture(self, *, whole: bool = False) -> bytes:
        """Return a PNG of the window, or of the whole page."""
        return base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def pdf(self) -> bytes:
        """Return the page as it prints."""
        return base64.b64decode(self.send("Page.printToPDF")["data"])

    def _await_load(self) -> None:
        if "Page.loadEventFired" not in self._events:
            self._until(lambda message: message.get("method") == "Page.loadEventFired")
        self._events.clear()

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            while b"\0" not in self._half:
                piece = os.read(self._from.fileno(), 1 << 20)
                if not piece:
                    raise AssertionError("Chromium ended")
                self._half += piece
            text, _, self._half = self._half.partition(b"\0")
            message = json.loads(text)
            self._note(message)
            if wanted(message):
                if "error" in message:
                    raise AssertionError(message["error"])
                result: dict[str, Any] = message.get("result", {})
                return result

    def _note(self, message: dict[str, Any]) -> None:
        method, facts = message.get("method", ""), message.get("params", {})
        if method == "Page.loadEventFired":
            self._events.append(method)
        elif method == "Network.requestWillBeSent":
            url = facts["request"]["url"]
            if not url.startswith(("data:", "about:")):
                self.asked.append(url)
        elif method == "Runtime.exceptionThrown":
            self.said.append(str(facts["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning"):
            self.said.append(str(facts["args"]))
        elif method == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.said.append(facts["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.said.append(f"dialogue: {facts['message']}")
