"""The page of ``aigciqa demo``: the command itself, used with a browser."""

import base64
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, needs_chromium
from conftest import random_network, tiny_config
from PIL import Image

import aigciqa
from aigciqa.demo import serve
from aigciqa.errors import InputError
from aigciqa.weights import save_checkpoint


def needs_gradio(test):
    """Slow, for a server that imports torch and Gradio."""
    there = importlib.util.find_spec("gradio") is not None
    return pytest.mark.slow(
        pytest.mark.skipif(not there, reason="needs gradio (pip install 'aigciqa[demo]')")(test)
    )


COMMAND = shutil.which("aigciqa", path=str(Path(sys.executable).parent))
LIMIT = 90_000
# writes down whoever the command connects to
WATCH = """
import os, sys
def watch(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        with open(os.environ["WATCHED"], "a") as file:
            print(arguments[1][0], file=file)
    if event == "socket.getaddrinfo":
        with open(os.environ["WATCHED"], "a") as file:
            print(arguments[0], file=file)
sys.addaudithook(watch)
"""


class Page(Browser):
    """The demo's, by its address."""

    def open(self, address):
        self.address = address
        self.events.clear()
        self.send("Page.navigate", url=address)
        self.until("document.querySelector('#score')")

    def shot(self, width, height):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.run("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
        return Image.open(io.BytesIO(base64.b64decode(self.send("Page.captureScreenshot")["data"])))

    def upload(self, place, path):
        """Put a file into the picture's field, as dropping it there does."""
        self.run(f"document.querySelector('#{place} button[aria-label=\"Clear\"]')?.click()")
        self.until(f"document.querySelector('#{place} input[type=file]')")
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=f"#{place} input[type=file]")["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
        self.until(f"document.querySelector('#{place} img')?.naturalWidth")

    def strangers(self):
        """What was fetched from elsewhere."""
        sent = [
            e["params"]["request"]["url"]
            for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in sent if not url.startswith((self.address, "data:", "blob:"))]

    def complaints(self):
        self.run("0")
        told = [
            e["params"]
            for e in self.events
            if e.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")
        ]
        console = [e["params"] for e in self.events if e.get("method") == "Runtime.consoleAPICalled"]
        return told + [one for one in console if one["type"] in ("error", "assert")]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    for reference in ("none", "full"):
        config = tiny_config(reference)
        save_checkpoint(folder / config.name, config, random_network(config).state_dict())
    return folder


@pytest.fixture(scope="module")
def demo(checkpoints):
    """The command, and what it is to leave behind: nothing."""
    (checkpoints / "watch").mkdir()
    (checkpoints / "watch" / "sitecustomize.py").write_text(WATCH)
    (checkpoints / "temporary").mkdir()
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(checkpoints / "watch"), os.environ.get("PYTHONPATH")])
        ),
        "WATCHED": str(checkpoints / "watched"),
        "TMPDIR": str(checkpoints / "temporary"),
        "GRADIO_SHARE": "True",  # which it must not follow
    }
    names = [
        option for name in ("tiny-none", "tiny-full") for option in ("--metric", str(checkpoints / name))
    ]
    process = subprocess.Popen(
        [COMMAND, "demo", *names, "--device", "cpu", "--max-pixels", str(LIMIT)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=(checkpoints / "errors").open("w"),
        text=True,
    )
    process.address = process.stdout.readline().split(" ")[0].strip()
    if not process.address:
        raise AssertionError((checkpoints / "errors").read_text())
    yield process
    if process.poll() is None:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser(demo, tmp_path_factory):
    found = Page(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def page(browser, demo):
    browser.open(demo.address)
    return browser


def scores(page):
    return [float(text) for text in page.texts("#scores b")]


@needs_gradio
@needs_chromium
def test_a_picture_gets_its_scores_and_its_map(page, checkpoints, picture, tmp_path):
    picture(200, 150, 3).save(tmp_path / "a.png")
    page.until("!document.querySelector('#reference')?.offsetParent")  # before anything is done
    page.upload("picture", tmp_path / "a.png")
    assert not page.run("document.querySelector('#reference')?.offsetParent")
    page.click("#score")
    page.until("document.querySelectorAll('#scores b').length == 2")
    metric = aigciqa.create_metric(checkpoints / "tiny-none", device="cpu")
    expected = [score.item() for score in metric.predict(tmp_path / "a.png").values()]
    assert scores(page) == pytest.approx(expected, abs=0.01)
    assert page.texts("#scores th") == ["quality", "authenticity"]
    shown = page.texts("#scores")[0]
    assert "of 0 to 5" in shown and "learned from none (random weights)" in shown
    assert metric.config.sha256[:12] in shown
    page.until("document.querySelector('#map img')?.naturalWidth")
    drawn = metric.explain(tmp_path / "a.png").overlay()
    size = page.run("(i => [i.naturalWidth, i.naturalHeight])(document.querySelector('#map img'))")
    assert tuple(size) == drawn.size
    assert page.complaints() == []
    assert page.strangers() == []
    shot = page.shot(1280, 900).convert("RGB")
    assert len(shot.getcolors(1 << 24)) > 2000
    assert np.asarray(shot).std() > 10


@needs_gradio
@needs_chromium
def test_full_reference_wants_the_prompt(page, checkpoints, picture, tmp_path):
    for i in range(2):
        picture(120, 90, i).save(tmp_path / f"{i}.png")
    page.upload("picture", tmp_path / "0.png")
    page.click("input[type=radio][value$=tiny-full]")
    page.until("document.querySelector('#reference')?.offsetParent")
    page.click("#score")
    page.until("document.body.innerText.includes('tiny-full compares with the image prompt; drop that, too')")
    page.upload("reference", tmp_path / "1.png")
    page.click("#score")
    page.until("document.querySelectorAll('#scores b').length == 2")
    metric = aigciqa.create_metric(checkpoints / "tiny-full", device="cpu")
    expected = metric.predict(tmp_path / "0.png", tmp_path / "1.png")
    assert scores(page) == pytest.approx([score.item() for score in expected.values()], abs=0.01)


CLEARED = "document.querySelector('#scores').innerText.includes('press Score')"


@needs_gradio
@needs_chromium
def test_scores_go_with_what_they_are_of(page, picture, tmp_path):
    """With another metric, another image, another reference, and an error."""
    for i in range(2):
        picture(120, 90, i).save(tmp_path / f"{i}.png")

    def scored():
        page.click("#score")
        page.until("document.querySelectorAll('#scores b').length == 2")
        page.until("document.querySelector('#map img')?.naturalWidth")

    def cleared(what=CLEARED):
        page.until(what)
        page.until("!document.querySelector('#map img')")
        assert scores(page) == []

    page.upload("picture", tmp_path / "0.png")
    scored()
    page.upload("picture", tmp_path / "1.png")
    cleared()
    scored()
    page.click("input[type=radio][value$=tiny-full]")
    page.until("document.querySelector('#reference')?.offsetParent")
    cleared()
    page.upload("reference", tmp_path / "0.png")
    scored()
    page.upload("reference", tmp_path / "1.png")
    cleared()
    scored()
    page.click("#reference button[aria-label='Remove Image']")
    cleared()
    page.click("#score")
    page.until("document.body.innerText.includes('tiny-full compares with the image prompt; drop that, too')")
    cleared("true")
    page.upload("reference", tmp_path / "1.png")
    scored()


@needs_gradio
@needs_chromium
def test_every_metric_is_explained(page, checkpoints):
    shown = page.texts("#about dd")
    assert len(shown) == 2
    for name, text, needs in zip(("tiny-none", "tiny-full"), shown, ("takes no", "needs both"), strict=True):
        config = aigciqa.metric_info(checkpoints / name)
        assert needs in text and "0 to 5. Higher is better." in text
        assert ", ".join(config.dimensions) in text
        assert config.provenance.get("accuracy", "not stated") in text


@needs_gradio
@needs_chromium
def test_keyboard_and_phone(page, picture, tmp_path):
    picture(120, 90).save(tmp_path / "ein_langer_Name_ohne_Leerzeichen_ü日本.png")
    try:
        page.resize(390)
        page.upload("picture", tmp_path / "ein_langer_Name_ohne_Leerzeichen_ü日本.png")
        page.run("document.querySelector('#score').focus()")
        page.press("Enter")
        page.until("document.querySelectorAll('#scores b').length == 2")
        page.until("document.querySelector('#map img')?.naturalWidth")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        page.run("document.querySelector('input[type=radio]:checked').focus()")
        page.press("Tab", " ")  # Gradio's radios are stops of the Tab key, each by itself
        page.until(CLEARED)
    finally:
        page.send("Emulation.clearDeviceMetricsOverride")


@needs_gradio
@needs_chromium
def test_the_example_is_there(page):
    page.until("document.querySelectorAll('.gallery img, table img').length >= 2")
    page.click(".gallery-item, .gallery tr, tr.tr-body")
    page.until("document.querySelector('#picture img')?.naturalWidth == 384")
    page.click("input[type=radio][value$=tiny-full]")
    for place in ("picture", "reference"):
        page.until(f"document.querySelector('#{place} img')?.offsetParent")
    page.click(".gallery-item, .gallery tr, tr.tr-body")
    page.run("new Promise(r => setTimeout(r, 300))")
    assert page.run("Boolean(document.querySelector('#reference img')?.offsetParent)")


def call(address, *data):
    """What the button does, from a program; the last event and its data."""
    body = json.dumps({"data": data}).encode()
    request = urllib.request.Request(
        f"{address}/gradio_api/call/score", body, {"Content-Type": "application/json"}
    )
    event = json.load(urllib.request.urlopen(request))["event_id"]
    events = urllib.request.urlopen(f"{address}/gradio_api/call/score/{event}").read().decode()
    *_, last = events.strip().split("\n\n")
    kind, _, content = last.partition("\n")
    return kind.removeprefix("event: "), json.loads(content.removeprefix("data: "))


def upload(address, name, data):
    body = (
        b"--x\r\nContent-Disposition: form-data; name=\"files\"; filename=\"" + name.encode() + b"\"\r\n"
        b"Content-Type: application/octet-stream\r\n\r\n" + data + b"\r\n--x--\r\n"
    )  # fmt: skip
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(f"{address}/gradio_api/upload", body, headers)
    (path,) = json.load(urllib.request.urlopen(request))
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def bomb(path):
    Image.new("1", (20_000, 20_000)).save(path, "PNG")


@needs_gradio
@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("notes.png", lambda path: path.write_text("hello"), "notes.png: not a picture that Pillow can read"),
        ("empty.jpg", lambda path: path.write_bytes(b""), "empty.jpg: not a picture that Pillow can read"),
        (
            "big.png",
            lambda path: Image.new("RGB", (301, 300)).save(path, "PNG"),
            "has more than 0.09 megapixels",
        ),
        ("bomb.png", bomb, "has more than 0.09 megapixels"),
        ("<b>x.png", lambda path: path.write_text("hello"), "&lt;b&gt;x.png: not a picture"),
    ],
)
def test_broken_pictures(demo, checkpoints, tmp_path, name, write, says):
    write(tmp_path / "file")
    file = upload(demo.address, name, (tmp_path / "file").read_bytes())
    kind, said = call(demo.address, str(checkpoints / "tiny-none"), file, None)
    assert kind == "error"
    assert says in json.dumps(said)
    assert "temporary" not in json.dumps(said)  # no path of this machine


