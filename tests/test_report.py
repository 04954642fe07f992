import base64
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, needs_chromium
from conftest import EXAMPLES
from PIL import Image
from scipy import stats

from aigciqa import report as module
from aigciqa.errors import InputError
from aigciqa.groups import holm, mann_whitney, mean_interval
from aigciqa.pairing import Unpaired, naming
from aigciqa.records import Row
from aigciqa.report import Report
from aigciqa.sources import Item

SCRIPT = "<script>alert(1)</script>.png"
HANDLER = '"><img src=x onerror=alert(1)>.png'


def about(**changes):
    return {
        "stamp": "tiny@v1 sha256:0123",
        "dimensions": ["quality", "authenticity"],
        "score_range": (0.0, 5.0),
        "labels": "none (random weights)",
    } | changes


def written(path):
    """The data of a page, as a browser would take it."""
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())
    return json.loads(content)


def encoded(colour, size=(24, 16)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "JPEG")
    return out.getvalue()


def preview(data, name):
    """The decoded preview of a file of the page."""
    source = next(uri for found, _, uri in data["files"] if found == name)
    return Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))


@pytest.mark.parametrize(
    "n, m, levels", [(40, 40, None), (15, 80, None), (60, 50, 4), (1, 30, None), (9, 9, 2)]
)
def test_mann_whitney_is_scipys(n, m, levels):
    rng = np.random.default_rng(n + m)
    for shift in (0, 0.4, 3):
        first, second = rng.normal(size=n) + shift, rng.normal(size=m)
        if levels:
            first, second = first.round(0).clip(0, levels), second.round(0).clip(0, levels)
        larger, p = mann_whitney(first, second)
        expected = stats.mannwhitneyu(first, second, method="asymptotic")
        assert larger == pytest.approx(expected.statistic / (n * m), abs=1e-12)
        assert p == pytest.approx(expected.pvalue, abs=1e-12)
        assert mann_whitney(second, first) == pytest.approx((1 - larger, p))


def test_mann_whitney_of_equal_scores():
    assert mann_whitney(np.ones(3), np.ones(5)) == (0.5, 1.0)
    assert mann_whitney(np.ones(1), np.ones(1)) == (0.5, 1.0)


def test_holm():
    # R: p.adjust(c(.04, .01, .03, .02, .9), "holm")
    assert holm([0.04, 0.01, 0.03, 0.02, 0.9]) == pytest.approx([0.09, 0.05, 0.09, 0.08, 0.9])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_interval_is_scipys_bootstrap():
    scores = np.random.default_rng(0).exponential(size=200)
    expected = stats.bootstrap((scores,), np.mean, method="percentile", rng=np.random.default_rng(1))
    assert mean_interval(scores) == pytest.approx(tuple(expected.confidence_interval), abs=0.02)
    assert mean_interval(scores) == mean_interval(scores)
    assert mean_interval(np.array([2.0])) == (2.0, 2.0)


