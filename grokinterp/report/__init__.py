"""write_report: one HTML file that says what a run was and what it shows. It needs no network and no server."""

from collections.abc import Sequence
from pathlib import Path

from grokinterp.analysis.result import Analysis
from grokinterp.figures.canvas import as_list, labels
from grokinterp.report.page import page
from grokinterp.report.plots import FIGURES, plot
from grokinterp.report.sections import facts, final, lead, rules, transitions, warnings
from grokinterp.report.sweep import write_sweep_report
from grokinterp.runs.files import make_folder, make_subfolder, write_atomically

__all__ = ["write_report", "write_sweep_report"]

_HOW_TO_READ = """<p class="caption">Over training, the bands of a single run are its phases, and the vertical lines
the first evaluated steps with train and test accuracy of at least 0.95 (dotted) and 0.99 (dashed). The buttons above a
figure switch between linear and logarithmic steps; a click on an entry of the legend hides what it names, or shows
it.</p>"""


def write_report(analysis: Analysis | Sequence[Analysis], path: str | Path | None = None) -> Path:
    """Writes a report on a run, or on several side by side, as one HTML file.

    The file holds everything it shows, plotly.js included, and asks for nothing from the network.

    Args:
        analysis: what to report on.
        path: the file to write; by default `analysis/report.html` in the run, or, on several runs, so that no run's own
            report is overwritten, `analysis/comparison.html` in the first.

    Returns:
        The file written.

    Raises:
        ConfigError: no analysis was given.
        RunError: the file cannot be written.
    """
    analyses = as_list(analysis)
    name = "report.html" if len(analyses) == 1 else "comparison.html"
    if path is None:
        target = make_subfolder(analyses[0].run.path, "analysis") / name
    else:
        target = Path(path)
        make_folder(target.parent)
    write_atomically(target, _page(analyses))
    return target


def _page(analyses: list[Analysis]) -> str:
    names = labels(analyses)
    heading = names[0] if len(analyses) == 1 else f"{len(analyses)} runs"
    sections: dict[str, str] = {
        "What was run" if len(analyses) > 1 else "What the run was": facts(analyses, names),
        "Transition": transitions(analyses, names),
    }
    for title, functions in FIGURES.items():
        sections[title] = "".join(plot(function, analyses) for function in functions)
    first = next(iter(FIGURES))
    sections[first] = _HOW_TO_READ + sections[first]
    sections["Key frequencies by rule"] = rules(analyses, names)
    sections["Final numbers"] = final(analyses, names)
    return page(heading, lead(analyses, names), warnings(analyses, names), sections)
