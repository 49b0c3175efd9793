"""Damaged and hostile input: every reader succeeds, or reports the problem in one line."""

import contextlib
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from grokinterp.config import RunConfig
from grokinterp.config.schedule import most_scheduled, schedule_terms, scheduled_steps
from grokinterp.errors import ConfigError, GrokinterpError, RunError
from grokinterp.experiments.results import results_in
from grokinterp.runs.checkpoints import parse_step
from grokinterp.runs.files import parse_json
from grokinterp.runs.metrics import read_metrics
from grokinterp.runs.run import Run
from grokinterp.runs.tensors import deserialize, serialize
from grokinterp.runs.verification import verify
from grokinterp.sweep import Sweep, parse_values
from tests.faults import judge as judging
from tests.faults.fuzz import Case, corpus, random_case
from tests.faults.judge import Judge
from tests.faults.mutations import Edit
from tests.faults.surroundings import NAMES, seal
from tests.faults.targets import DATA, TARGETS, Target

ROOT = Path(__file__).parents[2]


def fuzz(*options: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults.fuzz", *options]
    outcome = processes.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    failures = [line for line in outcome.stdout.splitlines() if line.startswith(("FAILED", "   "))]
    assert outcome.returncode == 0, "\n".join(failures[:100]) + outcome.stderr[-2000:]
    return outcome.stdout


def test_the_corpus_and_some_new_inputs():
    said = fuzz("--broken", "--inputs", "10", "--seed", "20261122")
    assert re.search(rf"^{len(corpus()) + 10} inputs, .* 0 failed", said, re.MULTILINE)


@pytest.mark.slow
def test_two_thousand_inputs_over_all_readers():
    said = fuzz("--inputs", "2000", "--seed", "1")
    assert re.search(r"^2\d\d\d inputs, .* 0 failed", said, re.MULTILINE)
    assert all(re.search(rf"^{re.escape(name)} +\d", said, re.MULTILINE) for name in TARGETS)


class TestTheJudge:
    """The judge detects each kind of failure."""

    @pytest.fixture
    def judge(self, tmp_path, monkeypatch) -> Judge:
        monkeypatch.setattr(judging, "SECONDS", 2.0)
        return Judge(tmp_path)

    def verdict(self, judge: Judge, monkeypatch, read: Callable[[Path], object], *edits: Edit, stream: str = "") -> str:
        monkeypatch.setitem(TARGETS, "hostile", Target(read, ("trainer/mlp",), ("config.json",)))
        return judge.try_case(Case("control", "hostile", "trainer/mlp", edits, stream=stream)).outcome

    @staticmethod
    def refuse(message: str) -> None:
        raise RunError(message)

    @pytest.mark.parametrize(
        ("read", "said"),
        [
            (lambda folder: None, "read"),
            (lambda folder: TestTheJudge.refuse("config.json is damaged: remove it"), "refused"),
            (lambda folder: {}["step"], "raised KeyError"),
            (lambda folder: bytearray(2 << 30), "raised MemoryError"),
            (lambda folder: sys.exit(1), "raised SystemExit"),
            (lambda folder: time.sleep(60), "no end after 2 s"),
            (lambda folder: os.kill(os.getpid(), 11), "the process died"),
            (lambda folder: (folder / "../../victims/secret.txt").write_text("x"), "changed what is outside"),
            (lambda folder: (folder / "../../new").mkdir(), "wrote outside"),
            (lambda folder: (folder / "../../victims/secret.txt").unlink(), "changed what is outside"),
            (lambda folder: (folder / "../../cwd/new").write_text("x"), "wrote outside"),
            (lambda folder: (folder / "../../cwd/new").mkdir(), "os.mkdir outside"),
            (lambda folder: (folder / "../../cwd").rmdir(), "os.rmdir outside"),
            (lambda folder: (folder / "../../cwd").chmod(0o777), "os.chmod outside"),
            (lambda folder: (folder / "config.json").rename(folder / "../../cwd/x"), "os.rename outside"),
            (lambda folder: os.symlink("x", folder / "../../cwd/x"), "os.symlink outside"),
            (lambda folder: (folder / "../../victims/secret.txt").chmod(0o777), "changed what is outside"),
            (lambda folder: os.system("true"), "os.system"),
            (lambda folder: subprocess.run(["true"]), "executed"),
            (lambda folder: pickle.loads(b"cos\ngetcwd\n(tR."), "pickle.find_class"),
            (lambda folder: socket.getaddrinfo("localhost", 1), "socket.getaddrinfo"),
            (lambda folder: exec(compile("1", str(folder / "x.py"), "exec")), "compile of"),
            (lambda folder: os.write(1, b"Traceback (most recent call last):"), "showed a traceback"),
            (lambda folder: os.write(1, b"\x1b[31mred"), "wrote control characters"),
        ],
    )  # fmt: skip
    def test_it_detects(self, read, said, judge, monkeypatch):
        assert self.verdict(judge, monkeypatch, read).startswith(said)

    def test_a_message_of_two_lines(self, judge, monkeypatch):
        class TwoLines(GrokinterpError):
            def __str__(self) -> str:
                return "one\ntwo"

        def read(folder: Path) -> None:
            raise TwoLines

        assert self.verdict(judge, monkeypatch, read).startswith("refused with a message that is not one plain line")

    def test_a_write_through_a_link(self, judge, monkeypatch):
        link = Edit("config.json", "link", b"../../victims/config.json")
        said = self.verdict(judge, monkeypatch, lambda folder: (folder / "config.json").write_text("x"), link)
        assert said == "changed what is outside"

    @pytest.mark.parametrize("kind", ["write", "folder", "pipe", "link"])
    def test_a_lost_file_of_someone_else(self, kind, judge, monkeypatch):
        def remove(folder: Path) -> None:
            (folder / "weights" / ".x.tmp").rename(folder / "weights" / "x")

        edit = Edit("weights/.x.tmp", kind, b"nowhere")
        said = self.verdict(judge, monkeypatch, remove, edit)
        assert said == "changed what is not of the run: 'weights/.x.tmp'"
        assert self.verdict(judge, monkeypatch, lambda folder: None, edit) == "read"

    def test_a_write_into_a_hard_link(self, judge, monkeypatch):
        def append(folder: Path) -> None:
            with (folder / "metrics.jsonl").open("a") as file:
                file.write("more")

        link = Edit("metrics.jsonl", "hard link", b"../../victims/metrics.jsonl")
        assert self.verdict(judge, monkeypatch, append, link) == "changed what is outside"

    @pytest.mark.parametrize(
        ("file", "kind", "read"),
        [
            ("config.json", "unreadable", lambda folder: (folder / "config.json").read_bytes()),
            (".", "unreadable", lambda folder: list(folder.iterdir())),
            (".", "unwritable", lambda folder: (folder / "new").touch()),
            (".", "unsearchable", lambda folder: (folder / "config.json").stat()),
        ],
    )
    def test_permissions_bind_even_root(self, file, kind, read, judge, monkeypatch):
        assert self.verdict(judge, monkeypatch, read, Edit(file, kind)) == "raised PermissionError"
        assert self.verdict(judge, monkeypatch, lambda folder: None, Edit(file, kind)) == "read"

    @pytest.mark.parametrize(
        ("stream", "said"),
        [
            ("full output", "raised OSError"),
            ("closed pipe", "raised BrokenPipeError"),
            ("closed output", "raised AttributeError"),
            ("ASCII output", "raised UnicodeEncodeError"),
        ],
    )
    def test_a_stream_that_fails(self, stream, said, judge, monkeypatch):
        def write(folder: Path) -> None:
            sys.stdout.write("é")
            sys.stdout.flush()

        assert self.verdict(judge, monkeypatch, write, stream=stream) == said

    def test_memory_that_is_released(self, judge, monkeypatch):
        """Also if the limit on the address space is not reached at once."""
        monkeypatch.setattr(judging, "MEMORY", 100 << 20)
        said = self.verdict(judge, monkeypatch, lambda folder: len(b"x" * (90 << 20)) + len(b"y" * (60 << 20)))
        assert "memory" in said.lower() or said == "read"


@pytest.mark.parametrize(("fixture", "file"), [("trust/analyzed", "weights/step_000030"), ("trust/killed", "resume")])
def test_a_sealed_change_agrees_with_every_checksum(fixture, file, tmp_path):
    folder = shutil.copytree(DATA / fixture, tmp_path / "run")
    changed = folder / f"{file}.safetensors"
    data = bytearray(changed.read_bytes())
    data[int.from_bytes(data[:8], "little") + 9] ^= 1  # a low bit of the first number
    changed.write_bytes(data)
    assert "checksum" in " ".join(verify(folder).problems)
    seal(folder, DATA / fixture)
    assert "checksum" not in " ".join(verify(folder).problems)
    assert all((folder / name.relative_to(DATA / fixture)).is_file() for name in (DATA / fixture).rglob("*.json"))


def test_a_run_with_an_odd_name_is_read(tmp_path):
    judge = Judge(tmp_path)
    cases = [Case("name", "run", "trainer/mlp", (), name) for name in NAMES[::4]]
    assert {judge.try_case(case).outcome for case in cases} == {"read"}


def test_the_same_seed_makes_the_same_inputs():
    cases = [random_case(5, number) for number in range(30)]
    assert cases == [random_case(5, number) for number in range(30)]
    assert cases != [random_case(6, number) for number in range(30)]
    assert [Case.of(json.loads(json.dumps(case.plain()))) for case in cases] == cases


# --- What is parsed, in this process: hypothesis makes it and shrinks what fails.

quick = settings(derandomize=True, deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
SCHEDULE = r"(every|log|dense)(:[0-9]{1,9}){0,4}(\+[0-9]{1,4})?"
CONFIGS = [(DATA / name / "config.json").read_text() for name in ("trainer/mlp", "recipes/norms", "recipes/regression")]


def places(content: object, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = content.items() if isinstance(content, dict) else ()
    return [at, *(place for name, value in inner for place in places(value, (*at, name)))]


@st.composite
def configs(draw: st.DrawFn) -> str:
    """A configuration in which one value is replaced by another plausible or arbitrary value."""
    content = json.loads(draw(st.sampled_from(CONFIGS)))
    *outer, last = draw(st.sampled_from(places(content)[1:]))
    inner = content
    for name in outer:
        inner = inner[name]
    sensible = st.sampled_from([1, 2, 5, 10**6, 10**12, 10**13, -1, 0, 0.5, 1e30, 1e31, "relu", "every:1", "log:5+3"])
    inner[last] = draw(sensible | values)
    return json.dumps(content)


@quick
@given(configs())
@example("9" * 5000)
@example('{"model_seed": ' + "9" * 5000 + "}")
@example("[" * 100_000)
@example('{"model": {"kind": "recorded", "description": "\\ud800"}}')
def test_a_configuration_is_read_or_refused(text):
    with contextlib.suppress(ConfigError):
        config = RunConfig.from_json(text)
        assert RunConfig.from_json(config.to_json()) == config


@quick
@given(
    st.text(max_size=30) | st.from_regex(r"(every|log|dense)(:[0-9]{1,9}){0,4}(\+[0-9]{1,4})?", fullmatch=True),
    st.integers(1, 3000),
)
def test_a_schedule_is_read_or_refused_and_its_count_is_no_less(spec, last):
    with contextlib.suppress(ConfigError):
        schedule_terms(spec)
        if most_scheduled(spec, last) < 100_000:
            assert len(scheduled_steps(spec, last)) <= most_scheduled(spec, last)


@quick
@given(st.text(max_size=40) | st.from_regex(r"[a-z_.]{1,8}=[-0-9:.,\[\]ea]{1,12}", fullmatch=True))
@example("x=" + "9" * 5000)
@example("x=" + "[" * 10_000)
def test_values_and_steps_of_a_command_line_are_read_or_refused(text):
    for parse in (parse_values, parse_step):
        with contextlib.suppress(ConfigError):
            parse(text)


@quick
@given(values)
def test_json_files_of_any_content_are_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    text = json.dumps(content)
    for name in ("config.json", "status.json", "environment.json", "sweep.json", "results.json", "metrics.jsonl"):
        (folder / name).write_text(text + "\n" if name == "metrics.jsonl" else text)
    run = Run(folder, RunConfig())
    reads = (lambda: run.status, lambda: run.environment, lambda: run.metrics)
    for read in (*reads, lambda: Sweep.open(folder), lambda: results_in(folder), lambda: Run.open(folder)):
        with contextlib.suppress(GrokinterpError):
            read()


@quick
@given(st.lists(st.binary(max_size=30) | values.map(lambda v: json.dumps({"step": v}).encode()), max_size=6))
def test_metrics_are_read_or_refused(tmp_path_factory, lines):
    file = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    with contextlib.suppress(RunError):
        frame = read_metrics(file)
        assert frame.index.is_monotonic_increasing
        assert frame.index.is_unique


@quick
@given(st.data())
def test_tensor_files_are_read_or_refused(data):
    import torch

    whole = bytearray(serialize({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}, {"step": "5"}))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))]) if data.draw(st.booleans()) else bytes(whole)
    with contextlib.suppress(RunError):
        found = deserialize(cut, Path("x.safetensors"))
        assert all(isinstance(word, str) for word in found.metadata)


@quick
@given(st.text(max_size=40), values)
def test_parsed_json_can_be_written_again(text, content):
    for given_text in (text, json.dumps(content)):
        with contextlib.suppress(ValueError):
            json.dumps(parse_json(given_text), ensure_ascii=False).encode()
