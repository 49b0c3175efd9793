"""The layout of the package, read from its source: who imports whom, and what is nowhere to be found."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "grokinterp"
FILES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(path.relative_to(PACKAGE)) for path in FILES]
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
NUMERICS = {"torch", "numpy", "einops", "jaxtyping"}

MAY_IMPORT = {
    "errors": set(),
    "schedules": {"errors"},
    "config": {"errors", "schedules", "config"},
    "fourier": {"errors"},
    "tasks": {"errors", "config", "fourier", "tasks"},
    "theory": {"errors", "theory"},
    "measures": {"errors", "fourier", "tasks", "measures"},
    "statistics": {"errors", "statistics"},
}
FROM_THE_GROUND_UP = [
    *(
        "errors",
        "memory",
        "schedules",
        "config",
        "presets",
        "fourier",
        "tasks",
        "theory",
        "measures",
        "models",
        "findings",
        "files",
        "tensors",
        "metrics",
        "locks",
        "processes",
        "run",
        "writer",
    ),
    *(
        "training",
        "recorder",
        "phases",
        "transition",
        "cautions",
        "analysis",
        "jobs",
        "cells",
        "journal",
        "workers",
        "cache",
        "evaluator",
        "timeline",
        "sweep",
        "verification",
        "statistics",
        "figures",
        "report",
        "experiments",
        "console",
        "cli",
    ),
]


def room_of(path: Path) -> str:
    """`tasks` for tasks.py, `measures` for every file in measures/."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each imported module with the names taken from it, imports inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ["grokinterp", *path.relative_to(PACKAGE).parts[:-1]]
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])]), tuple(a.name for a in node.names)


def third_parties(path: Path) -> set[str]:
    tops = {module.split(".")[0] for module, _ in imports(path)}
    return tops - set(sys.stdlib_module_names) - {"grokinterp"}


def own_rooms(path: Path) -> set[str]:
    rooms = set()
    for module, names in imports(path):
        parts = module.split(".")
        if parts == ["grokinterp"]:
            rooms |= set(names) or {"__init__"}
        elif parts[0] == "grokinterp":
            rooms.add(parts[1])
    return rooms


def calls(path: Path) -> Iterator[ast.Call]:
    yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def test_the_package_is_found():
    assert {"__init__.py", "config/run.py", "measures/base.py", "models/transformer.py"} <= set(IDS)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_the_lower_rooms_know_nobody_above_them(room):
    paths = [path for path in FILES if room_of(path) == room]
    assert paths
    for path in paths:
        assert own_rooms(path) <= MAY_IMPORT[room], path


def test_imports_run_one_way():
    for path in FILES:
        if path.name == "__init__.py" and path.parent == PACKAGE:
            continue
        room = room_of(path)
        below = set(FROM_THE_GROUND_UP[: FROM_THE_GROUND_UP.index(room) + 1])
        assert own_rooms(path) - {"__init__", "__version__"} <= below, path


def test_configurations_and_errors_do_without_torch():
    paths = [path for path in FILES if room_of(path) in ("config", "errors")]
    assert {room_of(path) for path in paths} == {"config", "errors"}
    for path in paths:
        assert third_parties(path) <= {"pydantic"}, path


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) == "measures"], ids=lambda p: p.name)
def test_a_measure_costs_what_torch_costs(path):
    assert third_parties(path) <= {"torch", "einops", "jaxtyping"}


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) in ("fourier", "tasks")], ids=lambda p: p.name)
def test_tasks_and_fourier_need_numerics_only(path):
    assert third_parties(path) <= NUMERICS


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("transformer_lens", {"models/transformer.py", "models/mlp.py"}),
        ("plotly", {"figures", "report"}),
        ("tyro", {"cli"}),
        ("wandb", set()),
        ("trackio", set()),
        ("requests", set()),
        ("urllib", set()),
        ("http", set()),
    ],
)
def test_a_library_is_imported_at_home_only(library, homes):
    for path in FILES:
        if any(module.split(".")[0] == library for module, _ in imports(path)):
            assert homes & {room_of(path), path.relative_to(PACKAGE).as_posix()}, path


