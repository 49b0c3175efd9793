"""Code planted in someone else's run, as pickles under every name or as modules, is never executed."""

import ast
import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import processes
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grokinterp.analysis.timeline import analyze
from grokinterp.errors import ConfigError, GrokinterpError
from grokinterp.runs.run import Run
from grokinterp.training import train

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"


class Bomb:
    """Unpickling it creates a folder."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def bomb(marker) -> bytes:
    return pickle.dumps(Bomb(marker))


def test_the_bomb_goes_off_where_it_is_unpickled(bomb, marker):
    pickle.loads(bomb)
    assert marker.is_dir()


def planted(*options: str) -> int:
    """The number of inputs with a pickle that were tried; the judge fails if one of them is unpickled."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults.fuzz", "--planted", *options]
    outcome = processes.run(command, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout[-5000:] + outcome.stderr[-2000:]
    return int(re.search(r"^(\d+) inputs, .* 0 failed", outcome.stdout, re.MULTILINE)[1])  # pyright: ignore


@pytest.mark.slow
def test_a_pickle_under_the_names_of_a_run_and_a_sweep_is_not_unpickled():
    """One file at a time, then all, and under names that other tools unpickle."""
    readers = ("run", "weights", "analyze", "resume", "verify", "sweep", "results")
    assert planted(*(word for reader in readers for word in ("--target", reader))) > 40


@pytest.mark.slow
def test_no_reader_unpickles_files_under_any_name():
    assert planted() > 120


@pytest.mark.parametrize("table", ["timeline.parquet", "frequencies.parquet"])
def test_a_parquet_extension_type_that_carries_a_pickle_is_not_unpickled(table, bomb, marker, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(DATA / "recipes" / "analyzed", folder)
    file = folder / "analysis" / table
    stored = pq.read_table(file)
    for i, field in enumerate(stored.schema):
        carrying = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": bomb}
        stored = stored.set_column(i, pa.field(field.name, field.type, metadata=carrying), stored.column(i))
    buffer = io.BytesIO()
    pq.write_table(stored.replace_schema_metadata({**(stored.schema.metadata or {}), b"pickle": bomb}), buffer)
    file.write_bytes(buffer.getvalue())
    index = json.loads((folder / "analysis" / "analysis.json").read_text())
    index["tables"][table] = hashlib.sha256(buffer.getvalue()).hexdigest()
    (folder / "analysis" / "analysis.json").write_text(json.dumps(index))
    with contextlib.suppress(GrokinterpError):
        analyze(folder, workers=0)
    assert not marker.exists()


def imported_anywhere() -> set[str]:
    """The first name of every module that the package imports, and of modules that its dependencies look for."""
    found = {"sitecustomize", "usercustomize", "wandb", "trackio", "ipywidgets", "kaleido", "ray", "IPython", "orjson"}
    found |= {"numexpr", "bottleneck", "fastparquet", "numba", "cupy", "jax", "triton", "matplotlib", "PIL", "xarray"}
    for path in (ROOT / "grokinterp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found | {"grokinterp", "encodings", "site", "json", "torch", "pyarrow", "tests"}


def run_elsewhere(arguments: list[str], cwd: Path, scripts: Path) -> subprocess.CompletedProcess[str]:
    """Runs the console script, as pip installs it, in a folder."""
    scripts.mkdir(exist_ok=True)
    script = scripts / "grokinterp-script"
    script.write_text("import sys\nfrom grokinterp.cli import main\nsys.exit(main())\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return processes.run(
        [sys.executable, str(script), *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


class TestModules:
    """`cd hostile_run && grokinterp ...` imports nothing from that folder."""

    @pytest.fixture
    def planted(self, tmp_path) -> tuple[Path, Path]:
        """A run full of modules, and the file that each of them creates when it is imported."""
        folder, marker = tmp_path / "run", tmp_path / "imported"
        shutil.copytree(DATA / "trainer" / "stopped", folder)
        names = imported_anywhere()
        assert {"plotly", "transformer_lens", "pandas", "wandb", "scipy", "fcntl", "tyro"} <= names
        for name in names:
            (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write('{name} ')\nraise SystemExit(9)\n")
        return folder, marker

    @pytest.mark.parametrize(
        "arguments",
        [
            ["analyze", ".", "--workers", "2"],
            pytest.param(["verify", "."], marks=pytest.mark.slow),
            pytest.param(["train", ".", "--resume"], marks=pytest.mark.slow),
            pytest.param(["train", "new", "--config", "config.json", "--dry-run"], marks=pytest.mark.slow),
        ],
        ids=lambda arguments: arguments[0],
    )
    def test_nothing_that_lies_in_a_run_is_imported(self, arguments, planted, tmp_path):
        folder, marker = planted
        outcome = run_elsewhere(arguments, folder, tmp_path / "scripts")
        assert not marker.exists(), marker.read_text()
        assert outcome.returncode == 0, outcome.stderr

    def test_a_measure_in_the_users_folder_is_found(self, planted, tmp_path):
        """The modules beside it, which have the names of other modules, are not imported."""
        folder, marker = planted
        (folder / "my_measures.py").write_text("def two(snapshot):\n    return 2.0\n")
        arguments = ["analyze", ".", "--measures", "my_measures:two", "--json", "--no-report", "--workers", "2"]
        outcome = run_elsewhere(arguments, folder, tmp_path / "scripts")
        assert not marker.exists(), marker.read_text()
        assert json.loads(outcome.stdout)["final"]["two"] == 2.0


def test_a_pickle_as_resume_point_is_refused(marker, bomb, tmp_path):
    """A pickle in place of the resume point is refused, with a message that says what to do."""
    folder = tmp_path / "run"
    shutil.copytree(DATA / "trainer" / "stopped", folder)
    (folder / "resume.safetensors").write_bytes(bomb)
    with pytest.raises(GrokinterpError, match=r"resume\.safetensors is damaged .*--restart"):
        train(Run.open(folder).config, folder, resume=True, progress=False)
    assert not marker.exists()


class TestSwitches:
    """What a run's files claim about how it was trained does not decide what the next training executes or reads."""

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        return shutil.copytree(DATA / "trainer" / "stopped", tmp_path / "run")

    @staticmethod
    def claim(folder: Path, **claims: str | bool) -> None:
        file = folder / "environment.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | claims))

    @pytest.fixture
    def compiled(self, monkeypatch, tmp_path) -> list[Path]:
        """The cache folder of each call of torch.compile, which returns its function unchanged."""
        calls: list[Path] = []

        def record(function, **options):
            calls.append(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]))
            return function

        for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):  # set first, so that it is restored afterwards
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        monkeypatch.setattr("torch.compile", record)
        return calls

    def test_a_run_does_not_turn_on_compilation(self, folder, compiled, caplog):
        self.claim(folder, compiled=True)
        train(Run.open(folder).config, folder, resume=True, progress=False)
        assert compiled == []
        (message,) = caplog.messages
        assert "in another environment" in message
        assert "compiled: True -> False" in message
        assert Run.open(folder).environment["resumed"][-1]["compiled"] is False

    def test_the_cache_of_compiled_code_is_private(self, folder, compiled):
        train(Run.open(folder).config, folder, resume=True, progress=False, compile=True)
        (cache,) = compiled
        assert (cache.stat().st_mode & 0o777, cache.stat().st_uid) == (0o700, os.geteuid())
        assert Path(os.environ["TRITON_CACHE_DIR"]).parent == cache

    def test_a_cache_that_others_can_write_to_is_refused(self, folder, compiled, monkeypatch, tmp_path):
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared").chmod(0o777)
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "shared"))
        before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        with pytest.raises(ConfigError, match=r"other users can write to .*shared: set TORCHINDUCTOR_CACHE_DIR"):
            train(Run.open(folder).config, folder, resume=True, progress=False, compile=True)
        assert compiled == []
        assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before

    def test_a_run_does_not_name_the_weights_that_it_starts_from(self, folder):
        """A run that stopped before its first resume point starts from its own copy, not from what a file names."""
        self.claim(folder, start_from=f"{DATA / 'trainer' / 'transformer'}@30")
        for name in ("resume.safetensors", "status.json", "metrics.jsonl"):
            (folder / name).unlink()
        shutil.rmtree(folder / "weights")
        before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        with pytest.raises(GrokinterpError, match=r"start\.safetensors is missing"):
            train(Run.open(folder).config, folder, resume=True, progress=False)
        assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
