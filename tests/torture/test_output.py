"""What is written harms nobody who opens it: no formula, no script, and nothing outside what was named for output."""

import csv
import io
import json
import tarfile

import pytest
from browser import Browser, needs_chromium
from conftest import random_network, tiny_config

from aigciqa.engines import MapFolder
from aigciqa.records import Row
from aigciqa.report import Report
from aigciqa.results import open_results, stream_rows
from aigciqa.sources import Item
from aigciqa.weights import save_checkpoint

from .processes import Run

STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
FORMULAS = [
    *(f"{start}{rest}" for start in STARTS for rest in ("1+1", "cmd|' /C calc'!A0", 'HYPERLINK("http://x","y")', "")),
    *(f"{guard}{start}1" for guard in ("./", "././", "'", "''", '"', '"""', " ") for start in ("=", "@", "\t")),
    '"=1+1"', '",=1', "a\n=1", "a\r=1", "a\t=1", "a,=1", ".", "./", "'", "./a", "=\0", "=\x1b[2J", "\ufeff=1", "=é😀",
]  # fmt: skip
DIMENSIONS, STAMP = ("quality", "authenticity"), "=tiny@v1"
SCRIPTS = [
    "<script>hacked()</script>",
    "<img src=x onerror=hacked()>",
    '"><svg onload=hacked()>',
    "'><script>hacked()<!--",
    "</script><script>hacked()",
    "</title><script>hacked()</script>",
    "javascript:hacked()",
    "{{data}}{{title}}{{policy}}",
    "<iframe srcdoc='<script>hacked()'>",
    "&lt;script&gt;hacked()&lt;/script&gt;",
    "\\u003cscript\\u003ehacked()",
    "`${hacked()}`",
    "\u2028hacked()",
    "<base href=http://x>",
    "__proto__",
    "constructor",
]


def formula_rows():
    for text in filter(None, FORMULAS):
        yield Row(text, text, {"quality": -1.5, "authenticity": 2.0})
        yield Row(f"folder/{text}", None, None, text)


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_no_cell_is_a_formula_and_every_name_comes_back(kind, tmp_path, tally):
    rows, path = list(formula_rows()), tmp_path / f"out.{kind}"
    with open_results(path, DIMENSIONS, STAMP) as results:
        results.write(rows)
    out = io.BytesIO()
    stream_rows(rows, kind, DIMENSIONS, STAMP, out)
    assert out.getvalue() == path.read_bytes()
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    # the csv module of Python 3.10 knows no NUL
    found = list(
        csv.reader(io.StringIO(text.replace("\0", "0"), newline=""), delimiter="," if kind == "csv" else "\t")
    )
    assert len(found) == len(rows) + 1
    for cells in found[1:]:
        picture, reference, *scores, error, stamp = cells
        for cell in (picture, reference, error, stamp):
            assert not cell.startswith(STARTS), cells
        assert scores in (["-1.5", "2.0"], ["", ""])
    with open_results(path, DIMENSIONS, STAMP) as results:
        assert list(results.rows()) == rows
    tally("formulas and scripts in what is written", inputs=len(rows))


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    config = tiny_config(provenance={"labels": SCRIPTS[0], "license": SCRIPTS[1]})
    save_checkpoint(folder, config, random_network(config).state_dict())
    return folder


