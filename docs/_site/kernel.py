"""Runs first in every kernel of the documentation: its folder, and figures as the site's pages show them."""

import os
from html import escape

import plotly.io as pio
from plotly.io.base_renderers import MimetypeRenderer
from workshop import SCRATCH


class SiteRenderer(MimetypeRenderer):
    """A figure as data in the page, which `_static/figures.js` draws when a reader scrolls to it."""

    def to_mimebundle(self, fig_dict: dict) -> dict[str, str]:
        layout = fig_dict["layout"]
        height = layout.pop("height", None) or 450
        title = layout.get("title", {}).get("text", "figure")
        data = pio.to_json(fig_dict, validate=False).replace("<", "\\u003c")  # no text can end the script element
        return {
            "text/html": (
                f'<div class="plotly-figure" role="img" aria-label="{escape(title)}" style="--height: {height}px">'
                f'<script type="application/json">{data}</script>'
                "<noscript>This figure needs JavaScript.</noscript></div>"
            )
        }


pio.renderers["site"] = SiteRenderer()
pio.renderers.default = "site"
os.chdir(SCRATCH)
