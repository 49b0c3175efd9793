"""Mutations turn intact files into damaged or hostile ones. The edits are plain data and can be stored."""

import base64
import contextlib
import json
import os
import random
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.contents import BY_SUFFIX, BYTES, cut
from tests.faults.surroundings import NAMES

VICTIMS = "../../victims"  # a folder beside the run, which must not change
PID = "@PID@"  # in a name: the id of the reading process, whose temporary names can be predicted


@dataclass(frozen=True)
class Edit:
    """A change to a folder of files.

    Attributes:
        file: path relative to the folder.
        kind: `write` its content, one of `FILE_SYSTEM`, or `sealed`: the judge recomputes all checksums.
        data: what to write, or the target of a link.
        times: how many times `data` is repeated.
    """

    file: str
    kind: str = "write"
    data: bytes = b""
    times: int = 1

    def plain(self) -> dict[str, Any]:
        """As plain JSON data."""
        packed = base64.b85encode(zlib.compress(self.data, 9)).decode()
        return {"file": self.file, "kind": self.kind, "data": packed, "times": self.times}

    @staticmethod
    def of(plain: dict[str, Any]) -> "Edit":
        """The inverse of `plain`."""
        return Edit(plain["file"], plain["kind"], zlib.decompress(base64.b85decode(plain["data"])), plain["times"])

    def is_foreign(self) -> bool:
        """Whether it adds something that does not belong to a run or sweep, and must stay as it is."""
        return Path(self.file).name in NAMES

    def apply(self, folder: Path) -> None:
        """Makes the change."""
        path = folder / self.file.replace(PID, str(os.getpid()))
        if self.kind in _MODES:
            # An earlier edit may have put a broken symlink or a hard link in this place.
            if path.exists() and not path.is_symlink() and (path.is_dir() or path.stat().st_nlink == 1):
                path.chmod(_MODES[self.kind])
            return
        place = os.path.realpath(path.parent)
        if not place.startswith(os.path.realpath(folder)) or (os.path.lexists(place) and not os.path.isdir(place)):
            return  # an earlier edit has put something else in this place
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            path.rename(path.with_name(f"{path.name}.moved"))
        else:
            path.unlink(missing_ok=True)
        if self.kind == "write":
            with path.open("wb") as file:
                for _ in range(self.times):
                    file.write(self.data)
        elif self.kind == "link":
            path.symlink_to(os.fsdecode(self.data))
        elif self.kind == "hard link":
            with contextlib.suppress(OSError):  # there is no such file
                os.link(path.parent / os.fsdecode(self.data), path)
        elif self.kind == "folder":
            path.mkdir()
        elif self.kind == "pipe":
            os.mkfifo(path)
        elif self.kind == "sparse":
            with path.open("wb") as file:
                file.truncate(100 << 30)
        else:
            assert self.kind == "missing"


_MODES = {"unreadable": 0, "unwritable": 0o555, "unsearchable": 0o644}

FILE_SYSTEM = {
    "folder": ("folder", b""),
    "pipe": ("pipe", b""),
    "missing": ("missing", b""),
    "sparse": ("sparse", b""),
    "unreadable": ("unreadable", b""),
    "unwritable": ("unwritable", b""),
    "unsearchable": ("unsearchable", b""),
    "link to a victim": ("link", f"{VICTIMS}/".encode()),
    "hard link to a victim": ("hard link", f"{VICTIMS}/".encode()),
    "link to zeros": ("link", b"/dev/zero"),
    "link to nowhere": ("link", b"/nonexistent/nowhere"),
    "link to itself": ("link", b"."),
}

SEALED = (Edit("", "sealed"),)


