"""The layout of the package, read from its source: who imports whom, and what is nowhere to be found."""

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest

PACKAGE = Path(__file__).parent.parent / "grokinterp"
FILES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(path.relative_to(PACKAGE)) for path in FILES]
TESTS = sorted(Path(__file__).parent.rglob("*.py"))
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
NUMERICS = {"torch", "numpy", "einops", "jaxtyping"}

# From the ground up. `__init__` resolves the public names and stands above all.
ORDER = (
    *("errors", "display", "statistics", "theory", "config", "tasks", "measures", "models", "runs", "training"),
    *("analysis", "sweep", "figures", "report", "formats", "experiments", "cli"),
)
# Beyond the order: toolboxes import errors only; training and analysis meet in the run folder.
STRANGERS = {
    "statistics": set(ORDER) - {"errors"},
    "theory": set(ORDER) - {"errors"},
    "measures": {"config"},
    "analysis": {"training"},
}


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


def test_imports_run_one_way():
    assert {room_of(path) for path in FILES} == {*ORDER, "__init__"}
    for path in FILES:
        room = room_of(path)
        if room == "__init__":
            continue
        below = set(ORDER[: ORDER.index(room)]) - STRANGERS.get(room, set())
        assert own_rooms(path) - {room, "__init__", "__version__"} <= below, path


def test_rooms_need_few_libraries():
    """A measure costs what torch costs, and a configuration not even that."""
    allowed = {"config": {"pydantic", "numpy"}, "errors": set(), "tasks": NUMERICS, "measures": NUMERICS - {"numpy"}}
    for room, libraries in allowed.items():
        paths = [path for path in FILES if room_of(path) == room]
        assert paths
        for path in paths:
            most = NUMERICS if path.name == "fourier.py" else libraries
            assert third_parties(path) <= most, path


def test_a_library_is_imported_at_home_only():
    homes = {
        "transformer_lens": {"models/transformer.py", "models/modules.py"},
        "plotly": {"figures", "report"},
        "tyro": {"cli"},
        "psutil": {"models/memory.py", "runs/environment.py"},
    }
    nowhere = {"wandb", "trackio", "requests", "urllib", "http"}
    for path in FILES:
        for library in third_parties(path) | {module.split(".")[0] for module, _ in imports(path)}:
            assert library not in nowhere, path
            if library in homes:
                assert homes[library] & {room_of(path), path.relative_to(PACKAGE).as_posix()}, path


def test_only_the_transformer_file_takes_hooked_transformer():
    for path in FILES:
        taken = {
            name for module, names in imports(path) if module.split(".")[0] == "transformer_lens" for name in names
        }
        if path.relative_to(PACKAGE).as_posix() == "models/modules.py":
            assert taken == {"ActivationCache", "HookedRootModule", "HookPoint"}
        else:
            assert not taken or path.relative_to(PACKAGE).as_posix() == "models/transformer.py"


def test_library_code_does_not_print():
    for path in FILES:
        if room_of(path) != "cli":
            lines = [call.lineno for call in calls(path) if isinstance(call.func, ast.Name) and call.func.id == "print"]
            assert not lines, path


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


def require_inert(path: Path) -> None:
    """Other people's .pt files may be read in formats/, and there as weights only; others get theirs from there."""
    tops = {module.split(".")[0] for module, _ in imports(path)}
    assert not tops & set(EXECUTING_MODULES), path
    for call in calls(path):
        function = ast.unparse(call.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert function not in EXECUTING_BUILTINS, ast.unparse(call)
        assert function.rsplit(".", 1)[-1] not in EXECUTING_METHODS, ast.unparse(call)
        assert "allow_pickle" not in keywords, ast.unparse(call)
        if function in EXECUTING_READERS:
            reader = (function, room_of(path), keywords.get("weights_only"))
            allowed = [("torch.load", "formats", "True"), ("torch.save", "formats", None)]
            assert reader in allowed, ast.unparse(call)


def test_nothing_is_unpickled_or_executed():
    for path in FILES:
        require_inert(path)


def test_that_test_sees(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    hostile = [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load(file)",
        "import numpy as np\nnp.load(file, allow_pickle=True)",
        "import pandas as pd\npd.read_pickle(file)",
        "eval(text)",
        "__import__(name)",
        "import importlib.util\nimportlib.util.spec_from_file_location(name, file)",
        "import torch\ntorch.load(file, weights_only=True)",
    ]
    for code in hostile:
        (tmp_path / "run.py").write_text(code)
        with pytest.raises(AssertionError):
            require_inert(tmp_path / "run.py")


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
        "training/tracker.py",
    }


def test_files_are_at_most_400_lines():
    """600 in tests."""
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 400, path
    for path in TESTS:
        assert len(path.read_text().splitlines()) <= 600, path


def test_annotations_are_evaluated():
    """With `from __future__ import annotations` the shape checks of the tests would see nothing."""
    for path in FILES:
        assert all(module != "__future__" for module, _ in imports(path)), path


def test_no_room_is_called_utils():
    assert not {"utils", "helpers", "common"} & {part.removesuffix(".py") for name in IDS for part in name.split("/")}


def test_importing_a_room_does_not_import_what_it_does_not_need():
    heavy = ["transformer_lens", "pandas", "plotly", "tyro", "pyarrow"]
    unwanted = {
        "grokinterp": ["torch", "transformer_lens", "pandas", "plotly", "tyro", "numpy", "pydantic"],
        "grokinterp.statistics": ["torch", "transformer_lens", "plotly", "tyro", "scipy.stats", "scipy.optimize"],
        "grokinterp.config, grokinterp.runs.files": ["torch", "transformer_lens", "pandas", "plotly", "tyro"],
        "grokinterp.measures, grokinterp.models, grokinterp.tasks": heavy,
        "grokinterp.theory": ["transformer_lens", "plotly", "tyro"],
    }
    for module, libraries in unwanted.items():
        script = f"import json, sys, {module}; print(json.dumps([m for m in {libraries!r} if m in sys.modules]))"
        outcome = processes.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        assert json.loads(outcome.stdout) == [], module


def test_public_names_are_not_hidden_by_modules():
    """Importing a submodule binds its name in the package: every public name is still what it was."""
    script = """
import importlib, pkgutil
import grokinterp as gi
public = {name: getattr(gi, name) for name in gi.__all__}
for module in pkgutil.walk_packages(gi.__path__, "grokinterp."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print([name for name, value in public.items() if getattr(gi, name) is not value])
"""
    outcome = processes.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert outcome.stdout.strip() == "[]"