@needs_gradio
def test_nothing_else_of_this_machine_is_read(demo, checkpoints, picture):
    picture(100, 100).save(checkpoints / "private.png")
    file = {"path": str(checkpoints / "private.png"), "meta": {"_type": "gradio.FileData"}}
    assert call(demo.address, str(checkpoints / "tiny-none"), file, None)[0] == "error"
    assert call(demo.address, "nr-aigciqa", None, None)[0] == "error"  # is not among the metrics


@needs_gradio
def test_the_port_is_taken(demo, checkpoints):
    port = int(demo.address.rpartition(":")[2])
    with (
        pytest.raises(InputError, match=f"cannot listen on 127.0.0.1, port {port}"),
        serve([checkpoints / "tiny-none"], port=port, device="cpu"),
    ):
        pass


def test_without_gradio(checkpoints, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with (
        pytest.raises(InputError, match=r"needs gradio; pip install 'aigciqa\[demo\]'"),
        serve([checkpoints / "tiny-none"], device="cpu"),
    ):
        pass


@needs_gradio
def test_it_ends_without_a_trace(demo, checkpoints):
    """Last: it ends the command that the others use."""
    assert list((checkpoints / "temporary").iterdir())
    before = (checkpoints / "errors").read_text()
    assert "KeyError" not in before  # as it has, where Gradio tells what it refused
    demo.send_signal(signal.SIGINT)
    assert (demo.communicate(timeout=30)[0], demo.returncode) == ("", 0)
    assert (checkpoints / "errors").read_text() == before
    assert list((checkpoints / "temporary").iterdir()) == []
    watched = checkpoints / "watched"
    assert watched.exists()  # it asks itself whether it can be reached
    assert set(watched.read_text().split()) <= {"127.0.0.1", "localhost"}
