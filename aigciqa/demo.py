"""A page on this machine to try metrics on: drop a picture, see its scores and where it loses them.

Gradio makes the page. It is told to fetch nothing, to count nothing and to share nothing, and its files are in a folder
of their own, which goes with the server.
"""

import html
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import limits
from .decode import identify
from .errors import AigciqaError, InputError
from .guard import MAX_BYTES, Guard, open_own

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from .metric import Metric

MAX_PIXELS = 16_000_000  # of a picture; a map is many passes over it
WAITING = 50  # requests for scores in the queue, which are computed one after another
KEPT = 600  # seconds that a file which was uploaded or drawn is kept while the server runs
HINT = "<p class='quiet'>Drop an image, and press Score.</p>"
# JavaScript; `aigciqaOld` says that something was changed since the button was pressed
_PRESSED = "(...given) => { window.aigciqaOld = false; return given; }"
_CLEAR = f'() => {{ window.aigciqaOld = true; return ["{HINT}", null]; }}'
_KEEP = f'(...now) => window.aigciqaOld ? ["{HINT}", null] : now'
_JUDGES = {
    "NR": "Judges a generated image alone; takes no image prompt.",
    "FR": "Compares a generated image with its image prompt; needs both.",
    "PR": "Judges a generated image alone, or beside its image prompt where you give it.",
}
_STYLE = """
footer { display: none !important; }
.scores { border-collapse: collapse; width: 100%; }
.scores, .scores tr, .scores th, .scores td { border: 0 !important; }
.scores th { text-align: left; padding: 6px 14px 6px 0; text-transform: capitalize; white-space: nowrap; }
.scores td { padding: 6px 0; } .scores td:nth-child(2) { width: 100%; padding-right: 14px; }
.scores b { font-size: 1.25em; font-variant-numeric: tabular-nums; } .scores td:last-child { white-space: nowrap; }
.track { height: 8px; border-radius: 4px; background: #8883; overflow: hidden; }
.track div { height: 100%; background: #3458d4; }
.about { font-size: .9em; margin: 0; } .about dt { font-weight: 600; margin-top: 8px; overflow-wrap: anywhere; }
.about dd { margin: 2px 0 0 12px; } .about .quiet { margin-top: 2px; }
.quiet { opacity: .75; font-size: .85em; margin-top: 10px; overflow-wrap: anywhere; }
"""


@contextmanager
def serve(
    metrics: "Sequence[str | os.PathLike[str]]" = (),
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    device: str | None = None,
    offline: bool | None = None,
    max_pixels: int = MAX_PIXELS,
    names: "Sequence[str]" = (),
) -> Iterator[str]:
    """Serve the page until the block is left; then nothing of what was uploaded is left either.

    Args:
        metrics: names, folders or Hub repositories, as for `aigciqa.create_metric`; none for the packaged ones.
        host: address to listen on; ``"0.0.0.0"`` lets other machines in, and there is no password. On loopback the
            page answers as ``localhost``, ``127.0.0.1`` and ``[::1]`` only; elsewhere as `host` and as any IP address,
            too.
        port: to listen on; None for the first free one from 7860.
        device: to compute on; None for CUDA where there is one, else the CPU.
        offline: True to use only what is on this machine; None for what the Hub's client is set to.
        max_pixels: most pixels of a picture.
        names: further names under which browsers reach the page, such as that of a reverse proxy.

    Yields:
        The page's address.

    Raises:
        InputError: when the port is taken, or what ``aigciqa[demo]`` installs is missing.
        CheckpointError: when a metric cannot be found.

    Examples:
        >>> with serve(["nr-aigciqa"], device="cpu") as address:  # doctest: +SKIP
        ...     input(f"{address}, Enter ends it")
    """
    from .registry import create_metric, list_metrics

    chosen = [os.fspath(name) for name in metrics]
    chosen = chosen or sorted(list_metrics(), key=lambda name: not name.startswith("nr"))
    made = {name: create_metric(name, device=device, offline=offline) for name in chosen}
    for metric in made.values():
        metric.load()  # a broken checkpoint ends it now rather than at the first picture
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="aigciqa-demo-"))).resolve()
        held.enter_context(_environment(GRADIO_TEMP_DIR=str(folder), GRADIO_ANALYTICS_ENABLED="False"))
        gradio = _gradio()
        page = _page(gradio, made, folder, max_pixels)
        try:
            _, address, _ = page.launch(
                _app=_guarded(folder, host, names),
                server_name=f"[{host}]" if ":" in host and "[" not in host else host,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                max_file_size=MAX_BYTES,
                root_path="",
                share=False,
                pwa=False,
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                run_history=False,
                footer_links=[],
                css=_STYLE,
                theme=_theme(gradio),
            )
        except OSError as error:
            raise InputError(f"cannot listen on {host}, port {port or 7860}: {error}") from None
        held.callback(page.close, verbose=False)
        yield address.rstrip("/")


