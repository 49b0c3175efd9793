"""Fuzzer: damages files in many ways, lets every reader read them, and judges the outcome from outside.

    python -m tests.faults.fuzz --inputs 2000 --seed 0      every input in corpus/, then 2,000 new ones
    python -m tests.faults.fuzz --only 1234 --seed 0        one of these again, with details
    python -m tests.faults.fuzz --only NAME                 one of the corpus

Each input is read in its own process. The reader may succeed, or raise one clear GrokinterpError. It fails if it raises
another exception, takes more than ten seconds, uses a gigabyte more memory than at its start, writes outside its
folder, changes a file that is not of the run, executes or unpickles anything, or uses the network.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.contents import PICKLE, UNPICKLED
from tests.faults.mutations import SEALED, Edit, mutate
from tests.faults.surroundings import NAMES, STREAMS
from tests.faults.targets import DATA, TARGETS

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        name: of the mutations, or the file in the corpus.
        target: the reader.
        fixture: the original folder in tests/data.
        edits: the changes to it.
        folder: the name of the copy that is read.
        stream: what is wrong with the output, one of `STREAMS`; empty if nothing is.
    """

    name: str
    target: str
    fixture: str
    edits: tuple[Edit, ...]
    folder: str = "run"
    stream: str = ""

    def plain(self) -> dict[str, Any]:
        """As plain JSON data."""
        edits = [edit.plain() for edit in self.edits]
        return {**self.__dict__, "edits": edits}

    @staticmethod
    def of(plain: dict[str, Any]) -> "Case":
        """The inverse of `plain`."""
        return Case(**{**plain, "edits": tuple(Edit.of(edit) for edit in plain["edits"])})


def random_case(seed: int, number: int) -> Case:
    """Creates the case of a number."""
    rng = random.Random(f"{seed} {number}")
    names = list(TARGETS)
    chosen = rng.choices(names, [TARGETS[name].share for name in names])[0]
    target = TARGETS[chosen]
    fixture = rng.choice(target.fixtures)
    files = target.files_of(DATA / fixture)
    made, edits = [], []
    for _ in range(2 if rng.random() < 0.12 else 1):
        name, more = mutate(rng, DATA / fixture, files)
        made.append(name)
        edits += more
    folder, stream = "run", ""
    draw = rng.random()
    if draw < 0.07:
        folder = rng.choice(NAMES)
    elif draw < 0.14:
        stream = rng.choice(sorted(STREAMS))
    if draw < 0.14:
        alone = rng.random() < 0.5
        made, edits = [*([] if alone else made), stream or "name of the run"], [] if alone else edits
    return Case(" + ".join(made), chosen, fixture, tuple(edits), folder, stream)


def corpus() -> dict[str, Case]:
    """The stored inputs, by name."""
    return {file.stem: Case.of(json.loads(file.read_text())) for file in sorted(CORPUS.glob("*.json"))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000, help="how many new inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--broken", action="store_true", help="leave out what is whole, which is to be read")
    parser.add_argument("--planted", action="store_true", help="pickles under every name instead")
    parser.add_argument("--target", action="append", help="only the inputs of this reader; may be repeated")
    parser.add_argument("--only", help="number of one input, or its name in the corpus")
    parser.add_argument("--keep", help="keep the one input in the corpus under this name")
    parser.add_argument("--failures", type=Path, help="folder to write inputs that fail to")
    options = parser.parse_args()

    from tests.faults.judge import Judge  # imports all readers, which --help does not need

    with tempfile.TemporaryDirectory(prefix="grokinterp-fuzz-", dir=_memory()) as folder:
        judge = Judge(Path(folder))
        if options.only is not None:
            case = random_case(options.seed, int(options.only)) if options.only.isdecimal() else corpus()[options.only]
            edits = [(edit.file, edit.kind, edit.data[:300], edit.times) for edit in case.edits]
            print(case.name, case.target, case.fixture, ascii(case.folder), case.stream, *edits, sep="\n")
            if options.keep:
                CORPUS.mkdir(exist_ok=True)
                (CORPUS / f"{options.keep}.json").write_text(json.dumps(case.plain(), indent=1) + "\n")
            verdict = judge.try_case(case)
            print(verdict.outcome, verdict.details, sep="\n")
            return int(verdict.failed)
        return _run(judge, options)


