"""The model card of a run for the Hugging Face Hub, written from its analysis."""

from collections.abc import Sequence
from pathlib import Path

import grokinterp
from grokinterp.analysis.result import Analysis
from grokinterp.analysis.timeline import analyze
from grokinterp.errors import ConfigError, RunError, one_line
from grokinterp.figures import accuracy_curves, progress_measures
from grokinterp.figures.saving import rendered
from grokinterp.measures import key_frequencies
from grokinterp.runs.run import Run

_CARD = """---
license: {license}
library_name: grokinterp
tags:
- grokking
- mechanistic-interpretability
- modular-arithmetic
---

# {title}

{summary}

| | |
| --- | --- |
{facts}
{figures}
## Load it

```python
import grokinterp as gi

run = gi.import_run("PATH", "checkpoints/imported")  # PATH: the folder that was downloaded
analysis = run.analyze()
```

The weights alone, under the names of TransformerLens where it has such a model:

```python
from safetensors.torch import load_file

weights = load_file("model.safetensors")
```
{revisions}
Written by grokinterp {version}.
"""

_REVISIONS = """
## Checkpoints

There are {count} checkpoints, each a revision named after its step, from `{first}` to `{last}`; `main` is the last.
"""


def write_card(run: Run, folder: Path, step: int, license: str, revisions: Sequence[str]) -> None:
    """Writes README.md, and the figures if this machine can render them.

    Args:
        run: the run.
        folder: the folder for the Hub.
        step: of the weights in `model.safetensors`.
        license: name of the license.
        revisions: names of the revisions, if there are several.

    Raises:
        RunError: the run is damaged.
    """
    analysis = analyze(run)
    images = _write_figures(analysis, folder)
    transition = analysis.transition
    task = run.config.task
    facts = {
        "task": task.title,
        "model": f"{run.config.model.kind}, {sum(w.numel() for w in run.weights(run.steps[-1]).values()):,} parameters",
        "training fraction": "unknown" if task.train_fraction is None else f"{task.train_fraction:.3g}",
        "outcome": f"{transition.outcome} ({transition.reason})",
        "T_train(0.99)": _step(transition.T_train[0.99].step),
        "T_grok(0.95)": _step(transition.T_grok[0.95].step),
        "end of memorization": _step(transition.memorization_end.step),
        "end of circuit formation": _step(transition.circuit_formation_end.step),
        "end of cleanup": _step(transition.cleanup_end.step),
        "these weights": f"step {step:,}" + (", the last checkpoint" if step == run.steps[-1] else ""),
        "key frequencies": _keys(run, step),
    }
    text = _CARD.format(
        license=one_line(license),
        title=f"{task.title}: {run.config.model.kind}",
        summary=f"A network trained on {task.title}, with the outcome `{transition.outcome}`.",
        facts="\n".join(f"| {name} | {str(value).replace('|', '/')} |" for name, value in facts.items()),
        figures="".join(f"\n![{name}]({file})\n" for name, file in images.items()),
        revisions=_REVISIONS.format(count=len(revisions), first=revisions[0], last=revisions[-1]) if revisions else "",
        version=grokinterp.__version__,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _step(step: int | None) -> str:
    return "none" if step is None else f"step {step:,}"


def _keys(run: Run, step: int) -> str:
    if run.classification.group is None:
        return "unknown: the operation has no cyclic group"
    return ", ".join(map(str, key_frequencies(run.snapshot(step)).values)) or "none"


def _write_figures(analysis: Analysis, folder: Path) -> dict[str, str]:
    """Writes the figures; none if the run has too few steps or this machine cannot render PNG files."""
    if len(analysis.timeline) < 2:
        return {}
    figures = {"accuracy": accuracy_curves(analysis), "progress measures": progress_measures(analysis)}
    try:
        images = rendered(list(figures.values()), "png", dpi=150)
    except (ConfigError, RunError):  # there is no browser
        return {}
    names = {name: f"{name.replace(' ', '_')}.png" for name in figures}
    for file, image in zip(names.values(), images, strict=True):
        (folder / file).write_bytes(image)
    return names
