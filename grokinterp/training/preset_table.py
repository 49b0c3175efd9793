"""presets: the table of the presets, with the cost of each on this machine, measured when the table is shown."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from html import escape

import pandas as pd

from grokinterp.config import RunConfig
from grokinterp.config.presets import DESCRIPTIONS, PRESETS, preset
from grokinterp.statistics.formatting import duration
from grokinterp.training.estimate import estimate

_TRIES = 2  # updates measured for each preset


class PresetTable(Mapping[str, RunConfig]):
    """The presets by name. Printed, it is a table that tells what each is and how long it trains on this machine.

    >>> list(presets)[:3]
    ['demo', 'nanda', 'transformer-lens']
    >>> presets["nanda"].task.p
    113

    `presets.table` is the same as a DataFrame. The first time that the table is shown, or `table` is used, a few
    updates of each preset are measured, which takes a few seconds; `presets[name]` measures nothing.
    """

    def __getitem__(self, name: str) -> RunConfig:
        return preset(name)

    def __contains__(self, name: object) -> bool:
        return name in PRESETS

    def __iter__(self) -> Iterator[str]:
        return iter(PRESETS)

    def __len__(self) -> int:
        return len(PRESETS)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per preset.

        Returns:
            Index `preset`. Columns: `what` (task and model), `source` (the work), `steps` (number of updates; at most,
            if `stops` is True because the run ends after it has grokked), `parameters`, `seconds` (the time of these
            updates on this machine's CPU, without evaluations), and `scaled`: whether an update was measured on an
            eighth of its examples and multiplied by 8, rather than measured whole.
        """
        rows = []
        for name in PRESETS:
            config, text = preset(name), DESCRIPTIONS[name]
            cost = estimate(config, _TRIES, quick=True)
            rows.append(
                {
                    "preset": name,
                    "what": text.what,
                    "source": text.source,
                    "steps": cost.steps,
                    "stops": config.training().schedule.may_stop_early,
                    "parameters": cost.parameters,
                    "seconds": cost.seconds,
                    "scaled": cost.scaled,
                }
            )
        return pd.DataFrame(rows).set_index("preset")

    def rows(self) -> list[tuple[str, str, str, str]]:
        """The cells of the printed table: name, cost, what it is, and source."""
        table = self.table.reset_index()
        costs = [cost_text(*row) for row in zip(table["seconds"], table["stops"], table["scaled"], strict=True)]
        return list(zip(table["preset"], costs, table["what"], table["source"], strict=True))

    def __repr__(self) -> str:
        rows = [HEADINGS, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [" ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, "", *NOTES])

    def _repr_html_(self) -> str:
        table = pd.DataFrame(self.rows(), columns=list(HEADINGS)).to_html(index=False)
        return table + "".join(f"<p>{escape(note)}</p>" for note in NOTES)


HEADINGS = ("preset", "cost", "what", "source")
NOTES = (
    "cost: all updates on this machine's CPU, from updates measured just now;",
    "<: ends earlier, once it has grokked; ~: scaled up from 1/8 of the examples.",
)


def cost_text(seconds: float, stops: bool, scaled: bool) -> str:
    """The time of a run, with marks for an upper bound and for a time that was scaled.

    >>> cost_text(600, stops=True, scaled=False), cost_text(7200, stops=False, scaled=True)
    ('<10 min', '~2.0 h')
    """
    return f"{'<' if stops else ''}{'~' if scaled else ''}{duration(seconds)}"


presets = PresetTable()