def _guarded(folder: Path, host: str, names: "Sequence[str]") -> Any:
    """Gradio's application behind a `Guard`, which comes before all that Gradio puts before its routes."""
    from gradio.routes import App, ORJSONResponse

    class Guarded(App):  # type: ignore[misc]
        def build_middleware_stack(self) -> Any:
            return Guard(super().build_middleware_stack(), folder, host, names)

    return Guarded(default_response_class=ORJSONResponse)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """What Gradio reads while it is imported, and when it makes files."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _gradio() -> Any:
    try:
        import gradio
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise InputError("the demo needs gradio; pip install 'aigciqa[demo]'") from None
    return gradio


def _theme(gradio: Any) -> Any:
    """With fonts of the system: the default ones of some versions come from a server."""
    return gradio.themes.Default(
        primary_hue="blue",
        font=[gradio.themes.Font("system-ui"), gradio.themes.Font("sans-serif")],
        font_mono=[gradio.themes.Font("ui-monospace"), gradio.themes.Font("monospace")],
    )


def _page(gradio: Any, metrics: "Mapping[str, Metric]", folder: Path, max_pixels: int) -> Any:
    """What is on the page, and what a press of its button does."""
    names = list(metrics)
    generated, prompt = _examples(folder)
    with gradio.Blocks(title="aigciqa", analytics_enabled=False, delete_cache=(60, KEPT)) as page:
        gradio.Markdown("# How good is this image?")
        with gradio.Row():
            with gradio.Column():
                metric = gradio.Radio(names, value=names[0], label="Metric", visible=len(names) > 1)
                gradio.HTML(_about(metrics), elem_id="about")
                with gradio.Row():
                    with gradio.Column(min_width=200):
                        picture = _picture(gradio, "Generated image", elem_id="picture")
                    # not the picture itself is hidden: choosing an example would hide it again
                    with gradio.Column(min_width=200, visible=_shown(metrics[names[0]])) as side:
                        reference = _picture(gradio, "Image prompt", elem_id="reference")
                button = gradio.Button("Score", variant="primary", elem_id="score")
                gradio.Examples([[generated, prompt]], [picture, reference], label="Example")
            with gradio.Column():
                scores = gradio.HTML(HINT, elem_id="scores")
                gradio.Markdown("**Where the score is lost**")
                overlay = gradio.Image(
                    show_label=False, interactive=False, buttons=["fullscreen"], elem_id="map"
                )

        def score(name: str, shown: Any, beside: Any) -> Iterator[tuple[str, Any]]:
            try:
                if not isinstance(name, str) or name not in metrics:
                    raise InputError(f"no such metric; this page has {', '.join(metrics)}")
                chosen = metrics[name]
                pixels, other = _read(chosen, shown, beside, folder, max_pixels)
                text = _table(chosen, chosen.predict(pixels, other))
                yield text, None  # the map takes longer
                try:
                    found = chosen.explain(pixels, other)
                    drawn = replace(found, reference=None).overlay()  # which is on the page already
                except InputError as error:  # the scores stay
                    yield text + f"<p class='quiet'>No map: {html.escape(str(error))}</p>", None
                    return
                yield text, drawn
            except AigciqaError as error:  # the message is shown as HTML, and may hold the name of a file
                raise gradio.Error(html.escape(str(error)), duration=None, print_exception=False) from None

        # also at first: a column that is hidden from the start is shown until something changes
        gradio.on(
            [page.load, metric.change], lambda name: gradio.update(visible=_shown(metrics[name])),
            metric, side, api_visibility="private", show_progress="hidden",
        )  # fmt: skip
        # not preprocessed: Gradio would open any picture, of any size, with Pillow's errors
        scoring = button.click(
            score, [metric, picture, reference], [scores, overlay], preprocess=False, api_name="score",
            show_progress_on=[scores, overlay], concurrency_limit=1, js=_PRESSED,
        )  # fmt: skip
        # scores go with what they are of; the browser clears them itself, so that this never comes late
        quietly = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "multiple"}
        changes = [metric.change, picture.change, reference.change]
        gradio.on(changes, None, None, [scores, overlay], js=_CLEAR, **quietly)
        # what was still being computed of what was there before
        button.click(
            None, None, [scores, overlay], js='() => ["", null]', **quietly
        )  # also when an error comes
        scoring.then(None, [scores, overlay], [scores, overlay], js=_KEEP, **quietly)
    page.queue(max_size=WAITING)
    return page


def _picture(gradio: Any, label: str, **how: Any) -> Any:
    """A field for an upload; whatever a request puts in its place is neither fetched nor copied, and then `open_own`
    decides.
    """
    field = gradio.Image(
        label=label, type="filepath", sources=["upload", "clipboard"], height=300, buttons=[], **how
    )

    async def as_it_is(path: Any) -> Any:
        return path

    field.async_move_resource_to_block_cache = as_it_is
    return field


def _shown(metric: "Metric") -> bool | str:
    """Whether a metric takes a reference; what is not even in the page, as with False, an example cannot fill."""
    return True if metric.metric_mode != "NR" else "hidden"


def _read(
    metric: "Metric", picture: Any, reference: Any, folder: Path, max_pixels: int
) -> "tuple[Tensor, Tensor | None]":
    """What was uploaded, decoded."""
    if picture is None:
        raise InputError("drop a generated image first")
    if metric.metric_mode == "FR" and reference is None:
        raise InputError(f"{metric.metric_name} compares with the image prompt; drop that, too")
    if reference is None or metric.metric_mode == "NR":
        return _pixels(picture, "generated picture", folder, max_pixels), None
    pixels = _pixels(picture, "generated picture", folder, max_pixels)
    return pixels, _pixels(reference, "image prompt", folder, max_pixels)


def _pixels(upload: Any, what: str, folder: Path, max_pixels: int) -> "Tensor":
    """(1, 3, H, W) of a file in `folder`, where uploads are; `upload` is from a request, and may be anything."""
    from PIL import UnidentifiedImageError

    from .image import read_one

    upload = upload if isinstance(upload, Mapping) else {}
    if isinstance(name := upload.get("orig_name"), str) and name:
        what = name[:100]
    file = open_own(folder, upload.get("path"))
    if file is None:
        raise InputError(f"{what}: is not here any more; drop it again")
    try:
        with file:
            with identify(file, what, max_pixels):
                pass
            file.seek(0)
            data = limits.read_within(file, MAX_BYTES, what, "drop a smaller file")
    except UnidentifiedImageError:
        raise InputError(f"{what}: not a picture that Pillow can read") from None
    except InputError as error:
        limit = f"{max_pixels / 1e6:g} megapixels"
        raise InputError(f"{what}: has more than {limit}, the limit of this page") from error
    except Exception as error:  # Pillow's plugins raise nearly anything on broken files
        raise InputError(f"{what}: broken picture: {error or type(error).__name__}") from None
    try:
        return read_one(data, what)
    except InputError as error:
        raise InputError(str(error).replace(" (bytes)", "", 1)) from None


def _about(metrics: "Mapping[str, Metric]") -> str:
    """What each metric judges and needs, its scale and its accuracy, as its checkpoint states them."""
    rows = []
    for name, metric in metrics.items():
        low, high = metric.config.score_range
        facts = metric.config.provenance
        rows.append(
            f"<dt>{html.escape(name)}</dt><dd>{_JUDGES[metric.metric_mode]} Scores "
            f"{html.escape(', '.join(metric.config.dimensions))}, each {low:g} to {high:g}. {_direction(metric)}."
            f"<div class='quiet'>Accuracy: {html.escape(facts.get('accuracy', 'not stated'))}.</div></dd>"
        )
    return f"<dl class='about'>{''.join(rows)}</dl>"


def _direction(metric: "Metric") -> str:
    return "Lower is better" if metric.lower_better else "Higher is better"


def _table(metric: "Metric", scores: "Mapping[str, Tensor]") -> str:
    low, high = metric.config.score_range
    rows = []
    for dimension, score in scores.items():
        value = score.item()
        share = 100 * min(max((value - low) / (high - low), 0.0), 1.0)
        rows.append(
            f"<tr><th>{html.escape(dimension)}</th><td><div class='track'><div style='width:{share:.1f}%'></div></div>"
            f"</td><td><b>{value:.2f}</b> of {low:g} to {high:g}</td></tr>"
        )
    about = html.escape(f"{metric.stamp}; learned from {metric.config.provenance['labels']}")
    return f"<table class='scores'>{''.join(rows)}</table><p class='quiet'>{_direction(metric)}. {about}.</p>"


def _examples(folder: Path) -> tuple[str, str]:
    """Paths of a picture and its prompt: a drawn scene, with a corner washed out in the former."""
    from PIL import ImageFilter

    prompt = scene(0)
    generated, box = prompt.copy(), (192, 192, 384, 384)
    generated.paste(prompt.crop(box).filter(ImageFilter.GaussianBlur(5)), box)
    paths = folder / "generated.png", folder / "prompt.png"
    generated.save(paths[0])
    prompt.save(paths[1])
    return str(paths[0]), str(paths[1])


def scene(seed: int, size: int = 384) -> "Image":
    """A village under a sun, drawn by arithmetic, so that there is a picture without anybody's licence.

    Args:
        seed: of its shapes and colours, any integer from 0.
        size: side in pixels.

    Examples:
        >>> scene(0, 96).size
        (96, 96)
    """
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    waves = zip(rng.uniform(4, 34, 4), rng.uniform(0, 6, 4), (0.05, 0.03, 0.02, 0.01), strict=True)
    ridge = 0.55 + sum(height * np.sin(rate * x + phase) for rate, phase, height in waves)
    light = rng.uniform(-25, 25, 3)
    sky = np.stack([90 + 120 * y, 140 + 70 * y, 205 + 20 * y], -1) + light
    grain = np.random.default_rng(seed).normal(0, 22, x.shape)[..., None]
    ground = np.stack([70 + 60 * y, 105 - 20 * y, 55 + 0 * y], -1) + light / 2 + grain
    pixels = np.where((y > ridge)[..., None], ground, sky)
    at = rng.uniform((0.1, 0.08), (0.9, 0.3))
    parts: list[tuple[Any, Any]] = [((x - at[0]) ** 2 + (y - at[1]) ** 2 < 0.006, (255, 236, 170))]
    for left in (0.17, 0.42, 0.7):  # houses: wall, roof, window
        left, top = left + rng.uniform(-0.06, 0.06), rng.uniform(0.6, 0.85)
        parts += [
            ((abs(x - left) < 0.07) & (abs(y - top) < 0.055), rng.uniform(180, 240, 3)),
            (
                (y < top - 0.05) & (abs(x - left) < (y - top + 0.125) * 1.2),
                rng.uniform((90, 30, 30), (190, 90, 80)),
            ),
            ((abs(x - left - 0.03) < 0.014) & (abs(y - top) < 0.02), (60, 70, 90)),
        ]
    for shape, colour in parts:
        pixels = np.where(shape[..., None], colour, pixels)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