def test_files_with_the_names_of_formulas(checkpoint, picture, tmp_path, tally):
    """By the command line, where names are as they are found in a folder that it runs in."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = [f"{text.replace('/', '').replace(chr(0), '')[:40]}.png" for text in FORMULAS]
    names = sorted({name for name in names if not name.startswith(".")})
    for i, name in enumerate(names):
        if i % 3:
            picture(40, 40, seed=i).save(folder / name)
        else:
            (folder / name).write_bytes(b"broken")
    run = Run(
        "--metric", checkpoint, "-o", tmp_path / "o.csv", "--", *names, log=tmp_path / "log", folder=folder
    )
    assert run.wait() == 1, run.says()
    text = (tmp_path / "o.csv").read_bytes().decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
    assert len(rows) == len(names)
    for cells in rows:
        assert not any(cell.startswith(STARTS) for cell in (*cells[:2], *cells[4:])), cells
        assert (folder / cells[0]).is_file()  # what is guarded is still the file's path
    again = Run(
        "--metric", checkpoint, "-o", tmp_path / "o.csv", "--", *names, log=tmp_path / "log", folder=folder
    )
    assert again.wait() == 1, again.says()
    assert (tmp_path / "o.csv").read_bytes().decode() == text
    tally("formulas and scripts in what is written", inputs=len(names))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def hacked(browser):
    return browser.run("window.ran === true")


@needs_chromium
def test_the_trap_for_scripts_works(browser, tmp_path):
    """What these names do in a page that does not escape them."""
    path = tmp_path / "page.html"
    for script in SCRIPTS[:3]:
        path.write_text(f"<script>function hacked() {{ window.ran = true }}</script><p>{script}</p>")
        browser.open(path)
        for _ in range(100):
            if hacked(browser):
                break
            browser.run("new Promise(done => setTimeout(done, 50))")
        assert hacked(browser), script


@needs_chromium
def test_no_script_in_a_page_of_hostile_names(browser, tmp_path, tally):
    """Every text that a page shows: names, references, errors, groups, stamp, labels, pattern and dimensions."""
    path = tmp_path / "report.html"
    about = {
        "stamp": "".join(SCRIPTS),
        "dimensions": SCRIPTS[:2],
        "score_range": (0, 5),
        "labels": SCRIPTS[0],
    }
    with Report(path, group_by="{parent}</script><script>hacked()</script>", **about) as report:
        for i, script in enumerate(SCRIPTS):
            scores = dict.fromkeys(SCRIPTS[:2], 1.0 + i % 4)
            report.add(Row(f"{script.replace('/', '')}/{script}", script, scores))
            report.add(Row(script, None, None, script))
    browser.open(path)
    browser.run("window.hacked = () => { window.ran = true }")
    browser.type("#search", "hacked")
    browser.choose("#order", "down")
    browser.run("document.querySelectorAll('button, a, li, figure, tr, summary').forEach(e => e.click())")
    browser.run("new Promise(done => setTimeout(done, 500))")
    assert not hacked(browser)
    assert browser.complaints() == []
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert (
        browser.run("document.querySelectorAll('iframe, base, svg[onload], [onerror], [srcdoc]').length") == 0
    )
    assert browser.texts("#errors td")[1::2] == SCRIPTS  # each is there to be read
    assert not [
        link for link in browser.run("[...document.links].map(a => a.href)") if link.startswith("javascript")
    ]
    tally("formulas and scripts in what is written", inputs=2 * len(SCRIPTS))


@needs_chromium
def test_no_script_in_the_page_of_a_run(browser, checkpoint, picture, tmp_path):
    """The whole way: hostile file names and a hostile checkpoint's labels, from the command line to the browser."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = [f"{i}_{script.replace('/', '')}.png" for i, script in enumerate(SCRIPTS)]
    for i, name in enumerate(names):
        picture(40, 40, seed=i).save(folder / name) if i % 2 else (folder / name).write_bytes(b"broken")
    page = tmp_path / "page.html"
    run = Run(folder, "--metric", checkpoint, "--html", page, "--group-by", "{1}", log=tmp_path / "log")
    assert run.wait() in (1, 2), run.says()
    assert page.exists(), run.says()
    browser.open(page)
    browser.run("new Promise(done => setTimeout(done, 300))")
    assert browser.complaints() == []
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert SCRIPTS[0] in browser.run("document.body.textContent")


