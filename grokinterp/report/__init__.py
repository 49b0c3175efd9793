"""write_report: a report on a run, or on several, as one HTML file that needs no network and no server."""

from collections.abc import Sequence
from pathlib import Path

from grokinterp.analysis.result import Analysis
from grokinterp.figures.inputs import as_list, labels
from grokinterp.report.page import page, write_output
from grokinterp.report.plots import FIGURES, plot
from grokinterp.report.sections import facts, final, lead, rules, transitions, warnings
from grokinterp.report.sweep import write_sweep_report
from grokinterp.runs.files import make_subfolder, write_atomically

__all__ = ["write_report", "write_sweep_report"]

_HOW_TO_READ = """<p class="caption">In figures over training, bands show the phases of a single run, and vertical
lines the first evaluated steps with train and test accuracy of at least 0.95 (dotted) and 0.99 (dashed). The buttons
above a figure switch between linear and logarithmic steps. A click on a legend entry hides or shows its curve.</p>"""


def write_report(analysis: Analysis | Sequence[Analysis], path: str | Path | None = None) -> Path:
    """Write a report on one run, or on several side by side, as one HTML file.

    The file is self-contained: it includes plotly.js and makes no network requests.

    >>> import grokinterp as gi
    >>> write_report(gi.analyze("checkpoints/run42", steps="0:4000:2000"), "report.html").name
    'report.html'

    Args:
        analysis: one analysis or several.
        path: the file to write (default: `analysis/report.html` in the run's folder; for several runs
            `analysis/comparison.html` in the first run's folder, which overwrites no run's own report).

    Returns:
        The path of the file.

    Raises:
        ConfigError: `analysis` is an empty list.
        RunError: the file cannot be written, or `path` names a folder, a symlink, or a device.
    """
    analyses = as_list(analysis)
    name = "report.html" if len(analyses) == 1 else "comparison.html"
    if path is not None:
        write_output(Path(path), _page(analyses))
        return Path(path)
    target = make_subfolder(analyses[0].run.path, "analysis") / name
    write_atomically(target, _page(analyses))
    return target


def _page(analyses: list[Analysis]) -> str:
    names = labels(analyses)
    heading = names[0] if len(analyses) == 1 else f"{len(analyses)} runs"
    drawn = {title: "".join(plot(function, analyses) for function in group) for title, group in FIGURES.items()}
    first = next(iter(FIGURES))
    sections: dict[str, str] = {
        first: drawn[first] + _HOW_TO_READ,
        "Runs" if len(analyses) > 1 else "Run": facts(analyses, names),
        "Transition": transitions(analyses, names),
        **{title: content for title, content in drawn.items() if title != first},
    }
    sections["Key frequencies by rule"] = rules(analyses, names)
    sections["Final numbers"] = final(analyses, names)
    return page(heading, lead(analyses, names), warnings(analyses, names), sections)
