"""Writes the pages of the gallery from gallery.toml and the docstrings of the figures."""

import inspect
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reference import public_names
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from workshop import write

ENTRIES = Path(__file__).with_name("gallery.toml")
SETUP = {
    "Sweeps": """
grid = {"optimizer.weight_decay": [0.0, 1.0], "model_seed": [0, 1]}
base = gi.preset("parity").replace({"schedule.steps": 1500, "schedule.evaluate_every": 10})
gi.train_sweep("checkpoints/gallery", base, grid=grid, workers=1)
slingshot = gi.RunConfig(
    task=gi.TaskConfig(operation="divide", p=31, train_fraction=0.5),
    model=gi.MLPConfig(input="one_hot", depth=2, width=128),
    optimizer=gi.OptimizerConfig(name="adam", lr=1e-3, weight_decay=0.0),
    schedule=gi.ScheduleConfig(steps=4000, evaluate_every=5, checkpoints=40),
    loss_dtype="float32_plain",
)
gi.train(slingshot, "checkpoints/gallery-slingshot")
""",
}
IMPORTS = {
    "Sweeps": "import pandas as pd\n\nimport grokinterp as gi\n",
    "Theory": "import pandas as pd\n\nimport grokinterp as gi\nfrom grokinterp import theory\n",
}
INTRODUCTIONS = {
    "Curves over training": "Each takes a run, its folder, an analysis, or a list of these. The bands are the phases.",
    "Frequencies": "These figures show which frequencies the weights and the logits use, and since when.",
    "Sweeps": "These figures take the table of a sweep, a DataFrame with one row per run.",
    "Theory": "These figures take results of `grokinterp.theory`.",
}
PAGE = """---
file_format: mystnb
kernelspec:
  name: python3
---

# {title}

{introduction}

```{{code-cell}} ipython3
{imports}
```
"""
HIDDEN = """
```{{code-cell}} ipython3
:tags: [remove-output, hide-input]

{code}
```
"""
ENTRY = """
## {name}

```{{code-cell}} ipython3
{code}
```

**It shows:** {shows}

**It does not show:** {hides}

{source}[Reference](../reference/names/grokinterp.figures.{name}.rst)
"""


def figures() -> dict[str, Callable[..., Any]]:
    """Return every public figure function, by the name that follows `gi.figures.`."""
    from grokinterp import figures as package

    parts = {"": package, "ridge.": package.ridge, "polynomial.": package.polynomial}
    named = {
        f"{prefix}{name}": getattr(module, name) for prefix, module in parts.items() for name in public_names(module)
    }
    return {name: function for name, function in named.items() if inspect.isfunction(function)}


def caption(function: Callable[..., Any]) -> tuple[str, str]:
    """Return what a figure shows, and its source, from its docstring."""
    text = re.sub(r"\n\n +>>>.*?(?=\n\n|$)", "", inspect.getdoc(function) or "", flags=re.DOTALL)
    sections = re.split(r"\n\n(?=(?:Args|Returns|Raises|Source):)", text)
    shows = " ".join(sections[0].replace("T_", "T\\_").split())
    sources = [" ".join(section.removeprefix("Source:").split()) for section in sections if section[:7] == "Source:"]
    return shows, "".join(f"Source: {source} · " for source in sources)


def write_gallery(app: Sphinx) -> None:
    entries: Mapping[str, Mapping[str, Mapping[str, str]]] = tomllib.loads(ENTRIES.read_text(encoding="utf-8"))
    known, described = figures(), [name for group in entries.values() for name in group]
    if missing := sorted(set(known) ^ set(described)):
        raise ExtensionError(f"public figures and the tables of {ENTRIES.name} differ in: {', '.join(missing)}")
    folder = Path(app.srcdir) / "gallery"
    links = ""
    for group, tables in entries.items():
        page = PAGE.format(
            title=group,
            introduction=INTRODUCTIONS[group],
            imports=IMPORTS.get(group, "import grokinterp as gi\n").strip(),
        )
        if group in SETUP:
            page += HIDDEN.format(code=SETUP[group].strip())
        for name, entry in tables.items():
            shows, source = caption(known[name])
            code = entry["code"].strip()
            page += ENTRY.format(name=name, code=code, shows=shows, hides=entry["not"], source=source)
        slug = group.lower().replace(" ", "-")
        write(folder / f"{slug}.md", page)
        names = ", ".join(f"`{name}`" for name in tables)
        links += f"- [{group}]({slug}.md): {names}\n"
    toctree = "\n".join(group.lower().replace(" ", "-") for group in entries)
    write(
        folder / "index.md",
        "# Gallery\n\nEvery figure of `grokinterp.figures`, with the code that draws it, what it shows, and what it "
        f"does not show.\n\n{links}\n```{{toctree}}\n:hidden:\n\n{toctree}\n```\n",
    )


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_gallery, priority=300)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
