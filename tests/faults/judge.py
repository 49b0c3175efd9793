"""Judge: reads an input in its own process, under limits, and reports the outcome."""

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import grokinterp
from grokinterp.errors import GrokinterpError
from grokinterp.experiments import catalog
from grokinterp.measures import registered
from tests.faults.surroundings import STREAMS, respect_permissions, seal, state_of
from tests.faults.targets import DATA, TARGETS, Refused
from tests.processes import die_with_parent

if TYPE_CHECKING:
    from tests.faults.fuzz import Case

SECONDS = 10.0
MEMORY = 1 << 30
_LONGEST_MESSAGE = 2000
_SECRET = "what is outside stays as it is"
_CHECKOUT = str(Path(grokinterp.__file__).parents[1])


@dataclass(frozen=True)
class Verdict:
    """The outcome for an input.

    Attributes:
        outcome: `read`, `refused`, or what went wrong in a few words.
        details: the error's message, or a traceback.
    """

    outcome: str
    details: str = ""

    @property
    def failed(self) -> bool:
        return self.outcome not in ("read", "refused")


class Judge:
    """Tries each input in its own folder below `root`."""

    def __init__(self, root: Path):
        torch.set_num_threads(1)
        self.root = root
        self.most_memory = 0
        self.longest = 0.0
        self.number = 0
        self.before: dict[str, Any] = {}
        _warm_up()

    def try_case(self, case: "Case") -> Verdict:
        """Tries an input."""
        self.number += 1
        place = self.root / str(self.number)
        shutil.copytree(DATA / case.fixture, place / "runs" / case.folder, symlinks=True)
        for name in ("out", "tmp", "cwd"):
            (place / name).mkdir()
        victims = self.root / "victims"
        if not victims.exists():
            _make_victims(victims)
            self.before = _state(victims)
        victims.rename(place / "victims")
        found = self._in_a_child(case, place)
        untouched = _state(place / "victims") == self.before
        if untouched:
            (place / "victims").rename(victims)
        else:
            found = Verdict("changed what is outside", found.details)
        extra = {entry.name for entry in place.iterdir()} - {"runs", "out", "tmp", "cwd", "victims"}
        if extra:
            found = Verdict("wrote outside", f"{sorted(extra)}\n{found.details}")
        shutil.rmtree(place, ignore_errors=True)
        return found

    def _in_a_child(self, case: "Case", place: Path) -> Verdict:
        reading, writing = os.pipe()
        sys.stdout.flush()
        began = time.monotonic()
        parent, child = os.getpid(), os.fork()
        if not child:
            die_with_parent(parent)
            os.close(reading)
            os.setsid()
            _try(case, place, writing)
        os.close(writing)
        said, late = b"", False
        while True:
            ready, _, _ = select.select([reading], [], [], max(0.0, began + SECONDS - time.monotonic()))
            if not ready:
                late = True
                os.kill(child, signal.SIGABRT)  # faulthandler prints where it was
                time.sleep(0.3)
                break
            more = os.read(reading, 1 << 16)
            if not more:
                break
            said += more
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        os.close(reading)
        self.longest = max(self.longest, time.monotonic() - began)
        output = (place / "output").read_text(errors="replace") if (place / "output").exists() else ""
        (place / "output").unlink(missing_ok=True)
        if late:
            return Verdict(f"no end after {SECONDS:.0f} s", output[-3000:])
        if not said:
            return Verdict(f"the process died (status {status})", output[-3000:])
        found = json.loads(said)
        grown = usage.ru_maxrss * 1024 - found["memory before"]
        self.most_memory = max(self.most_memory, grown)
        return _judged(found, output, grown, heard=case.stream != "closed errors")


