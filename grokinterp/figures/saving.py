"""save_figure: figures for publication, as SVG, PDF, PNG, and HTML files."""

import math
import re
from collections.abc import Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from plotly.graph_objects import Figure

from grokinterp.errors import ConfigError, nearest
from grokinterp.figures.style import BUTTONS, FONT, FONT_SIZE
from grokinterp.figures.wording import describe, plain
from grokinterp.runs.files import make_folder, write_atomically

FORMATS = ("svg", "pdf", "png", "html")
_BACKGROUNDS = {"white": "#FFFFFF", "transparent": "rgba(0, 0, 0, 0)"}
_PIXELS, _POINTS = 96, 72  # CSS pixels and points in an inch
_TITLE = 30  # height of a title in pixels
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
</head>
<body style="max-width: {width}px; margin: 0 auto"><div role="img" aria-label="{text}">{figure}</div></body>
</html>
"""


def save_figure(
    figure: Figure,
    path: str | Path,
    *,
    width: float = 6.5,
    height: float | None = None,
    font_size: float = 9.0,
    font: str = FONT,
    dpi: float = 300,
    background: Literal["white", "transparent"] = "white",
) -> Path:
    """Save a figure for publication: without buttons and without the curves that are hidden at first.

    The suffix of the path chooses the format: .svg, .pdf, .png, or .html. The first three need `grokinterp[images]`
    (kaleido) and Chrome or Chromium. Lines and markers scale with the font.

        >>> import grokinterp as gi
        >>> figure = gi.figures.learning_curves("checkpoints/run42")
        >>> gi.save_figure(figure, "learning.html").name
        'learning.html'
        >>> gi.save_figure(figure, "column.pdf", width=3.25, font_size=8)  # doctest: +SKIP

    Args:
        figure: any plotly figure.
        path: the file to write. Its folder is created if necessary.
        width: width in inches.
        height: height in inches (default: what the panels and the legend need).
        font_size: size of the axes' text in points; titles are larger, and notes smaller, in proportion.
        font: the font family, or several in order of preference, as in CSS.
        dpi: pixels per inch of a PNG file.
        background: `white` or `transparent`.

    Returns:
        The path of the file. An HTML file, which includes plotly.js, has text of the usual size for screens, and the
        same proportions.

    Raises:
        ConfigError: an unknown format, a size that is not positive, or kaleido or Chrome is missing.
        RunError: the file cannot be written.
    """
    path = Path(path)
    options = {"width": width, "height": height, "font_size": font_size, "font": font, "background": background}
    content = rendered([figure], path.suffix.removeprefix(".").lower(), dpi=dpi, **options)[0]
    make_folder(path.parent)
    write_atomically(path, content)
    return path


def rendered(
    figures: Sequence[Figure],
    file_format: str,
    *,
    width: float = 6.5,
    height: float | None = None,
    font_size: float = 9.0,
    font: str = FONT,
    dpi: float = 300,
    background: str = "white",
) -> list[bytes]:
    """Return the contents of the files that `save_figure` would write; the browser is started once for all of them.

    Raises:
        ConfigError: as for `save_figure`.
    """
    if file_format not in FORMATS:
        raise ConfigError(f"unknown format {file_format!r} of a figure: {nearest(file_format, FORMATS)}")
    if background not in _BACKGROUNDS:
        raise ConfigError(f"unknown background {background!r}: {nearest(background, _BACKGROUNDS)}")
    for name, size in {"width": width, "height": height, "font_size": font_size, "dpi": dpi}.items():
        if size is not None and not (size > 0 and math.isfinite(size)):
            raise ConfigError(f"{name} must be positive, but is {size}")
    # Everything is laid out for the font size of the template and then scaled.
    scale = font_size * _PIXELS / _POINTS / FONT_SIZE
    pixels = round(width * _PIXELS / scale)
    stills = [publication(figure, font, background) for figure in figures]
    heights = [natural_height(still, pixels) if height is None else round(height * _PIXELS / scale) for still in stills]
    if file_format == "html":
        return [_html(still, pixels, still_height) for still, still_height in zip(stills, heights, strict=True)]
    scale *= dpi / _PIXELS if file_format == "png" else 1
    images = _images(stills, [(pixels, still_height) for still_height in heights], file_format, scale)
    if file_format == "svg":
        return [_described(image, still) for image, still in zip(images, stills, strict=True)]
    return images


def publication(figure: Figure, font: str = FONT, background: str = "white") -> Figure:
    """Return a copy of a figure without buttons, without hidden curves, and without the room that buttons took."""
    still = Figure(figure)
    layout: Any = still.layout
    still.data = [trace for trace in still.data if trace.visible in (None, True)]
    margin = layout.margin.t if layout.margin.t is not None else layout.template.layout.margin.t
    if layout.updatemenus and margin is not None:
        margin -= BUTTONS
    if margin is not None and not layout.title.text:
        margin -= _TITLE
    layout.updatemenus, layout.sliders = (), ()
    color = _BACKGROUNDS[background]
    layout.update(font_family=font, paper_bgcolor=color, plot_bgcolor=color, width=None, margin_t=margin)
    return still


def natural_height(figure: Figure, width: int) -> int:
    """Return the height in pixels for the panels and, below them, the legend as it wraps at a width in pixels."""
    layout: Any = figure.layout
    meta = layout.meta if isinstance(layout.meta, dict) else {}
    if "panels" not in meta:  # a figure of someone else
        return layout.height or 450
    entries = [str(trace.name or "") for trace in figure.data if trace.showlegend is not False]  # pyright: ignore
    entries += [str(shape.name or "") for shape in layout.shapes if shape.showlegend]
    longest = max((len(line) for name in entries for line in name.split("<br>")), default=0)
    lines = max((1 + name.count("<br>") for name in entries), default=1)
    rows = lines * math.ceil(len(entries) / max(1, width // (45 + 7 * longest)))
    content = meta.get("height", 300 if meta["panels"] == 1 else 200 * meta["panels"])
    top = layout.margin.t if layout.margin.t is not None else layout.template.layout.margin.t
    return round(content + top + 60 + 19 * rows)


def _html(figure: Figure, width: int, height: int) -> bytes:
    config = {"displayModeBar": False, "showSendToCloud": False}
    figure.update_layout(height=height)
    content = figure.to_html(config=config, full_html=False, include_plotlyjs=True)
    title = escape(plain(figure.layout.title.text or "figure"))  # pyright: ignore[reportAttributeAccessIssue]
    return _PAGE.format(title=title, text=escape(describe(figure)), width=width, figure=content).encode()


def require_renderer(kind: str) -> None:
    """Raise a ConfigError if what draws files of a format is not installed."""
    if kind != "html" and find_spec("kaleido") is None:
        raise ConfigError(
            f"{kind.upper()} files need kaleido and Chrome or Chromium; HTML files do not: choose html, or "
            'pip install "grokinterp[images]"'
        )


def _images(figures: Sequence[Figure], sizes: Sequence[tuple[int, int]], kind: str, scale: float) -> list[bytes]:
    """Draw figures in a browser, which is started once."""
    require_renderer(kind)
    import kaleido

    with TemporaryDirectory(prefix="grokinterp-") as folder:
        files = [Path(folder) / f"{i}.{kind}" for i in range(len(figures))]
        specifications = [
            {"fig": figure.to_dict(), "path": file, "opts": {"format": kind, "width": w, "height": h, "scale": scale}}
            for figure, file, (w, h) in zip(figures, files, sizes, strict=True)
        ]
        try:
            # MathJax would be loaded from the network, and our figures do without it.
            failures = kaleido.write_fig_from_object_sync(specifications, kopts={"mathjax": False})
            if failures:
                raise failures[0]
            return [file.read_bytes() for file in files]
        except Exception as error:  # kaleido, Chrome and the file system raise many types
            first = re.split(r"\n|\. ", str(error).strip())[0] or "no reason given"
            advice = "install Chrome or Chromium (HTML files need none); set BROWSER_PATH if it is not on the PATH"
            if "axis scaling" in first:  # nothing is left for the panels
                advice = "choose a larger width or height"
            raise ConfigError(f"cannot draw {kind.upper()} files ({type(error).__name__}: {first}): {advice}") from None


def _described(image: bytes, figure: Figure) -> bytes:
    """Add the text alternative to an SVG image."""
    title, text = plain(figure.layout.title.text or "figure"), describe(figure)  # pyright: ignore
    head, tag, rest = image.decode().partition(">")
    return f'{head} role="img"{tag}<title>{escape(title)}</title><desc>{escape(text)}</desc>{rest}'.encode()
