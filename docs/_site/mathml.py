"""Formulas as MathML, which browsers draw without a script."""

import re
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx


def mathml(tex: str, *, as_block: bool) -> str:
    return tex2mathml(re.sub(r"\\(big|Big)(?![A-Za-z])", r"\\\1l", tex), as_block=as_block)


def inline(writer: Any, node: Any) -> None:
    writer.body.append(mathml(node.astext(), as_block=False))
    raise SkipNode


def block(writer: Any, node: Any) -> None:
    writer.body.append(f'<div class="math">{mathml(node.astext(), as_block=True)}</div>')
    raise SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