def _judged(found: dict[str, Any], output: str, grown: int, heard: bool) -> Verdict:
    details = f"{found['error']}\n{output[-3000:]}".strip()
    if found["violations"]:
        return Verdict(found["violations"][0], "\n".join(found["violations"]) + "\n" + details)
    if grown > MEMORY:
        return Verdict(f"{grown / 2**20:.0f} MB more memory", details)
    if found["kind"] == "other":
        return Verdict(f"raised {found['name']}", details)
    if "Traceback" in output:
        return Verdict("showed a traceback", details)
    if "out of memory" in details.lower():
        return Verdict("ran out of memory", details)
    bad = [c for c in output if not (c.isprintable() or c in "\n\r\t")]
    if bad:
        return Verdict("wrote control characters to the terminal", repr(bad[:5]) + details)
    lines = [line for line in output.splitlines() if line.startswith("grokinterp: ")]
    messages = [found["message"]] if found["kind"] == "refused" and found["name"] != "Refused" else lines
    if found["name"] == "Refused" and len(lines) != 1 and heard:
        return Verdict("refused without one line", details)
    for message in messages:
        if not message or "\n" in message or len(message) > _LONGEST_MESSAGE or not message.isprintable():
            return Verdict("refused with a message that is not one plain line", repr(message[:3000]))
    return Verdict(found["kind"], found["message"] or "\n".join(lines))


def _try(case: "Case", place: Path, writing: int) -> None:
    """In the child: damages the folder, reads it, reports, and exits."""
    import faulthandler

    output = os.open(place / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    faulthandler.enable(sys.__stderr__, all_threads=False)
    found: dict[str, Any] = {"kind": "read", "name": "", "message": "", "error": "", "violations": []}
    try:
        os.chdir(place / "cwd")
        os.environ |= {"TMPDIR": str(place / "tmp"), "TORCHINDUCTOR_CACHE_DIR": str(place / "tmp")}
        folder = place / "runs" / case.folder
        for edit in case.edits:
            if edit.kind == "sealed":
                seal(folder, DATA / case.fixture)
            else:
                edit.apply(folder)
        if case.stream:
            STREAMS[case.stream]()
        respect_permissions()
        foreign = {file: state_of(folder / file) for file in {edit.file for edit in case.edits if edit.is_foreign()}}
        size, resident = (
            int(number) * resource.getpagesize() for number in Path("/proc/self/statm").read_text().split()[:2]
        )
        found["memory before"] = resident
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY, resource.RLIM_INFINITY))
        modules = set(sys.modules)
        with watched(place, found["violations"]):
            try:
                TARGETS[case.target].read(folder)
            except GrokinterpError as error:
                found |= {"kind": "refused", "name": type(error).__name__, "message": str(error)}
                found["error"] = traceback.format_exc()[-3000:] if type(error) is not Refused else ""
            except BaseException as error:
                found |= {"kind": "other", "name": type(error).__name__, "error": traceback.format_exc()[-4000:]}
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        found["violations"] += [
            f"changed what is not of the run: {file!a}" for file in foreign if state_of(folder / file) != foreign[file]
        ]
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(place)):
                found["violations"].append(f"imported {name} from the folder")
        if not case.stream:
            sys.stdout.flush()
            sys.stderr.flush()
    except BaseException:
        found |= {"kind": "other", "name": "the harness", "error": traceback.format_exc(), "memory before": 0}
    data = json.dumps(found).encode()
    while data:
        data = data[os.write(writing, data) :]
    os._exit(0)


_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events whose arguments include the paths they change, with the indices of those arguments.
_CHANGES = {
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.truncate", "os.utime"), (0,)),
    **{"os.rename": (0, 1), "os.link": (0, 1), "os.symlink": (1,), "os.mkfifo": (0,), "os.setxattr": (0,)},
    **{"shutil.rmtree": (0,), "shutil.move": (0, 1), "shutil.copyfile": (1,), "shutil.copytree": (1,)},
}
_EXECUTIONS = {
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
    *("pickle.find_class", "ctypes.dlopen"),
    *("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"),
}
_HARMLESS_COMMANDS = (["git", "-C", _CHECKOUT, "rev-parse", "HEAD"], ["uname", "-p"])