def test_page_holds_everything(tmp_path, picture):
    path = tmp_path / "new" / "report.html"
    with Report(path, **about(group_by="{0}")) as report:
        for i, (group, score) in enumerate([("SD", 1.0), ("SD", 2.0), ("MJ", 3.5), ("MJ", 4.5)]):
            name = tmp_path / "new" / f"{group}_{i}.png"
            picture(300, 200, seed=i).save(name)
            row = Row(str(name), str(EXAMPLES / "ref.png"), {"authenticity": 1.0, "quality": score})
            report.add(row, Item(str(name), str(EXAMPLES / "ref.png")))
        report.add(Row("MJ_9.png", None, None, "no such file"))
    data = written(path)
    assert (data["scored"], data["failed"], data["previews"]) == (4, 1, 4)
    assert data["errors"] == [["MJ_9.png", "no such file", 0]]
    quality, authenticity = data["dimensions"]
    assert quality["statistics"]["mean"] == 2.75
    assert quality["statistics"]["median"] == 2.75
    assert quality["statistics"]["sd"] == pytest.approx(np.std([1, 2, 3.5, 4.5], ddof=1))
    assert sum(quality["counts"]) == 4 and quality["counts"][8] == 1  # 1.0 in bins of 0.125
    assert (quality["low"], quality["high"]) == (0, 5)
    assert authenticity["statistics"]["sd"] == 0
    assert data["groupNames"] == ["MJ", "SD"]
    found = data["compared"][0]
    assert [(g["n"], g["failed"], g["mean"]) for g in found["groups"]] == [(2, 1, 4.0), (2, 0, 1.5)]
    assert found["pairs"][0][:4] == [0, 1, 2.5, 1.0]
    assert [row[2:] for row in data["rows"]] == [[1, 1.0, 1.0], [1, 2.0, 1.0], [0, 3.5, 1.0], [0, 4.5, 1.0]]
    assert len(data["files"]) == 5  # the reference once
    assert [link for _, link, _ in data["files"]] == [
        "./SD_0.png",
        os.path.relpath(EXAMPLES / "ref.png", tmp_path / "new"),
        "./SD_1.png",
        "./MJ_2.png",
        "./MJ_3.png",
    ]
    image = preview(data, str(tmp_path / "new" / "SD_0.png"))
    assert image.size == (128, 85)
    expected = picture(300, 200, seed=0).resize((128, 85), Image.Resampling.LANCZOS)
    # in grey, for JPEG halves the resolution of colours
    assert np.abs(np.asarray(image.convert("L"), float) - np.asarray(expected.convert("L"), float)).mean() < 4


def test_scores_outside_the_scale_are_counted(tmp_path):
    path = tmp_path / "report.html"
    with Report(path, **about(dimensions=["quality"])) as report:
        for score in (-1.0, 2.0, 7.0):
            report.add(Row("gone.png", None, {"quality": score}))
    (quality,) = written(path)["dimensions"]
    assert (quality["low"], quality["high"], sum(quality["counts"])) == (-1, 7, 3)


def test_previews_of_bytes_and_of_files_that_are_gone(tmp_path):
    path = tmp_path / "report.html"
    with Report(path, **about()) as report:
        item = Item("a.tar/1.jpg", "a.tar/1.ref.jpg", encoded("red"), encoded("blue"))
        report.add(Row(item.picture, item.reference, {"quality": 1.0, "authenticity": 1.0}), item)
        report.add(Row("gone.png", None, {"quality": 2.0, "authenticity": 1.0}), Item("gone.png"))
    data = written(path)
    for name, colour in (("a.tar/1.jpg", (254, 0, 0)), ("a.tar/1.ref.jpg", (0, 0, 254))):
        assert np.abs(np.subtract(preview(data, name).getpixel((5, 5)), colour)).max() < 5
    assert data["files"][2] == ["gone.png", "", ""]
    assert data["previews"] == 1


def test_large_pictures_are_thinned_alike(tmp_path, picture, monkeypatch):
    picture(2100, 900).save(tmp_path / "a.png", exif=_turned())
    whole = Image.open(io.BytesIO(module._jpeg(tmp_path / "a.png")))
    monkeypatch.setattr("aigciqa.image.LARGE", 1000)
    strips = Image.open(io.BytesIO(module._jpeg(tmp_path / "a.png")))
    assert whole.size == strips.size == (55, 128)  # upright
    assert np.abs(np.asarray(whole, float) - np.asarray(strips, float)).mean() < 6


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    "pattern, name, group",
    [
        ("{0}", "x/SD_007_00.jpg", "SD"),
        ("{parent}", "runs/a/1.png", "a"),
        ("prompt {1:d}", "SD_007_00.jpg", "prompt 7"),
        ("{1:d}", "SD_x_00.jpg", "(no such part)"),
        ("{2}", "SD_007.jpg", "(no such part)"),
    ],
)
def test_grouping(pattern, name, group):
    found = naming(pattern, "group_by")(name)
    assert (module._UNGROUPED if isinstance(found, Unpaired) else found) == group


