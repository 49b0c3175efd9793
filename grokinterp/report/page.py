"""The HTML page of a report: frame, style, and the script that draws the figures."""

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from stat import S_ISREG
from string import Template

from plotly.offline import get_plotlyjs

import grokinterp
from grokinterp.errors import RunError
from grokinterp.runs.checksums import MARK, with_comment
from grokinterp.runs.files import access_error, make_folder, write_atomically

_DATA = (".json", ".jsonl", ".safetensors", ".parquet")  # what runs and sweeps consist of

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  color: #222; background: #fff; max-width: 1080px; margin: 0 auto; padding: 16px 20px 48px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 12px; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 40px 0 12px; padding-top: 12px; border-top: 1px solid #ddd; }
h3 { font-size: 1.05rem; margin: 24px 0 4px; overflow-wrap: anywhere; }
a { color: #0072b2; }
nav { font-size: 0.9rem; margin: 16px 0; }
.lead { font-size: 1.08rem; margin: 8px 0; overflow-wrap: anywhere; }
.outcome { background: #eef3f7; border: 1px solid #cfdbe5; border-radius: 4px; padding: 0 7px; font-weight: 600; }
.warnings { border: 1px solid #e69f00; border-left-width: 5px; background: #fff8e8;
  padding: 10px 14px; margin: 16px 0; }
.warnings ul { margin: 6px 0 0; padding-left: 20px; }
.table { overflow-x: auto; margin: 8px 0; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { text-align: left; vertical-align: top; padding: 5px 14px 5px 0; border-bottom: 1px solid #e6e6e6; }
th { font-weight: 600; }
tbody th { font-weight: 500; color: #444; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; min-width: 5.6em; }
.wide td { min-width: 14em; }
.claims tbody th { white-space: normal; min-width: 15em; }
.claims td:nth-child(3) { min-width: 15em; }
.claims .outcome { white-space: nowrap; }
.dense td { min-width: 2.6em; white-space: nowrap; }
code { font: 0.92em ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; }
small { display: block; color: #666; }
figure { margin: 20px 0 32px; }
figcaption, .caption, .note, .missing p { font-size: 0.9rem; color: #444; margin: 4px 0; max-width: 78ch; }
.note { color: #666; }
.plot { width: 100%; height: var(--wide); }
.steps { display: flex; gap: 4px; min-height: 4px; }
.steps button { font: inherit; font-size: 0.8rem; padding: 3px 10px; border: 1px solid #bbb; border-radius: 4px;
  background: #fff; color: inherit; cursor: pointer; }
.steps button[aria-pressed="true"] { background: #e3edf5; border-color: #0072b2; }
.steps button:focus-visible { outline: 2px solid #0072b2; outline-offset: 1px; }
summary { cursor: pointer; margin: 8px 0; }
footer { margin-top: 48px; font-size: 0.85rem; color: #666; }
@media (max-width: 640px) {
  body { padding: 12px 12px 32px; }
  .plot { height: var(--narrow); }
  th, td { padding-right: 10px; }
  tbody th { white-space: normal; overflow-wrap: anywhere; min-width: 6.5em; }
}
@page { margin: 12mm; }
@media print {
  body { max-width: none; padding: 0; }
  nav, .steps, .modebar-container { display: none; }
  figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .table { overflow: visible; }
  .plot { height: auto; }
}
"""

# On touch screens a drag scrolls the page instead of zooming into a figure. The modebar's buttons are listed because
# plotly's default has one that sends a chart to a server. On paper, figures are smaller: 700 pixels fit in a line, and
# two figures on a page.
SCRIPT = """
const touch = matchMedia("(pointer: coarse)").matches;
const plots = [];
for (const block of document.querySelectorAll("script[data-for]")) {
  const figure = JSON.parse(block.textContent);
  const plot = document.getElementById(block.dataset.for);
  const switches = figure.layout.updatemenus?.[0];
  delete figure.layout.updatemenus;
  if (touch) figure.layout.dragmode = false;
  Plotly.newPlot(plot, figure.data, figure.layout, {
    responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: { filename: block.dataset.for, scale: 2 },
  });
  plots.push(plot);
  const group = plot.previousElementSibling;
  for (const [i, { label, args }] of (switches?.buttons ?? []).entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.setAttribute("aria-pressed", i === switches.active);
    button.addEventListener("click", () => {
      Plotly.update(plot, ...args);
      for (const other of group.children) other.setAttribute("aria-pressed", other === button);
    });
    group.append(button);
  }
}
addEventListener("beforeprint", () => plots.forEach((plot) => {
  Plotly.relayout(plot, { width: 700, height: 0.72 * plot.clientHeight });
}));
addEventListener("afterprint", () => plots.forEach((plot) => {
  Plotly.relayout(plot, { width: null, height: null, autosize: true });
}));
"""

# The policy forbids every request: the page contains everything it shows.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:">
<title>$title · grokinterp</title>
<style>$style</style>
</head>
<body>
<h1>$heading</h1>
$lead
$warnings
<nav>$contents</nav>
$sections
<footer>Written by grokinterp $version. This file is self-contained; $mark.</footer>
<script>$plotly</script>
<script>$script</script>
</body>
</html>
"""


def page(heading: str, lead: str, warnings: Sequence[str], sections: Mapping[str, str]) -> str:
    """Return a complete page. Section headings are plain text; all other arguments are HTML.

    Args:
        heading: the page's heading and title.
        lead: paragraphs at the top.
        warnings: one list item each.
        sections: contents by heading, in order.
    """
    anchors = {title: title.lower().replace(" ", "-") for title in sections}
    items = "".join(f"<li>{warning}</li>" for warning in warnings)
    box = f'<div class="warnings"><b>Read these warnings first</b><ul>{items}</ul></div>' if warnings else ""
    text = Template(PAGE).substitute(
        title=heading,
        heading=heading,
        lead=lead,
        warnings=box,
        contents=" · ".join(f'<a href="#{anchor}">{escape(title)}</a>' for title, anchor in anchors.items()),
        sections="".join(
            f'<section id="{anchors[title]}"><h2>{escape(title)}</h2>{content}</section>'
            for title, content in sections.items()
        ),
        version=escape(grokinterp.__version__),
        style=STYLE,
        plotly=get_plotlyjs(),
        script=SCRIPT,
        mark=MARK,
    )
    # The name of a folder may not be valid UTF-8.
    return with_comment(text.encode(errors="backslashreplace").decode())


def require_output(path: Path) -> None:
    """Checks that a path that the user chose for a file is unused or names a regular file, which may be replaced.

    Raises:
        RunError: the path has no file name, or names something else: a folder, a symlink, or a device.
    """
    if not path.name:
        raise RunError(f"{str(path)!r} has no file name: give the path of the file to write")
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise access_error("write", path, error) from None
    if not S_ISREG(mode):
        raise RunError(f"{path} is not a regular file, so it is not replaced: choose another file name")
    if path.suffix in _DATA:
        raise RunError(f"{path} is data, so it is not replaced: choose another file name")


def write_output(path: Path, content: str) -> None:
    """Writes a text file at a path that the user chose, and creates its folder if necessary.

    Raises:
        RunError: as in `require_output`, or the file cannot be written.
    """
    require_output(path)
    make_folder(path.parent)
    write_atomically(path, content)
