"""Builds the package and runs the README's quick start with only the wheel, in an empty folder: `make package`.

The sdist must build the same wheel as the repository. The commands and the Python code are those of the section "Quick
start" of README.md, except that `pip install .` installs the wheel, and that `make` is left out, which needs a clone.
"""

import argparse
import hashlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def quick_start(text: str) -> list[tuple[str, str]]:
    """The parts of the quick start that need no clone, in their order: ("shell", line) or ("python", code)."""
    section = re.search(r"^## Quick start\n(.*?)^## ", text, flags=re.MULTILINE | re.DOTALL)
    if section is None:
        raise SystemExit("README.md has no section `Quick start`")
    parts: list[tuple[str, str]] = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", section[1], flags=re.MULTILINE | re.DOTALL):
        if language == "python":
            parts.append(("python", block))
        else:
            lines = [shlex.join(shlex.split(line, comments=True)) for line in block.splitlines()]
            parts += [("shell", line) for line in lines if line and not line.startswith("make ")]
    return parts


def call(*words: str | Path, **options) -> None:
    print("+", *words, flush=True)
    subprocess.run([str(word) for word in words], check=True, **options)


def contents(wheel: Path) -> dict[str, str]:
    """The checksum of each file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def build(python: Path, folder: Path) -> Path:
    """Builds the sdist and the wheel from it, and compares that with the wheel from the repository."""
    call(python, "-m", "build", "--outdir", folder, ROOT)
    call(python, "-m", "build", "--wheel", "--outdir", folder / "direct", ROOT)
    (wheel,), (direct,) = folder.glob("*.whl"), (folder / "direct").glob("*.whl")
    from_sdist, from_tree = contents(wheel), contents(direct)
    if from_sdist != from_tree:
        different = sorted(set(from_sdist.items()) ^ set(from_tree.items()))
        raise SystemExit(f"the wheels from the sdist and from the repository differ: {different[:5]}")
    for name in ("grokinterp/py.typed", "grokinterp/runs/sample_run42/config.json"):
        if name not in from_sdist:
            raise SystemExit(f"the wheel has no {name}")
    print(f"{wheel.name}: {len(from_sdist)} files, {wheel.stat().st_size / 1e6:.1f} MB, the same from the sdist")
    return wheel


def make_environment(folder: Path) -> Path:
    call(sys.executable, "-m", "venv", folder)
    return folder / "bin" / "python"


def run_quick_start(python: Path, wheel: Path, constraints: list[str], folder: Path) -> None:
    """Runs the quick start in an empty folder, without the repository on any path."""
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    options = {"cwd": folder, "env": environment}
    for kind, text in quick_start((ROOT / "README.md").read_text()):
        if kind == "python":
            print(f"+ python <<\n{text}", flush=True)
            call(python, "-c", text, **options)
            continue
        words = shlex.split(text)
        if words[:2] == ["pip", "install"]:
            words = [re.sub(r"^\.(?=$|\[)", str(wheel), word) for word in words]
            call(python, "-m", "pip", "install", "--quiet", *constraints, *words[2:], **options)
        else:
            call(*words, **options)
    check = "import grokinterp, pathlib; print(pathlib.Path(grokinterp.__file__).parent)"
    found = subprocess.run([python, "-c", check], check=True, capture_output=True, text=True, **options).stdout.strip()
    if ROOT in Path(found).parents and python.parent.parent not in Path(found).parents:
        raise SystemExit(f"the quick start used {found}, not the wheel")
    print(f"the quick start ran with {found}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--constraints", help="file with the versions to install (default: the newest)")
    parser.add_argument("--keep", type=Path, help="folder for the sdist and the wheel (default: a temporary one)")
    arguments = parser.parse_args()
    constraints = ["-c", str(Path(arguments.constraints).resolve())] if arguments.constraints else []
    with tempfile.TemporaryDirectory(prefix="grokinterp-package-") as scratch:
        tools = make_environment(Path(scratch) / "tools")
        call(tools, "-m", "pip", "install", "--quiet", "build")
        distributions = arguments.keep or Path(scratch) / "dist"
        wheel = build(tools, distributions).resolve()
        python = make_environment(Path(scratch) / "fresh")
        run_quick_start(python, wheel, constraints, Path(scratch) / "empty")


if __name__ == "__main__":
    main()