def tree(folder):
    """Everything below a folder: names, sizes, times."""
    return {
        str(p.relative_to(folder)): (p.lstat().st_size, p.lstat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
    }


def hostile_tar(path, content):
    """Members that an archive's extraction would write elsewhere."""
    kinds = {
        tarfile.SYMTYPE: "link",
        tarfile.LNKTYPE: "hard",
        tarfile.CHRTYPE: "device",
        tarfile.FIFOTYPE: "pipe",
    }
    names = [
        "../../above.png",
        f"{path.parent}/absolute.png",
        "a/../../b.png",
        "/x.png",
        "~/home.png",
        "ok.png",
    ]
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for kind, name in kinds.items():
            member = tarfile.TarInfo(f"{name}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        folder = tarfile.TarInfo("../folder.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    return [
        *names,
        "link.png",
        "hard.png",
    ]  # links are rows, here with an error; devices and pipes are left out


@pytest.mark.parametrize("source", ["tar", "manifest", "folder"])
def test_nothing_is_written_elsewhere(source, checkpoint, picture, tmp_path, tally):
    out = io.BytesIO()
    picture(40, 40).save(out, "PNG")
    place = tmp_path / "deep" / "in"
    place.mkdir(parents=True)
    if source == "tar":
        given = place / "shard.tar"
        names = hostile_tar(given, out.getvalue())
    elif source == "manifest":
        given = place / "list.csv"
        (tmp_path / "above.png").write_bytes(out.getvalue())
        names = [
            "../../above.png",
            str(tmp_path / "above.png"),
            "../../missing.png",
            "~/x.png",
            "/etc/passwd",
            "a/../../b",
        ]
        with given.open("w") as file:
            csv.writer(file).writerows([["picture"], *([name] for name in names)])
    else:
        given = place / "pictures"
        given.mkdir()
        (given / "up").symlink_to(tmp_path)
        (given / "loop").symlink_to(given)
        (given / "secret.png").symlink_to("/etc/passwd")
        (tmp_path / "above.png").write_bytes(out.getvalue())
        names = ["secret.png", "above.png"]
    outputs = tmp_path / "outputs"
    before = tree(tmp_path)
    run = Run(
        given,
        "--metric",
        checkpoint,
        "-o",
        outputs / "o.csv",
        "--html",
        outputs / "p.html",
        log=outputs.parent / "log",
    )
    assert run.wait() in (0, 1), run.says()
    after = tree(tmp_path)
    new = {name for name in after if before.get(name) != after[name]} - {"outputs", "log"}
    assert {name for name in new if not name.startswith("pictures")} == {"outputs/o.csv", "outputs/p.html"}
    assert before.keys() <= after.keys()
    rows = list(csv.DictReader((outputs / "o.csv").open()))
    assert len(rows) == len(names) if source != "folder" else rows
    if source == "tar":
        assert all(row["picture"].startswith(f"{given}/") for row in rows)
        failed = [row for row in rows if not row["quality"]]
        assert [row["picture"] for row in failed] == [f"{given}/link.png", f"{given}/hard.png"]
        assert all("link" in row["error"] for row in failed)
    page = (outputs / "p.html").read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    links = [link for _, link, _ in data["files"] if link]
    assert all(
        link.startswith(("./", "../")) and link.endswith(".png") for link in links
    )  # images alone, and no URL
    assert "root:" not in page + run.says() + (outputs / "o.csv").read_text()
    tally("paths that leave the folder", inputs=len(names))


def test_links_in_place_of_temporary_files_are_not_followed_into_harm(checkpoint, picture, tmp_path):
    """Somebody who may write to the output folder plants links where drafts go; what they point to is not emptied."""
    picture(40, 40).save(tmp_path / "a.png")
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (outputs / "o.parquet.part.tmp").symlink_to(victim)
    (outputs / ".p.html.part").symlink_to(victim)
    arguments = ["--metric", checkpoint, "-o", outputs / "o.parquet", "--html", outputs / "p.html"]
    run = Run(tmp_path / "a.png", *arguments, log=tmp_path / "log")
    assert run.wait() == 0, run.says()
    assert victim.read_text() == "precious", run.says()
    assert not (outputs / "p.html").is_symlink() and not (outputs / "o.parquet").is_symlink()


def test_maps_stay_in_their_folder(tmp_path, tally):
    """Whatever a tar member or a manifest calls a picture; and no two of them are the same file."""
    names = [
        "../../x.png",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/..",
        "a\0b",
        "\udcff.png",
        "x" * 5000,
        "a\nb",
        *SCRIPTS,
        *FORMULAS,
    ]
    maps = MapFolder(None, tmp_path / "maps")
    paths = {maps.path(Item(name)) for name in names} | {maps.path(Item(name, "../r.png")) for name in names}
    assert len(paths) == 2 * len(set(names))
    for path in paths:
        assert path.parent == tmp_path / "maps" and len(path.name) < 200 and path.name.isascii()
        path.write_bytes(b"")
    tally("paths that leave the folder", inputs=len(paths))
