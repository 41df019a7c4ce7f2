"""A headless Chromium that tests drive by the DevTools protocol, over a pair of pipes: no package is needed for it."""

import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--mute-audio",
)
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, " ": 32}


def find_browser() -> str | None:
    """Where a Chromium or Chrome is, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a browser. Everything that is asked raises TimeoutError if no answer comes."""

    def __init__(self, program: str, profile: Path, timeout: float = 60.0) -> None:
        self.timeout, self.problems = timeout, list[str]()
        self._numbers, self._unread = itertools.count(1), b""
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'  # the protocol's pipes have these numbers
        arguments = [program, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", *arguments],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._session: str | None = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        try:
            self._session = None
            self.ask("Browser.close")
            self._process.wait(self.timeout)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._write)
            os.close(self._read)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol: -> its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self._note(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def open(self, path: Path) -> None:
        """Open a file, and forget what was complained about before."""
        self.problems.clear()
        self.ask("Page.navigate", url=path.as_uri())
        while (event := self._next()).get("method") != "Page.loadEventFired":
            self._note(event)

    def run(self, expression: str) -> Any:
        """What an expression of the page's script gives."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def key(self, key: str, hold: float = 0.0) -> None:
        """Press a key and let it go."""
        code = KEYS.get(key, ord(key.upper()[0]))
        text = {} if len(key) > 1 else {"text": key}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        time.sleep(hold)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def click(self, selector: str) -> None:
        """Click at the middle of an element, as a mouse does."""
        place = f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{ block: "center", behavior: "instant" }});
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
        x, y = self.run(place)
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def _note(self, event: dict[str, Any]) -> None:
        """Remember errors of the page, and whatever it asks a network for."""
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(parameters["exceptionDetails"]))
        if method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.problems.append(parameters["entry"]["text"])
        if method == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith(("file:", "data:")):
            self.problems.append(f"asked for {parameters['request']['url']}")

    def _next(self) -> dict[str, Any]:
        """The next message of the browser."""
        while b"\0" not in self._unread:
            if not select.select([self._read], [], [], self.timeout)[0]:
                raise TimeoutError("the browser says nothing")
            more = os.read(self._read, 2**16)
            assert more, "the browser has gone"
            self._unread += more
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)
