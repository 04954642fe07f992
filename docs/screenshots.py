"""Make the pictures of this documentation again: the terminal, the page of a run, and the demo.

    make screenshots

Everything in them is real output, of pictures that are drawn here or lie in examples/. It needs chromium.
"""

import html
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
BIN = Path(sys.executable).parent
sys.path.insert(0, str(ROOT / "tests"))

from test_demo import Page  # noqa: E402  # Chromium, as the tests drive it

from aigciqa.demo import scene, serve  # noqa: E402

PROMPTS = 12
LARGEST = 200_000  # bytes of a picture
TERMINAL = """<!DOCTYPE html><meta charset="utf-8"><style>
body {{ margin: 0; background: #fff; }}
pre {{ display: inline-block; margin: 0; padding: 20px 26px; background: #14181f; color: #d7dce4; border-radius: 10px;
  font: 15px/1.45 "DejaVu Sans Mono", monospace; }}
b {{ color: #7fd3a0; }}
</style><pre>{}</pre>"""


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder)
        browser = Page(folder / "profile")
        try:
            terminal(browser, folder)
            report(browser, folder)
            demo(browser)
        finally:
            browser.close()


def draw(folder: Path) -> None:
    """Prompts, and of each what two made-up generators give: one blurs, the other adds noise."""
    for part in ("prompts", "generated"):
        (folder / part).mkdir()
    rng = np.random.default_rng(0)
    for number in range(PROMPTS):
        prompt = scene(number)
        prompt.save(folder / "prompts" / f"{number}.png")
        for generator in ("blurring", "noisy"):
            for part in range(2):
                level = rng.uniform(0.1, 1)
                if generator == "blurring":
                    made = prompt.filter(ImageFilter.GaussianBlur(3 * level**2))
                else:
                    noisy = np.asarray(prompt) + rng.normal(0, 45 * level, (*prompt.size[::-1], 3))
                    made = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
                made.save(folder / "generated" / f"{generator}_{number:03d}_{part:02d}.png")


def terminal(browser: Page, folder: Path) -> None:
    """Two commands and what they print."""
    for name in ("gen.png", "ref.png"):
        shutil.copy(ROOT / "examples" / name, folder)
    shown = ""
    for command in (
        "aigciqa-score gen.png",
        "aigciqa-score gen.png --ref ref.png",
    ):
        shown += f"<b>$ {html.escape(command)}</b>\n{html.escape(printed(command, folder))}\n"
    (folder / "terminal.html").write_text(TERMINAL.format(shown.rstrip()), "utf-8")
    size = shoot(browser, (folder / "terminal.html").as_uri(), 1100, 900, "pre", "score.png")
    print("score.png", size)


def printed(command: str, folder: Path) -> str:
    """By the command, which takes this terminal's width for its own."""
    words = [str(BIN / command.split()[0]), *command.split()[1:], "--device", "cpu"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    return wrapped(done.stdout)


def wrapped(text: str, width: int = 112) -> str:
    """Long lines broken between words; tables, whose lines are short, stay as they are."""
    return "\n".join(
        "\n".join(textwrap.wrap(line, width)) if len(line) > width else line for line in text.splitlines()
    )


def report(browser: Page, folder: Path) -> None:
    command = (
        "aigciqa-score generated --ref prompts --ref-pattern {1:d}.png --dimension quality "
        "--html report.html --group-by {0}"
    )
    printed(command, folder)
    size = shoot(browser, (folder / "report.html").as_uri(), 1280, 1500, None, "report.png")
    print("report.png", size)


def demo(browser: Page) -> None:
    with serve(["nr-aigciqa", "fr-aigciqa"], device="cpu", offline=True) as address:
        browser.open(address)
        browser.click("input[type=radio][value=fr-aigciqa]")
        browser.until("document.querySelector('#reference')?.offsetParent")
        browser.until(
            "[...document.querySelectorAll('tr.tr-body img')].filter(i => i.naturalWidth).length == 2"
        )
        browser.click("tr.tr-body")
        for place in ("picture", "reference"):
            browser.until(f"document.querySelector('#{place} img')?.offsetParent")
        browser.click("#score")
        browser.until("document.querySelector('#map img')?.naturalWidth", 120)
        browser.run("new Promise(r => setTimeout(r, 800))")  # until the bar of progress is gone
        size = shoot(browser, None, 1280, 860, None, "demo.png")
    print("demo.png", size)


def shoot(browser: Page, address: str | None, width: int, height: int, part: str | None, name: str) -> str:
    """Take a picture of a page, or of one of its elements, and keep it in few colours."""
    if address is not None:
        browser.send("Page.navigate", url=address)
        browser.until(f"location.href == {address!r} && document.readyState == 'complete'")
    shot = browser.shot(width, height).convert("RGB")
    if part is not None:
        box = browser.run(
            f"(b => [b.left, b.top, b.right, b.bottom])(document.querySelector('{part}').getBoundingClientRect())"
        )
        shot = shot.crop(tuple(map(round, box)))
    path, colours = IMAGES / name, 256
    while True:
        few = shot.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
        if path.stat().st_size < LARGEST or colours == 8:
            return f"{shot.width} x {shot.height}, {path.stat().st_size:,} bytes"
        colours //= 2


if __name__ == "__main__":
    main()
