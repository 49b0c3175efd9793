"""Sphinx configuration of the documentation: `make docs`. Building it needs no network."""

import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.fileutil import copy_asset_file

DOCS = Path(__file__).parent.resolve()
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "_site")]

import grokinterp  # noqa: E402

project = "grokinterp"
author = "the grokinterp authors"
version = release = grokinterp.__version__

extensions = [
    *("sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"),
    *("myst_nb", "workshop", "mathml", "reference", "gallery"),
]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_*", "data", "images"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme = "furo"
html_title = f"grokinterp {version}"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_math_renderer = "mathml"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072b2", "color-brand-content": "#0072b2"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#56b4e9"},
}
highlight_language = "bash"  # of blocks without a language
pygments_style = "friendly"
pygments_dark_style = "github-dark"
# Names of parameters, such as `kind`, that several classes have.
suppress_warnings = ["ref.python"]

# A name in single backticks, in a docstring, is a link where it names something public.
default_role = "py:obj"
autosummary_generate = False  # `reference` writes the page of each name
add_module_names = False
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Source", "returns_style")]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

# Every notebook, and every page with a {code-cell}, runs; the first cell that fails ends the build.
nb_execution_mode = "auto"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"


def add_plotly(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Load plotly.js, of which the site holds one copy, on the pages that have a figure."""
    if "plotly-figure" in context.get("body", ""):
        app.add_js_file("plotly.min.js")
        app.add_js_file("figures.js", loading_method="defer")


def copy_plotly(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        import plotly

        source = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
        copy_asset_file(source, app.outdir / "_static" / "plotly.min.js", force=True)


def escape_bars(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Keep |x|, outside of code, from being read as a substitution."""
    is_code = False
    for i, line in enumerate(lines):
        is_code = line.lstrip().startswith(">>>") or (is_code and bool(line.strip()))
        if not is_code:
            parts = line.split("`")
            lines[i] = "`".join(part if j % 2 else part.replace("|", "\\|") for j, part in enumerate(parts))


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("html-page-context", add_plotly)
    app.connect("build-finished", copy_plotly)