@contextlib.contextmanager
def watched(place: Path, violations: list[str]) -> Iterator[None]:
    """Records what this process does to files outside a folder, and what it executes, unpickles or sends."""
    allowed = tuple(os.path.realpath(place / name) + os.sep for name in ("runs", "out", "tmp"))
    inside = os.path.realpath(place) + os.sep
    watching = True

    def real(path: Any, follow: bool, folder: int = -1) -> str:
        """The path that is meant, relative to a folder's file descriptor if there is one."""
        text = os.path.join(os.getcwd() if folder < 0 else os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(path))
        return (
            os.path.realpath(text)
            if follow
            else os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text))
        )

    def note(text: str) -> None:
        if len(violations) < 20:
            violations.append(text)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal watching
        if not watching:
            return
        watching = False
        try:
            if event == "open" and not isinstance(arguments[0], int) and arguments[0] is not None:
                flags = arguments[2] or 0
                path = real(arguments[0], not flags & (os.O_NOFOLLOW | os.O_EXCL))
                if flags & _WRITES and not (path + os.sep).startswith(allowed) and path != os.devnull:
                    note(f"wrote outside: {path}")
            elif event in _CHANGES:
                for index in _CHANGES[event]:
                    if not isinstance(arguments[index], int):
                        folder = arguments[1] if event in ("os.remove", "os.rmdir") else -1
                        path = real(arguments[index], event in ("os.chmod", "os.truncate"), folder)
                        if not (path + os.sep).startswith(allowed):
                            note(f"{event} outside: {path}")
            elif event == "subprocess.Popen" and list(arguments[1]) not in _HARMLESS_COMMANDS:
                note(f"executed {arguments[1]}")
            elif event in _EXECUTIONS and not _within_python():
                note(f"{event} {str(arguments)[:200]}")
            elif event in ("exec", "compile", "import"):
                where = str(getattr(arguments[0], "co_filename", arguments[1] if len(arguments) > 1 else ""))
                if where.startswith(inside):
                    note(f"{event} of {where}")
            elif event == "marshal.loads" and not _within_python():
                note("marshal.loads")
        except BaseException as error:
            note(f"the hook failed: {event} {arguments!r} {error!r}")
        finally:
            watching = True

    sys.addaudithook(hook)
    try:
        yield
    finally:
        watching = False


def _within_python() -> bool:
    """Whether Python is importing a module, loading a C library or creating a class, which raise these events."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib") or name.endswith(("/dataclasses.py", "/ctypes/__init__.py")):
            return True
        frame = frame.f_back
    return False


def _make_victims(folder: Path) -> None:
    """Creates files, under every name that a run has, to which a symlink out of the run may lead."""
    shutil.copytree(DATA / "trainer" / "transformer", folder)
    shutil.copy(DATA / "recipes" / "sweep" / "sweep.json", folder)
    shutil.copytree(DATA / "recipes" / "analyzed" / "analysis", folder / "analysis")
    shutil.copytree(DATA / "trainer" / "recorded" / "logits", folder / "logits")
    shutil.copytree(DATA / "recipes" / "sweep" / "failures", folder / "failures")
    for name in ("results.json", "sweep.parquet", "report.html", "secret.txt", "split.safetensors", "points.json"):
        (folder / name).write_text(_SECRET)
    for part in ("weights", "analysis", "logits"):
        for file in (folder / part).iterdir():
            shutil.copy(file, folder / file.name)


def _state(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


def _warm_up() -> None:
    """Imports what readers import lazily, so that the children need not."""
    for name in ("analyze", "console", "list", "options", "report", "reproduce", "sweep", "train"):
        import_module(f"grokinterp.cli.{name}")
    for name in ("analysis.workers", "figures", "models.transformer", "report"):
        import_module(f"grokinterp.{name}")
    for name in ("pyarrow.parquet", "scipy.stats", "scipy.optimize", "torch._dynamo"):
        import_module(name)
    registered()
    catalog()