def mutate(rng: random.Random, folder: Path, files: list[str]) -> tuple[str, list[Edit]]:
    """Draws a mutation of a folder; returns its name and edits.

    Args:
        rng: the only source of randomness.
        folder: the intact folder.
        files: the files in it that the reader reads.
    """
    file = rng.choice(files)
    draw = rng.random()
    if draw < 0.18:
        return _file_system(rng, file)
    if rng.random() < 0.12:
        return rng.choice((_foreign, _one_bit, _journal))(rng, folder, file)
    data = (folder / file).read_bytes()
    if draw < 0.2:
        return "huge", [Edit(file, data=data or b"x", times=(50 << 20) // max(1, len(data)))]
    own = BY_SUFFIX.get(Path(file).suffix, {})
    name = rng.choice(sorted(own if own and draw < 0.8 else BYTES))
    try:
        found = (own if name in own else BYTES)[name](rng, data)
    except (ValueError, KeyError, IndexError):  # the mutation does not apply to this fixture
        name, found = "cut", cut(rng, data)
    assert isinstance(found, bytes)
    return name, [Edit(file, data=found), *(SEALED if rng.random() < 0.9 else ())]


def _foreign(rng: random.Random, folder: Path, file: str) -> tuple[str, list[Edit]]:
    """Something that does not belong to the run, under a name that may be odd."""
    parts = Path(file).parts
    where = Path(*parts[: rng.randrange(len(parts))]) / rng.choice(NAMES)
    kind, data = rng.choice(
        [("write", b"notes"), ("folder", b""), ("pipe", b""), ("link", b"/nonexistent/nowhere"), ("hard link", b"")]
    )
    if kind == "hard link":
        data = os.fsencode(_up(where.as_posix()) + f"{VICTIMS}/secret.txt")
    return "foreign", [Edit(where.as_posix(), kind, data)]


def _one_bit(rng: random.Random, folder: Path, file: str) -> tuple[str, list[Edit]]:
    """One bit of any file, even one that the reader does not read."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    chosen = rng.choice(files)
    data = bytearray(chosen.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    edit = Edit(chosen.relative_to(folder).as_posix(), data=bytes(data))
    return "one bit", [edit, *(SEALED if rng.random() < 0.3 else ())]


def _journal(rng: random.Random, folder: Path, file: str) -> tuple[str, list[Edit]]:
    """Results of an unfinished analysis, for steps that the run does not have."""
    steps, length = rng.choice(
        [(range(3), 1000), (range(10**12, 10**12 + 100), 1000), (range(10_000), 3), ([2**63, -1, 10**30], 3)]
    )
    value = {"scalars": {}, "arrays": {"is_key": [0.0] * length}, "reasons": {}}
    lines = [
        json.dumps({"step": step, "checksum": "0" * 64, "cells": [["key_frequencies", "0" * 64, value]]}).encode()
        for step in steps
    ]
    return "journal", [Edit("analysis/unfinished.jsonl", data=b"\n".join(lines) + b"\n")]


def _file_system(rng: random.Random, file: str) -> tuple[str, list[Edit]]:
    where = Path(file)
    draw = rng.random()
    if draw < 0.2:  # a temporary name that can be predicted
        name = (where.parent / f".{where.name}.{PID}.tmp").as_posix()
        return "planted temporary name", [Edit(name, "link", os.fsencode(_up(name) + VICTIMS + f"/{where.name}"))]
    if draw < 0.3:
        return "planted lock", [Edit(".lock", "link", os.fsencode(f"{VICTIMS}/secret.txt"))]
    kinds = sorted(FILE_SYSTEM)
    if draw < 0.6 and len(where.parts) > 1:  # its folder
        file = where.parent.as_posix()
        kinds += ["link to a victim"] * 8
    kind = rng.choice(kinds)
    what, data = FILE_SYSTEM[kind]
    if what in _MODES and rng.random() < 0.3:  # the run itself
        file = "."
    if kind.endswith("link to a victim"):
        data = os.fsencode(_up(file) + f"{VICTIMS}/{Path(file).name}")
    if kind == "link to itself":
        data = os.fsencode(Path(file).name)
    return kind, [Edit(file, what, data)]


def _up(file: str) -> str:
    return "../" * (len(Path(file).parts) - 1)