def whole() -> Iterator[Case]:
    """Every target's undamaged fixtures, which must be readable."""
    yield from (Case("whole", name, fixture, ()) for name, target in TARGETS.items() for fixture in target.fixtures)


def planted() -> Iterator[tuple[str, Case]]:
    """A pickle under every name that a target reads, one by one, then all, and under names that others unpickle."""
    for name, target in TARGETS.items():
        folder = DATA / target.fixtures[0]
        files = target.files_of(folder)
        for file in {Path(file).name: file for file in files}.values():  # one of several runs is enough
            yield (
                f"{name}: {file}",
                Case("pickle", name, target.fixtures[0], (Edit(file, data=PICKLE), *SEALED)),
            )
        others = [str(Path(file).with_suffix(suffix)) for file in files for suffix in UNPICKLED]
        edits = tuple(Edit(file, data=PICKLE) for file in [*others, *files[1:]])
        yield f"{name}: all", Case("pickles", name, target.fixtures[0], edits)


def _cases(options: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    if options.planted:
        yield from planted()
        return
    if not options.broken:
        yield from ((f"{case.target} of {case.fixture}", case) for case in whole())
    yield from corpus().items()
    for number in range(options.inputs):
        yield str(number), random_case(options.seed, number)


def _memory() -> str | None:
    """A folder in memory, if the system has one: a case spends most of its time on syncing to the disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _run(judge: Any, options: argparse.Namespace) -> int:
    from tests.faults.judge import Verdict

    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    failed = 0
    for label, case in _cases(options):
        if options.target and case.target not in options.target:
            continue
        verdict = judge.try_case(case)
        if case.name == "whole" and verdict.outcome == "refused" and TARGETS[case.target].reads_whole:
            verdict = Verdict("refused what is whole", verdict.details)
        group = _group(label, case)
        counts[case.target, group][verdict.outcome] += 1
        if verdict.failed:
            failed += 1
            made = f"{case.target}; {case.name}; {case.fixture}; {[ascii(edit.file) for edit in case.edits]}"
            print(f"FAILED {label} ({made}): {verdict.outcome}")
            print("   " + verdict.details.replace("\n", "\n   "))
            print(f"   again: python -m tests.faults.fuzz --seed {options.seed} --only {label}", flush=True)
            if options.failures:
                options.failures.mkdir(parents=True, exist_ok=True)
                (options.failures / f"{options.seed}-{label}.json").write_text(json.dumps(case.plain()))
    _show(counts)
    total = sum(counter.total() for counter in counts.values())
    print(f"{total} inputs, seed {options.seed}: {failed} failed; most memory {judge.most_memory / 2**20:.0f} MB above "
          f"the beginning, longest {judge.longest:.1f} s")  # fmt: skip
    return int(failed > 0)


def _group(label: str, case: Case) -> str:
    if case.name in ("whole", "pickle", "pickles"):
        return case.name
    if not label.isdecimal():
        return "corpus"
    return "two at once" if " + " in case.name else case.name


def _show(counts: dict[tuple[str, str], Counter[str]]) -> None:
    """Target by mutation: read / refused / failed."""
    for title, at in (("target", 0), ("mutation", 1)):
        totals: dict[str, Counter[str]] = defaultdict(Counter)
        for key, counter in counts.items():
            totals[key[at]].update(counter)
        print(f"\n{title:24} {'inputs':>7} {'read':>7} {'refused':>8} {'failed':>7}")
        for name, counter in sorted(totals.items()):
            bad = counter.total() - counter["read"] - counter["refused"]
            print(f"{name:24} {counter.total():7} {counter['read']:7} {counter['refused']:8} {bad:7}")
    print()
    print("target x mutation: read/refused" + " (failed)" * any(set(c) - {"read", "refused"} for c in counts.values()))
    for (target, mutation), counter in sorted(counts.items()):
        bad = counter.total() - counter["read"] - counter["refused"]
        print(f"  {target:22} {mutation:24} {counter['read']}/{counter['refused']}" + f" ({bad})" * bool(bad))


if __name__ == "__main__":
    sys.exit(main())