def test_only_the_largest_groups_are_compared(tmp_path):
    path = tmp_path / "report.html"
    with Report(path, **about(dimensions=["quality"], group_by="{0}")) as report:
        for i in range(25):
            for k in range(1 + (i >= 5)):
                report.add(Row(f"g{i}_{k}.png", None, {"quality": i / 10}))
    data = written(path)
    assert data["groupNames"][:20] == [f"g{i}" for i in range(24, 4, -1)]
    assert len(data["groupNames"]) == 25
    assert len(data["compared"][0]["pairs"]) == 190


def test_wrong_input(tmp_path):
    with pytest.raises(InputError, match=r"^group_by '\{colour\}': no field \{colour\}"):
        Report(tmp_path / "a.html", **about(group_by="{colour}"))
    with pytest.raises(InputError, match="not a file; write the report to another name"):
        Report(tmp_path, **about())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"a\.html: cannot be written"):
        Report(tmp_path / "file" / "a.html", **about())
    with pytest.raises(InputError, match="has scores of quality, not of quality, authenticity"):
        Report(tmp_path / "a.html", **about()).add(Row("a.png", None, {"quality": 1.0}))


def test_nothing_is_written_unless_all_is(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("before")
    with pytest.raises(RuntimeError), Report(path, **about()):
        raise RuntimeError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def gif():
    out = io.BytesIO()
    Image.new("P", (24, 16), 1).save(out, "GIF")
    return out.getvalue()


def test_only_images_are_linked(tmp_path):
    """A file can be a GIF and a web page at once, and a browser goes by its name."""
    page = gif() + b"<script>document.title = 'run'</script>"
    shown = ["a.png", "b.JPG", "c.gif", "d.webp", "e.tiff"]
    others = [
        "a.html",
        "b.HTM",
        "c.svg",
        "d.xhtml",
        "e.xml",
        "f.mht",
        "g.pdf",
        "h",
        "i.png.html",
        "j.js",
        "k.",
        "l.hta",
    ]
    with Report(tmp_path / "report.html", **about()) as report:
        for name in shown + others:
            (tmp_path / name).write_bytes(page)
            report.add(Row(str(tmp_path / name), None, {"quality": 1.0, "authenticity": 1.0}))
    links = {Path(name).name: link for name, link, _ in written(tmp_path / "report.html")["files"]}
    assert links == {name: f"./{name}" for name in shown} | dict.fromkeys(others, "")


@needs_chromium
def test_a_web_page_among_the_images_does_not_run(browser, tmp_path):
    script = b"<script>document.title = 'run'</script>"
    for name in ("a.html", "b.gif"):
        (tmp_path / name).write_bytes(gif() + script)
    with Report(tmp_path / "report.html", **about()) as report:
        for name in ("a.html", "b.gif"):
            report.add(Row(str(tmp_path / name), None, {"quality": 1.0, "authenticity": 1.0}))
    browser.open(tmp_path / "a.html")
    assert browser.run("document.title") == "run"  # so it would
    browser.open(tmp_path / "report.html")
    assert (
        browser.run("[...document.querySelectorAll('a[href]')].filter(a => a.href.includes('a.html')).length")
        == 0
    )
    browser.click(GALLERY)
    links = browser.run("[...document.querySelectorAll('dialog a')].map(a => a.getAttribute('href'))")
    browser.open(tmp_path / "b.gif")
    assert browser.run("document.title") != "run"
    assert links in ([], ["./b.gif"])


def test_names_are_escaped_in_the_file(tmp_path):
    path = tmp_path / "report.html"
    names = [
        SCRIPT,
        HANDLER,
        "</script>",
        "<!--",
        "a\u2028b&amp;.png",
        os.fsdecode(b"\xff.png"),
        "javascript:1.png",
    ]
    for name in names:
        if "/" not in name:
            (tmp_path / name).write_bytes(encoded("red"))
    with Report(path, **about(stamp="<b>&", group_by="{name}")) as report:
        for name in names:
            report.add(Row(str(tmp_path / name), None, {"quality": 1.0, "authenticity": 1.0}))
            report.add(Row(name, None, None, "<i>"))
    page = path.read_text()
    assert page.count("<script") == 2 and page.count("</script>") == 2
    assert "<img" not in page and "<b>" not in page and "<i>" not in page and "<!--" not in page
    data = written(path)
    assert [name for name, _, _ in data["files"]] == [str(tmp_path / name) for name in names]
    assert data["files"][-1][1] == "./javascript%3A1.png"


def many(path, count):
    """A report of many pictures with few different contents, and their qualities."""
    contents = [encoded((i * 8, 255 - i * 8, 90)) for i in range(32)]
    rng = np.random.default_rng(0)
    quality = rng.uniform(0, 5, count).round(4)
    with Report(path, **about(group_by="{0}")) as report:
        for i, score in enumerate(quality):
            item = Item(
                f"pictures.tar/{'AB'[i % 2]}_{i:05d}.jpg",
                "pictures.tar/ref.jpg",
                contents[i % 32],
                contents[0],
            )
            row = Row(item.picture, item.reference, {"quality": score, "authenticity": (score + i % 3) / 2})
            report.add(row, item)
            assert len(report._previews) < 4000
    return quality


@pytest.fixture(scope="module")
def ten_thousand(tmp_path_factory):
    path = tmp_path_factory.mktemp("many") / "report.html"
    return path, many(path, 10_000)


def test_previews_of_ten_thousand(ten_thousand):
    path, quality = ten_thousand
    data = written(path)
    assert len(data["rows"]) == data["scored"] == 10_000
    shown = [bool(data["files"][row[0]][2]) for row in data["rows"]]
    order = np.argsort(quality, kind="stable")
    assert all(shown[i] for i in [*order[:500], *order[-500:], *range(0, 10_000, data["every"])])
    assert sum(shown) == data["previews"] < 2500
    assert data["every"] == 32
    assert path.stat().st_size < 10e6


def test_what_is_left_out_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ALL", 20)
    monkeypatch.setattr(module, "ENDS", 5)
    monkeypatch.setattr(module, "LISTED", 50)
    path = tmp_path / "report.html"
    with Report(path, **about(dimensions=["quality"])) as report:
        for i in range(100):
            report.add(Row(f"{i}.png", None, {"quality": i / 20}), Item(f"{i}.png", None, encoded("red")))
            report.add(Row(f"{i}.png", None, None, "broken"))
    data = written(path)
    kept = sorted({*range(5), *range(95, 100), *range(0, 100, 32)})
    assert [data["files"][row[0]][0] for row in data["rows"]] == [f"{i}.png" for i in kept]
    assert (data["scored"], data["previews"], sum(data["dimensions"][0]["counts"])) == (100, len(kept), 100)
    assert (data["failed"], len(data["errors"])) == (100, 50)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def page(browser, hundred):
    """Opened afresh."""
    browser.open(hundred)
    return browser


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    """A page of a hundred pictures of two generators with strange names among them, and errors."""
    tmp_path = tmp_path_factory.mktemp("hundred")
    rng = np.random.default_rng(0)
    with Report(tmp_path / "report.html", **about(group_by="{0}")) as report:
        for i in range(100):
            name = f"{('SD', 'MJ')[i % 2]}_{i:03d}_.png"
            if i in (7, 8):
                name = {7: f"MJ_{HANDLER}", 8: SCRIPT}[i]
            path = tmp_path / name
            if "/" not in name:
                noise = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
                noise.resize((140, 100), Image.Resampling.BICUBIC).save(path, compress_level=1)
            quality = [0.25, 4.75][i % 2] if i < 8 else rng.uniform(1, 4)
            row = Row(str(path), str(EXAMPLES / "ref.png"), {"quality": quality, "authenticity": 5 - quality})
            report.add(row)
        report.add(Row(SCRIPT, None, None, "no such <file>"))
        report.add(Row(HANDLER, None, None, "is a <b>folder</b>"))
    return tmp_path / "report.html"


GALLERY = "#gallery .card"


def shown_scores(page, number):
    """Of one dimension, of the cards that are drawn."""
    return page.run(
        f"[...document.querySelectorAll('{GALLERY}')].map(c => +c.querySelectorAll('b')[{number}].textContent)"
    )


@needs_chromium
def test_opens_without_complaint(page):
    assert page.complaints() == []
    assert page.run("document.title") == "tiny@v1 sha256:0123"
    assert page.texts("#count") == ["100 pictures"]
    assert page.texts("h2") == ["Scores", "Groups", "Pictures", "Not scored"]
    assert page.run("[...document.images].filter(i => i.complete && !i.naturalWidth).length") == 0
    assert page.run("document.images.length") > 100  # each beside its reference


@needs_chromium
def test_complaints_are_noticed(page):
    page.run(
        "{ const s = document.createElement('script'); s.textContent = 'alert(1)'; document.body.append(s); }"
    )
    page.run("fetch('https://example.org/').catch(() => 0)")
    assert "Content Security Policy" in str(page.complaints())


@needs_chromium
def test_sorts(page):
    up = shown_scores(page, 0)
    assert len(up) >= 60 and up == sorted(up) and up[0] == 0.25
    page.choose("#order", "down")
    down = shown_scores(page, 0)
    assert down == sorted(down, reverse=True) and down[0] == 4.75
    page.choose("#dimension", "1")
    assert shown_scores(page, 1) == sorted(shown_scores(page, 1), reverse=True)
    page.choose("#order", "up")
    assert shown_scores(page, 1) == sorted(shown_scores(page, 1))
    assert page.texts(".ends h3") == ["Lowest authenticity", "Highest authenticity"]
    assert page.complaints() == []


@needs_chromium
def test_draws_the_rest_when_scrolled_to(page):
    page.run("window.scrollTo(0, document.body.scrollHeight)")
    page.run("new Promise(r => setTimeout(r, 300))")
    assert len(page.texts(GALLERY)) == 100


@needs_chromium
def test_filters(page):
    page.type("#search", "sd_01")
    assert page.texts("#count") == ["5 of 100 pictures"]
    assert sorted(page.texts(f"{GALLERY} .name")) == [f"SD_{i:03d}_.png" for i in (10, 12, 14, 16, 18)]
    page.type("#search", "_0")
    page.choose("#group", str(page.texts("#group option").index("MJ") - 1))
    names = page.texts(f"{GALLERY} .name")
    assert len(names) == 49 and all(name.startswith("MJ_0") for name in names)
    page.type("#search", "nothing like it")
    assert page.texts(GALLERY) == [] and page.texts("#count") == ["0 of 100 pictures"]
    assert page.complaints() == []


@needs_chromium
def test_a_bar_shows_its_pictures(page):
    page.click("rect.bar")  # the lowest
    assert page.texts("#count") == ["4 of 100 pictures"]
    assert shown_scores(page, 0) == [0.25] * 4
    page.click("#part")
    assert page.texts("#count") == ["100 pictures"]


@needs_chromium
def test_a_click_enlarges_and_links(page):
    page.type("#search", "mj_009")
    page.click(GALLERY)
    assert page.run("document.querySelector('dialog').open")
    page.until(
        "[...document.querySelectorAll('dialog figcaption')].every(c => c.textContent.includes('pixels'))"
    )
    assert page.texts("dialog figcaption") == ["generated, 140 × 100 pixels", "reference, 512 × 512 pixels"]
    sizes = page.run("[...document.querySelectorAll('dialog img')].map(i => [i.naturalWidth, i.width])")
    assert [natural for natural, _ in sizes] == [140, 512]
    assert all(shown <= natural for natural, shown in sizes)  # nothing is enlarged
    assert page.run("document.querySelector('dialog a').getAttribute('href')") == "./MJ_009_.png"
    assert page.run("document.querySelectorAll('dialog a').length") == 2
    page.click("dialog button[aria-label=close]")
    assert not page.run("document.querySelector('dialog').open")


@needs_chromium
def test_the_dialog_says_that_an_original_is_gone(browser, tmp_path, picture):
    picture(300, 200).save(tmp_path / "a.png")
    with Report(tmp_path / "report.html", **about()) as report:
        report.add(Row(str(tmp_path / "a.png"), None, {"quality": 1.0, "authenticity": 1.0}))
        item = Item("a.tar/b.jpg", None, encoded("red"))
        report.add(Row(item.picture, None, {"quality": 2.0, "authenticity": 1.0}), item)
    (tmp_path / "a.png").unlink()
    browser.open(tmp_path / "report.html")
    browser.click(GALLERY)
    browser.until("document.querySelector('dialog figcaption').textContent.includes('it is gone')")
    assert browser.texts("dialog figcaption")[0].startswith("generated: a small preview; the original cannot")
    assert browser.run("(i => [i.naturalWidth, i.width])(document.querySelector('dialog img'))") == [128, 128]
    browser.press("ArrowRight")
    assert "not an image file that this page can reach" in browser.texts("dialog figcaption")[0]


@needs_chromium
def test_arrow_keys_go_on_in_the_dialog(page):
    page.click(GALLERY)
    page.press("ArrowRight", "ArrowRight")
    assert "3 of 100" in page.texts("dialog")[0]
    settled = "[...document.querySelectorAll('dialog img')].every(image => image.complete)"
    page.until(settled)  # images that arrive move the buttons
    page.click("dialog button[aria-label=next]")
    page.until("document.querySelector('dialog').innerText.includes('4 of 100')")
    page.press("ArrowLeft", "ArrowLeft")
    assert "2 of 100" in page.texts("dialog")[0]
    page.until(settled)
    page.click("dialog button[aria-label=previous]")  # which is off now
    page.until("document.querySelector('dialog').innerText.includes('1 of 100')")
    page.press("ArrowRight")
    assert "2 of 100" in page.texts("dialog")[0]
    page.press("Escape")
    assert not page.run("document.querySelector('dialog').open")


@needs_chromium
def test_bars_are_reached_by_keyboard(page):
    focused = "document.activeElement.getAttribute('aria-label')"
    page.press("Tab")
    assert page.run(focused) == "quality 0.25 to 0.38: 4 pictures"
    assert page.run("document.activeElement.getAttribute('role')") == "button"
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("End")
    assert page.run(focused) == "quality 4.75 to 4.88: 4 pictures"
    page.press("ArrowLeft", "ArrowRight", "Enter")
    assert page.texts("#count") == ["4 of 100 pictures"]
    assert shown_scores(page, 0) == [4.75] * 4
    assert page.run("document.activeElement.id") == "part"
    page.press("Enter")
    assert page.texts("#count") == ["100 pictures"]
    assert page.complaints() == []


LONG = "ein_sehr_langer_Name_ohne_Leerzeichen_" * 4 + "日本語_ümlaut.png"


@pytest.fixture
def wide(tmp_path, picture):
    """A page with much in its rows: long names, three dimensions, groups."""
    path = tmp_path / "report.html"
    with Report(
        path, **about(dimensions=["quality", "authenticity", "correspondence"], group_by="{0}")
    ) as report:
        for i in range(40):
            name = tmp_path / f"{('StableDiffusionXL', 'Midjourney', 'DALLE')[i % 3]}_{i:03d}_{LONG}"
            picture(60, 40, seed=i).save(name)
            scores = {"quality": i / 8, "authenticity": 5 - i / 8, "correspondence": 2.5}
            report.add(Row(str(name), str(EXAMPLES / "ref.png"), scores))
        report.add(Row(f"broken/{LONG}", None, None, "not a picture that Pillow can read"))
    return path


@needs_chromium
def test_nothing_is_cut_on_a_phone(browser, wide):
    browser.open(wide)
    try:
        browser.resize(390)
        assert browser.overflow() <= 0
        browser.click(GALLERY)
        browser.until("document.querySelectorAll('dialog img').length == 2")
        assert browser.overflow() <= 0
    finally:
        browser.send("Emulation.clearDeviceMetricsOverride")


@needs_chromium
def test_every_column_is_printed(browser, wide):
    browser.open(wide)
    try:
        browser.send("Emulation.setEmulatedMedia", media="print")
        browser.resize(700)  # about what A4 has between its margins
        assert browser.overflow() <= 0
        parts = "[...document.querySelectorAll('.scroll, .cards, table')]"
        assert browser.run(f"{parts}.filter(e => e.scrollWidth > e.clientWidth + 1).length") == 0
        assert browser.pdf().startswith(b"%PDF")
        assert len(browser.texts(GALLERY)) == 40
    finally:
        browser.send("Emulation.setEmulatedMedia", media="")
        browser.send("Emulation.clearDeviceMetricsOverride")


@needs_chromium
def test_names_stay_text(page):
    assert page.texts("#errors td") == [SCRIPT, "no such <file>", HANDLER, "is a <b>folder</b>"]
    page.type("#search", "alert(1)")
    assert sorted(page.texts(f"{GALLERY} .name")) == sorted([SCRIPT, f"MJ_{HANDLER}"])
    page.choose("#order", "down")
    page.click(GALLERY)
    assert f"MJ_{HANDLER}" in page.texts("dialog")[0]
    assert page.run("document.querySelectorAll('script').length") == 2
    assert page.run("document.querySelectorAll('[onerror]').length") == 0
    assert page.complaints() == []


@needs_chromium
def test_group_table(page):
    tables = page.texts("section:nth-of-type(2) table")
    assert len(tables) == 4  # groups and pairs, of two dimensions
    groups = page.run(
        "[...document.querySelectorAll('section:nth-of-type(2) table')].map("
        "t => [...t.rows].map(r => [...r.cells].slice(0, 2).map(c => c.textContent)))"
    )
    assert sorted(groups[0]) == [["MJ", "50"], ["SD", "49"], ["group", "scored"], ["script>", "1"]]
    assert sorted(map(sorted, groups[1][1:])) == [["MJ", "SD"], ["MJ", "script>"], ["SD", "script>"]]
    assert groups[2][1:] == groups[0][1:]


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_looks_like_something(page, dark, tmp_path):
    shot = page.screenshot(dark).convert("RGB")
    assert len(shot.getcolors(1 << 24)) > 5000
    background = np.mean(shot.getpixel((3, 3)))
    assert background < 60 if dark else background > 200


@needs_chromium
def test_ten_thousand_can_be_sorted_and_searched(browser, ten_thousand):
    path, quality = ten_thousand
    browser.open(path)
    assert browser.texts("#count") == ["10,000 pictures"]
    browser.choose("#order", "down")
    assert shown_scores(browser, 0)[0] == pytest.approx(quality.max(), abs=0.01)
    browser.type("#search", "a_00")
    assert browser.texts("#count") == ["500 of 10,000 pictures"]
    assert "of one in 32 between" in " ".join(browser.texts("p"))
    assert browser.complaints() == []


@needs_chromium
def test_when_everything_failed(browser, tmp_path):
    with Report(tmp_path / "report.html", **about(group_by="{0}")) as report:
        report.add(Row("a.png", None, None, "broken"))
    browser.open(tmp_path / "report.html")
    assert browser.texts("#errors td") == ["a.png", "broken"]
    assert browser.texts("#count") == ["0 pictures"]
    assert browser.complaints() == []
