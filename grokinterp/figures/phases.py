"""Bands for the phases of a run and lines for its events."""

import math
from typing import Any

from grokinterp.analysis.result import Analysis
from grokinterp.analysis.transition import Event
from grokinterp.figures.style import PHASE_BORDERS, PHASE_COLORS, QUANTITY_COLORS

# In pixels: the height of the strip with the phases' names, and the narrowest plot in which the names must fit.
STRIP, _NARROW = 18, 310


def phase_spans(analysis: Analysis) -> list[tuple[str, int, int]]:
    """Return the name, first step and last step of each phase that has an end.

    If memorization has no end, everything before the end of circuit formation is one span.
    """
    transition = analysis.transition
    spans, start = [], 0
    for name in ("memorization", "circuit formation", "cleanup"):
        end = getattr(transition, f"{name.replace(' ', '_')}_end").step
        if end is not None:
            spans.append((name if spans or name == "memorization" else "until circuit formed", start, end))
            start = end
    return spans


def phase_shapes(
    analysis: Analysis, panels: int, columns: int, edge: float | None, last: float, bands: bool
) -> list[dict[str, Any]]:
    """Return bands for the phases and lines for T_train and T_grok in every panel, with their legend entries.

    Args:
        analysis: the run.
        panels: number of panels, numbered row by row.
        columns: number of panels in a row.
        edge: the step at which a logarithmic step axis begins; None for a linear axis.
        last: the last step drawn.
        bands: False to omit the phases, whose bands would change the colors of a heatmap.
    """

    def place(step: float) -> float:
        return step if edge is None else max(step, edge)

    def share(start: float, end: float) -> float:
        if edge is None:
            return (end - start) / max(last, 1.0)
        return math.log(place(end) / place(start)) / math.log(last / edge)

    shapes: list[dict[str, Any]] = []
    spans = phase_spans(analysis) if bands else []
    for name, start, end in spans:
        # The names stand in a strip above the panels, where no curve crosses them.
        strip: dict[str, Any] = {"type": "rect", "x0": place(start), "x1": place(end)}
        strip |= {"yref": "paper", "ysizemode": "pixel", "yanchor": 1, "y0": 1, "y1": STRIP, "line": {"width": 0}}
        strip |= {"fillcolor": PHASE_COLORS[name], "legendgroup": name, "showlegend": False}
        if share(start, end) * _NARROW / columns > 6 * len(name):
            strip["label"] = {"text": name, "font": {"size": 11, "color": "#444444"}, "padding": 0}
        shapes += [strip | {"xref": "x" if column == 1 else f"x{column}"} for column in range(1, columns + 1)]
    early = "train" if bands else "mirror"  # dark blue is invisible on a heatmap
    events = (
        ("T<sub>train</sub>", analysis.transition.T_train, QUANTITY_COLORS[early]),
        ("T<sub>grok</sub>", analysis.transition.T_grok, QUANTITY_COLORS["test"]),
    )
    for panel in range(1, panels + 1):
        axis = "" if panel == 1 else str(panel)
        panel_axes = {"xref": f"x{axis}", "yref": f"y{axis} domain", "y0": 0, "y1": 1}
        for name, start, end in spans:
            band = {"type": "rect", "x0": place(start), "x1": place(end), "layer": "below"}
            band |= {"line": {"width": 1, "color": PHASE_BORDERS[name]}}  # without it, the legend's swatch looks blank
            band |= {"fillcolor": PHASE_COLORS[name], "name": name, "showlegend": panel == 1, "legendgroup": name}
            shapes.append(panel_axes | band)
        for name, by_threshold, color in events:
            lines = _event_lines(name, by_threshold, color, panel == 1)
            shapes += [panel_axes | line | {"x0": place(line["x0"]), "x1": place(line["x0"])} for line in lines]
    return shapes


def _event_lines(name: str, events: dict[float, Event], color: str, legend: bool) -> list[dict[str, Any]]:
    """Return a vertical line per threshold reached (0.95 dotted, 0.99 dashed); equal steps share a line."""
    reached = sorted({event.step for event in events.values() if event.step is not None})
    label = " / ".join("–" if event.step is None else f"{event.step:,}" for event in events.values())
    label += f" ({' / '.join(f'{100 * theta:.0f}' for theta in events)} %)"
    shapes: list[dict[str, Any]] = []
    for step in reached:
        dash = "dot" if step == events[min(events)].step else "dash"
        line = {"color": color, "width": 1.2, "dash": dash}
        shapes.append({"type": "line", "x0": step, "line": line, "legendgroup": name, "layer": "above"})
    if shapes and legend:
        shapes[0] |= {"showlegend": True, "name": f"{name} {label}"}
    return shapes
