"""Chromium, driven by tests of pages."""

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import sys
import time

import pytest
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)")


class Browser:
    """A page in headless Chromium, by its DevTools protocol on a pipe."""

    # which it reads from descriptor 3, and writes to 4
    START = (
        "import fcntl, os, sys; r, w = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]); "
        "os.dup2(r, 3); os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"
    )

    def __init__(self, profile):
        theirs, self._out = os.pipe()
        self._in, theirs_too = os.pipe()
        fcntl.fcntl(self._in, fcntl.F_SETFL, os.O_NONBLOCK)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.START, str(theirs), str(theirs_too), CHROMIUM, *options],
            pass_fds=(theirs, theirs_too),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(theirs_too)
        self._buffer, self._number, self._session, self.events = b"", 0, None, []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self):
        self._session = None
        self.send("Browser.close")
        self.process.wait(20)
        os.close(self._out)
        os.close(self._in)

    def send(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (found := self._receive()).get("id") != self._number:
            self.events.append(found)
        assert "error" not in found, found
        return found["result"]

    def _receive(self, seconds=600):
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            assert select.select([self._in], [], [], max(0, end - time.monotonic()))[0], (
                "Chromium does not answer"
            )
            part = os.read(self._in, 1 << 20)
            assert part, "Chromium has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path):
        self.events.clear()
        self.send("Page.navigate", url=path.as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._receive())

    def complaints(self):
        """What went to the console, and whatever was fetched but the page itself and its pictures."""
        self.run("0")  # whatever happened before has been told
        logs = (
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        )
        found = [e["params"] for e in self.events if e.get("method") in logs]
        requests = [e["params"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        others = [(r.get("type"), r["request"]["url"]) for r in requests if r.get("type") != "Document"]
        return found + [
            url
            for kind, url in others
            if not url.startswith("data:image/jpeg") and not (kind == "Image" and url.startswith("file:"))
        ]

    def run(self, code):
        found = self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, selector):
        """With the mouse, in the middle of an element."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({ block: 'center', behavior: 'instant' }); const b = e.getBoundingClientRect(); "
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, *keys):
        """Keys of the keyboard, by their names, wherever the focus is."""
        codes = {
            "Tab": 9,
            "Enter": 13,
            "Escape": 27,
            " ": 32,
            "End": 35,
            "Home": 36,
            "ArrowLeft": 37,
            "ArrowRight": 39,
        }
        for key in keys:
            how = {"key": key, "windowsVirtualKeyCode": codes[key]}
            if key in ("Enter", " "):
                how["text"] = "\r" if key == "Enter" else " "
            self.send("Input.dispatchKeyEvent", type="keyDown", **how)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=codes[key])

    def until(self, code, seconds=30):
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({code})"):
            assert time.monotonic() < end, (
                f"{code} does not come; the page says {self.run('document.body.innerText')}"
            )
            time.sleep(0.05)

    def resize(self, width, height=800):
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.run("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def overflow(self):
        """Pixels by which the page, or any element of it, is wider than what is seen of it."""
        return self.run(
            "Math.max(document.documentElement.scrollWidth - innerWidth, ...[...document.querySelectorAll("
            "'body *')].filter(e => e.offsetParent && !e.closest('svg, .ends, [class*=sr-only]')).map(e => "
            "Math.ceil(e.getBoundingClientRect().right - innerWidth)))"
        )

    def pdf(self):
        return base64.b64decode(self.send("Page.printToPDF", printBackground=True)["data"])

    def choose(self, selector, value):
        self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)}; "
            "e.dispatchEvent(new Event('change')); })()"
        )

    def type(self, selector, text):
        self.run(f"document.querySelector({json.dumps(selector)}).select()")
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.send("Input.insertText", text=text)

    def texts(self, selector):
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")

    def screenshot(self, dark=False):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send(
            "Emulation.setDeviceMetricsOverride", width=1280, height=1800, deviceScaleFactor=1, mobile=False
        )
        return Image.open(io.BytesIO(base64.b64decode(self.send("Page.captureScreenshot")["data"])))