def test_only_the_transformer_file_takes_hooked_transformer():
    for path in FILES:
        taken = {
            name for module, names in imports(path) if module.split(".")[0] == "transformer_lens" for name in names
        }
        if path.relative_to(PACKAGE).as_posix() == "models/mlp.py":
            assert taken == {"HookedRootModule", "HookPoint"}
        else:
            assert not taken or path.relative_to(PACKAGE).as_posix() == "models/transformer.py"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_library_code_does_not_print(path):
    if room_of(path) == "cli":
        return
    assert not [call.lineno for call in calls(path) if isinstance(call.func, ast.Name) and call.func.id == "print"]


# Modules that unpickle, or run what they read.
EXECUTING_MODULES = (
    *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "copyreg", "jsonpickle"),
    *("yaml", "h5py", "tables", "runpy", "code", "codeop", "imp", "multiprocessing"),
)
EXECUTING_BUILTINS = {"eval", "exec", "compile", "__import__"}
EXECUTING_METHODS = {
    *("read_pickle", "to_pickle", "read_hdf", "to_hdf", "unsafe_load", "full_load", "load_state_dict_from_url"),
    *("spec_from_file_location", "SourceFileLoader", "exec_module", "load_module", "find_class", "allow_pickle"),
}
EXECUTING_READERS = {f"{module}.{name}" for module in ("torch", "np", "numpy", "yaml") for name in ("load", "save")}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_nothing_is_unpickled_or_executed(path):
    """Strangers' .pt files may be read in formats.py, and there as weights only."""
    tops = {module.split(".")[0] for module, _ in imports(path)}
    assert not tops & set(EXECUTING_MODULES)
    for call in calls(path):
        said, given = ast.unparse(call.func), {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert said not in EXECUTING_BUILTINS, ast.unparse(call)
        assert said.rsplit(".", 1)[-1] not in EXECUTING_METHODS, ast.unparse(call)
        assert "allow_pickle" not in given, ast.unparse(call)
        if said in EXECUTING_READERS:
            found = (said, room_of(path), given.get("weights_only"))
            assert found == ("torch.load", "formats", "True"), ast.unparse(call)


@pytest.mark.parametrize(
    "hostile",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load(file)",
        "import numpy as np\nnp.load(file, allow_pickle=True)",
        "import pandas as pd\npd.read_pickle(file)",
        "eval(text)",
        "__import__(name)",
        "import importlib.util\nimportlib.util.spec_from_file_location(name, file)",
        "import torch\ntorch.load(file, weights_only=True)",
    ],
)
def test_that_test_sees(hostile, tmp_path, monkeypatch):
    (tmp_path / "run.py").write_text(hostile)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    with pytest.raises(AssertionError):
        test_nothing_is_unpickled_or_executed(tmp_path / "run.py")


def test_modules_are_imported_by_name_in_few_places():
    """By names in this source, or that a user gave on the command line; never by names from a file that is read."""
    homes = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        for call in calls(path)
        if ast.unparse(call.func).endswith("import_module")
    }
    assert homes == {
        "__init__.py",
        "cli/__init__.py",
        "experiments/recipes/__init__.py",
        "measures/base.py",
        "training/callbacks.py",
    }


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_files_are_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_annotations_are_evaluated(path):
    """With `from __future__ import annotations` the shape checks of the tests would see nothing."""
    assert all(module != "__future__" for module, _ in imports(path))


def test_no_room_is_called_utils():
    assert not {"utils", "helpers", "common"} & {part.removesuffix(".py") for name in IDS for part in name.split("/")}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("grokinterp.statistics", ["torch", "transformer_lens", "plotly", "tyro", "scipy.stats", "scipy.optimize"]),
        ("grokinterp", ["torch", "transformer_lens", "pandas", "plotly", "tyro", "numpy", "pydantic"]),
        ("grokinterp.config", ["torch", "transformer_lens", "pandas", "plotly", "tyro"]),
        ("grokinterp.measures", ["transformer_lens", "pandas", "plotly", "tyro", "pyarrow"]),
        ("grokinterp.tasks", ["transformer_lens", "pandas", "plotly", "tyro", "pyarrow"]),
        ("grokinterp.theory", ["transformer_lens", "plotly", "tyro"]),
        ("grokinterp.models", ["transformer_lens", "pandas", "plotly", "tyro", "pyarrow"]),
    ],
)
def test_importing_a_room_does_not_import_what_it_does_not_need(module, unwanted):
    script = f"import json, sys, {module}; print(json.dumps([m for m in {unwanted!r} if m in sys.modules]))"
    outcome = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert json.loads(outcome.stdout) == []
