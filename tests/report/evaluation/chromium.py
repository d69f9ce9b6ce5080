"""A page in headless Chromium, driven by chromedriver's WebDriver protocol: JSON over HTTP.

The standard library speaks it well enough for a few clicks; https://www.w3.org/TR/webdriver2/
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id, by the standard
ENTER = "\ue007"
FLAGS = (
    "--headless",
    "--no-sandbox",  # Chromium refuses to be root otherwise
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def programs() -> tuple[str, str]:
    """Paths of Chromium and chromedriver."""
    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in found:
        raise RuntimeError(
            "chromium and chromedriver expected: apt-get install chromium chromium-driver"
        )
    return found[0], found[1]


@contextmanager
def chromium(width: int, height: int, *, is_phone: bool = False, is_dark: bool = False):
    """A browser of that many CSS pixels, closed at the end."""
    browser, driver = programs()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            page = Page(_port(process), _capabilities(browser, profile, width, height, is_phone))
            try:
                page.show_as("screen", "dark" if is_dark else "light")
                yield page
            finally:
                page.close()
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


def _port(process) -> int:
    for line in process.stdout:
        if found := re.search(r"started successfully on port (\d+)", line):
            return int(found[1])
    raise RuntimeError("chromedriver did not start")


def _capabilities(browser, profile, width, height, is_phone):
    options = {
        "binary": browser,
        "args": [
            *FLAGS,
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
        ],
    }
    if is_phone:
        metrics = {"width": width, "height": height, "pixelRatio": 2, "mobile": True}
        options["mobileEmulation"] = {"deviceMetrics": metrics}
    logs = {"browser": "ALL", "performance": "ALL"}
    return {"goog:chromeOptions": options, "goog:loggingPrefs": logs}


class Page:
    """What a reader does with a page, and what the browser says of it."""

    def __init__(self, port: int, capabilities: dict) -> None:
        self._url = f"http://127.0.0.1:{port}/session"
        made = self._ask("POST", "", {"capabilities": {"alwaysMatch": capabilities}})
        self._url += f"/{made['sessionId']}"

    def _ask(self, method: str, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as err:
            said = json.load(err)["value"]
            raise RuntimeError(f"{said['error']}: {said['message']}") from err

    def close(self) -> None:
        self._ask("DELETE", "")

    def show_as(self, media: str, scheme: str = "light") -> None:
        """On a screen or in print; for readers who prefer light or dark pages."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        params = {"media": media, "features": [feature]}
        body = {"cmd": "Emulation.setEmulatedMedia", "params": params}
        self._ask("POST", "/goog/cdp/execute", body)

    def open(self, file: Path) -> None:
        self._document = file.absolute().as_uri()
        self._ask("POST", "/url", {"url": self._document})

    def script(self, text: str, *args: object):
        """What the body of a function returns."""
        return self._ask("POST", "/execute/sync", {"script": text, "args": list(args)})

    def _find(self, css: str) -> str:
        body = {"using": "css selector", "value": css}
        return self._ask("POST", "/element", body)[ELEMENT]

    def click(self, css: str) -> None:
        self._ask("POST", f"/element/{self._find(css)}/click", {})

    def press(self, css: str, keys: str) -> None:
        """Type into the element that has the focus after it was given to ``css``."""
        self._ask("POST", f"/element/{self._find(css)}/value", {"text": keys})

    def name_of(self, css: str) -> str:
        """The accessible name, which a screen reader reads."""
        return self._ask("GET", f"/element/{self._find(css)}/computedlabel")

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def console(self) -> list[str]:
        """What was logged since the last call: errors, refusals of the page's policy."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def requested(self) -> list[str]:
        """Addresses the page asked for since the last call, whether or not they were answered."""
        entries = self._ask("POST", "/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
            and message["params"]["documentURL"].startswith(self._document)
        ]
