"""grokinterp figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from grokinterp.cli.options import default, parse, progress_bar, say
from grokinterp.errors import ConfigError, RunError, nearest


@dataclass(frozen=True)
class Figures:
    """Save figures of a run for publication."""

    run: tyro.conf.Positional[Path]
    """the run folder"""
    names: Annotated[tyro.conf.Positional[tuple[str, ...]], default("every figure for which the run has data")] = ()
    """names of the figures, such as progress_measures"""
    format: Literal["svg", "pdf", "png", "html"] = "svg"
    """file format; all but html need grokinterp[images] and Chrome or Chromium"""
    output: Annotated[Path | None, default("analysis/figures in the run")] = None
    """folder for the files"""
    width: float = 6.5
    """width in inches"""
    height: Annotated[float | None, default("what the panels and the legend need")] = None
    """height in inches"""
    font_size: float = 9.0
    """size of the text in points"""
    background: Literal["white", "transparent"] = "white"
    """background of the figures"""


def run_figures(arguments: Sequence[str]) -> int:
    options = parse(Figures, arguments)
    from grokinterp import figures
    from grokinterp.figures.saving import rendered, require_renderer

    for name in options.names:  # before the analysis, which may take long
        if (Path(name) / "config.json").is_file():
            raise ConfigError("give one run; `grokinterp report` draws several, as do the functions of gi.figures")
        if name not in figures.OF_RUNS:
            raise ConfigError(f"no figure {name!r} of a run: {nearest(name, figures.OF_RUNS)}")
    if options.output is not None and options.output.exists() and not options.output.is_dir():
        raise RunError(f"{options.output} is not a folder: choose another place for the figures")
    if (options.run / "sweep.json").is_file():
        raise ConfigError(f"{options.run} is a sweep: `grokinterp report` or gi.figures.learning_curves draws it")
    from grokinterp.analysis.timeline import analyze
    from grokinterp.runs.files import make_folder, make_subfolder, write_atomically

    require_renderer(options.format)
    analysis = analyze(options.run, progress=progress_bar())
    drawn = {name: getattr(figures, name)(analysis) for name in dict.fromkeys(options.names or figures.OF_RUNS)}
    if not options.names:
        drawn = {name: figure for name, figure in drawn.items() if not figure.layout.meta["empty"]}
    form = {
        "width": options.width,
        "height": options.height,
        "font_size": options.font_size,
        "background": options.background,
    }
    contents = rendered(list(drawn.values()), options.format, **form)
    # Nothing is written unless everything could be drawn.
    folder = options.output
    if folder is None:
        folder = make_subfolder(make_subfolder(analysis.run.path, "analysis"), "figures")
    make_folder(folder)
    for name, content in zip(drawn, contents, strict=True):
        path = folder / f"{name}.{options.format}"
        write_atomically(path, content)
        say(path)
    return 0
