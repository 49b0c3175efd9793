"""grokinterp list."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from grokinterp.cli.options import parse


@dataclass(frozen=True)
class List:
    """List the runs and sweeps in a folder."""

    folder: tyro.conf.Positional[Path] = Path("checkpoints")
    """the folder that contains the runs"""
    json: bool = False
    """print a JSON array instead of the table"""


def run_list(arguments: Sequence[str]) -> int:
    options = parse(List, arguments)
    from grokinterp.cli.runs_table import show_runs
    from grokinterp.sweep.listing import describe_runs

    rows = describe_runs(options.folder)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        show_runs(options.folder, rows)
    return 0
