"""The phases and events of a run, as the shapes that a figure over training draws for them."""

import math
from typing import Any

from grokinterp.analysis.result import Analysis
from grokinterp.analysis.transition import Event
from grokinterp.figures.style import PHASE_COLOURS, QUANTITY_COLOURS

# Height of the strip with the phases' names, and the narrowest plot in which they are to fit, in pixels.
STRIP, _NARROW = 18, 310


def phase_spans(analysis: Analysis) -> list[tuple[str, int, int]]:
    """The phases that have an end, with the steps they last from and to.

    Where memorization has no end of its own, all that comes before the circuit has formed is one span.
    """
    transition = analysis.transition
    spans, start = [], 0
    for name in ("memorization", "circuit formation", "cleanup"):
        end = getattr(transition, f"{name.replace(' ', '_')}_end").step
        if end is not None:
            spans.append((name if spans or name == "memorization" else "until circuit formed", start, end))
            start = end
    return spans


def phase_shapes(analysis: Analysis, panels: int, edge: float | None, last: float, bands: bool) -> list[dict[str, Any]]:
    """Bands for the phases and lines for T_train and T_grok in every panel, and the legend's entries for them.

    Args:
        analysis: the run.
        panels: how many there are, one below another.
        edge: where a logarithmic step axis begins; None on a linear one.
        last: the last step drawn.
        bands: whether to draw the phases; on a heatmap they would change its colours.
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
        # A strip above the panels carries the names, where no curve can run through them.
        strip: dict[str, Any] = {"type": "rect", "xref": "x", "x0": place(start), "x1": place(end)}
        strip |= {"yref": "paper", "ysizemode": "pixel", "yanchor": 1, "y0": 1, "y1": STRIP, "line": {"width": 0}}
        strip |= {"fillcolor": PHASE_COLOURS[name], "legendgroup": name, "showlegend": False}
        if share(start, end) * _NARROW > 6 * len(name):
            strip["label"] = {"text": name, "font": {"size": 11, "color": "#444444"}, "padding": 0}
        shapes.append(strip)
    early = "train" if bands else "mirror"  # dark blue is lost on a heatmap
    events = (
        ("T<sub>train</sub>", analysis.transition.T_train, QUANTITY_COLOURS[early]),
        ("T<sub>grok</sub>", analysis.transition.T_grok, QUANTITY_COLOURS["test"]),
    )
    for panel in range(1, panels + 1):
        axis = "" if panel == 1 else str(panel)
        where = {"xref": f"x{axis}", "yref": f"y{axis} domain", "y0": 0, "y1": 1}
        for name, start, end in spans:
            band = {"type": "rect", "x0": place(start), "x1": place(end), "layer": "below", "line": {"width": 0}}
            band |= {"fillcolor": PHASE_COLOURS[name], "name": name, "showlegend": panel == 1, "legendgroup": name}
            shapes.append(where | band)
        for name, by_threshold, colour in events:
            lines = _event_lines(name, by_threshold, colour, panel == 1)
            shapes += [where | line | {"x0": place(line["x0"]), "x1": place(line["x0"])} for line in lines]
    return shapes


def _event_lines(name: str, events: dict[float, Event], colour: str, legend: bool) -> list[dict[str, Any]]:
    """A vertical line for each threshold that was reached, 0.95 dotted and 0.99 dashed; equal ones share one."""
    reached = sorted({event.step for event in events.values() if event.step is not None})
    said = " / ".join("–" if event.step is None else f"{event.step:,}" for event in events.values())
    shapes: list[dict[str, Any]] = []
    for step in reached:
        dash = "dot" if step == events[min(events)].step else "dash"
        line = {"color": colour, "width": 1.2, "dash": dash}
        shapes.append({"type": "line", "x0": step, "line": line, "legendgroup": name, "layer": "above"})
    if shapes and legend:
        shapes[0] |= {"showlegend": True, "name": f"{name} {said}"}
    return shapes
