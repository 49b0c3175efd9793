"""Flips single bits in every file of runs and a sweep, and counts what `verify` detects.

`python -m tests.faults.flips --flips 50 --seed 0` prints the table of docs/trust.md. Found flips are reported by
`verify`; harmless ones change nothing that any command shows (white space, or digits of a number with the same value);
missed ones are neither.
"""

import argparse
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from grokinterp.analysis.cache import AnalysisCache, Journal
from grokinterp.analysis.timeline import analyze
from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.errors import GrokinterpError
from grokinterp.report import write_report, write_sweep_report
from grokinterp.runs.verification import verify
from grokinterp.sweep import train_sweep
from grokinterp.sweep.verification import verify_sweep
from grokinterp.tasks import Task
from grokinterp.training import Callback, train
from grokinterp.training.recorder import Recorder

CONFIG = RunConfig(
    task=TaskConfig(p=5, train_fraction=0.5),
    model=MLPConfig(width=4, depth=1),
    optimizer=OptimizerConfig(batch_size=6),
    schedule=ScheduleConfig(steps=30, evaluate_every=5, checkpoints=10, resume_every=20),
)

JOURNAL = "unfinished.jsonl"

Check = Callable[[Path], list[str]]


class Copy(Callback):
    """Copies the run folder after an update, as a kill at this moment would leave it."""

    def __init__(self, run: Path, target: Path, step: int):
        self.run, self.target, self.step = run, target, step

    def on_step(self, step: int) -> None:
        if step == self.step:
            shutil.copytree(self.run, self.target, ignore=shutil.ignore_patterns(".lock"))


def make_folders(root: Path) -> dict[str, tuple[Path, Check]]:
    """A folder of each kind, with a function that returns its problems."""
    source = train(CONFIG, root / "source", progress=False)
    finished, killed, sweep = root / "finished", root / "killed", root / "sweep"
    copy = Copy(root / "trained", killed, 27)
    train(CONFIG, root / "trained", progress=False, start_from=f"{source.path}@30", callbacks=[copy])
    (root / "trained").rename(finished)
    write_report(analyze(finished, workers=0))
    leave_journal(killed)
    settings = {"optimizer.weight_decay": [0.0, 1.0], "model.width": [4, -1]}
    trained = train_sweep(sweep, CONFIG, zipped=settings, workers=1)
    write_sweep_report(trained.collect(), trained.axes, trained.name, sweep / "report.html")
    recorded = Recorder(root / "recorded", Task.modular_addition(5, train_indices=range(0, 25, 2)))
    for step in (0, 10):
        logits = torch.randn(25, 5, generator=torch.Generator().manual_seed(step))
        recorded.record(step, logits, weights={"embed.W_E": torch.ones(5, 2)})
    return {
        "finished run": (finished, problems),
        "killed run": (killed, problems),
        "recorded run": (root / "recorded", problems),
        "sweep": (sweep, sweep_problems),
    }


def leave_journal(run: Path) -> None:
    """Analyzes a run and stops before the tables are written, as a kill would."""

    with patch.object(AnalysisCache, "save", side_effect=KeyboardInterrupt), suppress(KeyboardInterrupt):
        analyze(run, workers=0)


def problems(run: Path) -> list[str]:
    return list(verify(run).problems)


def sweep_problems(sweep: Path) -> list[str]:
    runs = [file.parent for file in sweep.glob("*/config.json")]
    return [*verify_sweep(sweep).problems, *(problem for run in runs for problem in verify(run).problems)]


def kind_of(file: Path, folder: Path) -> str:
    """The row of the table to which a file belongs."""
    name = file.relative_to(folder).as_posix()
    for prefix in ("weights/", "logits/", "failures/"):
        if f"/{prefix}" in f"/{name}":
            return f"each file in {prefix}"
    return name if len(file.relative_to(folder).parts) == 1 or "analysis/" not in name else f"analysis/{file.name}"


def content_of(file: Path) -> Any:
    """What a file means: two files with equal contents look the same in every command."""
    if file.name == JOURNAL:
        return [str(entry) for entry in Journal(file).entries()]
    if file.suffix == ".json":
        return json.dumps(json.loads(file.read_text()), sort_keys=True)
    if file.suffix == ".jsonl":
        return [json.dumps(json.loads(line), sort_keys=True) for line in file.read_text().splitlines() if line.strip()]
    if file.suffix == ".parquet":
        table = pq.read_table(file)
        return str(table.schema), table.to_pandas().to_json()
    if file.suffix == ".safetensors":
        return {name: tensor.to(torch.float64).tolist() for name, tensor in load_file(file).items()}
    return file.read_bytes()


def is_harmless(file: Path, whole: Any) -> bool:
    if file.name == JOURNAL:  # what `analyze` does not read from it, it computes again
        return all(entry in whole for entry in content_of(file))
    try:
        return content_of(file) == whole
    except Exception:  # a file that cannot be read is not harmless
        return False


def flip_everything(folder: Path, check: Check, flips: int, draw: random.Random) -> Mapping[str, Counter[str]]:
    """Flips bits in each file of a folder, one at a time, and counts by kind of file what happened."""
    intact = check(folder)
    if intact:
        raise AssertionError(f"{folder} has problems before any flip: {intact}")
    counts: dict[str, Counter[str]] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"):
        data, whole = file.read_bytes(), content_of(file)
        for _ in range(flips):
            position, bit = draw.randrange(len(data)), draw.randrange(8)
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            file.write_bytes(changed)
            try:
                found = bool(check(folder))
            except GrokinterpError:
                found = True
            result = "found" if found else "harmless" if is_harmless(file, whole) else "missed"
            counts.setdefault(kind_of(file, folder), Counter())[result] += 1
            if result == "missed":
                print(f"missed: {file}, byte {position}, bit {bit}")
        file.write_bytes(data)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=50, help="per file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(options.seed)
    missed = 0
    print("| folder | file | found | harmless | missed |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as root:
        for title, (folder, check) in make_folders(Path(root)).items():
            for kind, counts in flip_everything(folder, check, options.flips, draw).items():
                print(f"| {title} | `{kind}` | {counts['found']} | {counts['harmless']} | {counts['missed']} |")
                missed += counts["missed"]
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
