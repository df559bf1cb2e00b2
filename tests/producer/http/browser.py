"""A page in headless Chromium: what it asks the network for, what stands in it, what happens when it is clicked."""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.programs import program

_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


class Page:
    """Driven over a pair of pipes (`--remote-debugging-pipe`); each message ends in a zero byte."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = os.fdopen(to_browser, "wb"), os.fdopen(from_browser, "rb")
        self._calls = 0
        self._session: str | None = None
        self.requested: list[str] = []
        """URLs."""
        self.complaints: list[str] = []
        """What the console and the browser say against the page."""

    def open(self, url: str) -> None:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Log", "Runtime", "Page"):
            self._call(f"{domain}.enable")
        self._call("Emulation.setDeviceMetricsOverride", width=1300, height=1700, deviceScaleFactor=1, mobile=False)
        self._call("Page.navigate", url=url)

    def __call__(self, script: str) -> Any:
        """The value of an expression in the page."""
        said = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def photograph(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self._to.close()
        self._from.close()

    def _call(self, method: str, **given: Any) -> dict[str, Any]:
        self._calls += 1
        call = {"id": self._calls, "method": method, "params": given}
        if self._session:
            call["sessionId"] = self._session
        self._to.write(json.dumps(call).encode() + b"\0")
        self._to.flush()
        while (message := self._next()).get("id") != self._calls:
            self._note(message.get("method"), message.get("params", {}))
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    def _next(self) -> dict[str, Any]:
        said = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            assert byte, "the browser has ended"
            said += byte
        message: dict[str, Any] = json.loads(said)
        return message

    def _note(self, event: str | None, said: dict[str, Any]) -> None:
        match event:
            case "Network.requestWillBeSent":
                self.requested.append(said["request"]["url"])
            case "Log.entryAdded" if said["entry"]["level"] == "error":
                self.complaints.append(said["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(said["exceptionDetails"]))


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    its_input, to_browser = os.pipe()
    from_browser, its_output = os.pipe()
    command = (program("chromium"), *_OPTIONS, f"--user-data-dir={folder / 'browser'}", "--remote-debugging-pipe")
    process = subprocess.Popen(
        # It reads from 3 and writes to 4.
        ["bash", "-c", f'exec "$@" 3<&{its_input} 4>&{its_output}', "bash", *command],
        pass_fds=(its_input, its_output),
        stderr=subprocess.DEVNULL,
    )
    os.close(its_input)
    os.close(its_output)
    page = Page(to_browser, from_browser)
    try:
        yield page
    finally:
        process.kill()
        process.wait()
        page.close()
