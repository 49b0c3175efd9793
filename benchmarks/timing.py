"""Interleaved timing: the sides of a comparison run in separate processes and take turns, round by round."""

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

Work = Callable[[], Any]


@dataclass(frozen=True)
class Side:
    """One side of a comparison: `module:function(*arguments)` prepares the work to be timed and returns it."""

    function: str
    arguments: tuple[Any, ...] = ()
    calls: int = 1
    """number of times the work is done per measurement"""
    checkout: str | None = None
    """the checkout of another commit whose code is to be measured; None: this one"""


class Process:
    """A side in a process of its own, which works when it is its turn and is idle otherwise."""

    def __init__(self, side: Side):
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps([side.function, side.arguments, side.calls])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": side.checkout or str(Path(__file__).parents[1])},
        )
        self.setup = self.read()  # seconds of the first call, which imports, allocates and compiles

    def read(self) -> float:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise SystemExit("a side of a benchmark failed: see its traceback above")
        return float(line)

    def milliseconds(self) -> float:
        """Do the work once, and return its time in milliseconds."""
        return 1000 * self.request("time")

    def peak_megabytes(self) -> float:
        return self.request("memory")

    def request(self, quantity: str) -> float:
        if self.process.stdin:
            self.process.stdin.write(quantity + "\n")
            self.process.stdin.flush()
        return self.read()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Timed:
    """Measurements of several sides by name: time of each round (ms), peak memory (MB), and first call (s)."""

    rounds: dict[str, list[float]]
    memory: dict[str, float]
    first: dict[str, float]

    def typical(self, name: str) -> float | None:
        return median(self.rounds[name]) if name in self.rounds else None

    def ratios(self, above: str, below: str) -> list[float]:
        return [a / b for a, b in zip(self.rounds[above], self.rounds[below], strict=True)]


def interleave(sides: dict[str, Side], rounds: int) -> Timed:
    """Let all sides take turns for some rounds."""
    with ExitStack() as stack:
        processes = {name: stack.enter_context(Process(side)) for name, side in sides.items()}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, process in processes.items():
                time.sleep(0.02)  # until the threads of the previous side are idle
                times[name].append(process.milliseconds())
        memory = {name: process.peak_megabytes() for name, process in processes.items()}
        return Timed(times, memory, {name: process.setup for name, process in processes.items()})


def row(name: str, unit: str, timed: Timed, *, ratio: Sequence[float] | None = None) -> dict[str, Any]:
    """One row of results.json; the ratio is reference / ours by default."""
    has_reference = "reference" in timed.rounds
    ratios = ratio if ratio is not None else timed.ratios("reference", "ours") if has_reference else None
    return {
        "name": name,
        "unit": unit,
        "ours": rounded(timed.typical("ours")),
        "reference": rounded(timed.typical("reference")),
        "floor": rounded(timed.typical("floor")),
        "ratio": None if ratios is None else rounded(median(ratios)),
        "spread": None if ratios is None else spread(ratios),
        "rounds": len(timed.rounds["ours"]),
    }


def plain_row(name: str, unit: str, ours: float, **more: Any) -> dict[str, Any]:
    """A row for a quantity that was measured once or is not a time."""
    empty = {"reference": None, "floor": None, "ratio": None, "spread": None, "rounds": 1}
    return {"name": name, "unit": unit, "ours": rounded(ours), **empty, **more}


def spread(values: Sequence[float]) -> list[float | None]:
    """The quartiles."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return [rounded(low), rounded(high)]


def rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def serve(function: str, arguments: Sequence[Any], calls: int) -> None:
    """Main function of a side's process: answers `time` with seconds per call, `memory` with its peak in MB."""
    channel, sys.stdout = sys.stdout, sys.stderr
    module, _, name = function.partition(":")
    start = time.perf_counter()
    work: Work = getattr(importlib.import_module(module), name)(*arguments)
    work()
    print(time.perf_counter() - start, file=channel, flush=True)
    for _ in range(2):
        work()
    for request in sys.stdin:
        if request.strip() == "memory":
            answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        else:
            start = time.perf_counter()
            for _ in range(calls):
                work()
            answer = (time.perf_counter() - start) / calls
        print(answer, file=channel, flush=True)


if __name__ == "__main__":
    serve(*json.loads(sys.argv[1]))
