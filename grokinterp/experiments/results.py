"""Reading results.json, the file in which a reproduction stores its results."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from grokinterp.errors import RunError
from grokinterp.experiments.outcome import Claim, Comparison
from grokinterp.runs.files import exists, parse_json, read_text

RESULTS = "results.json"
RESULTS_VERSION = 2
_READABLE = (1, RESULTS_VERSION)

# Fields that results without a format version may lack, and those that version 2 added.
_DEFAULTS = {"title": "", "seconds": None, "machine": None, "comparisons": [], "warnings": [], "lost": 0}
_ADDED: dict[str, Any] = {"missing": 0, "bf16": False, "partial": False}


def _require_every_field(claim: Any) -> Any:
    """Refuses a claim without one of its fields, even one that has a default in `Claim`."""
    for field in fields(Claim):
        if isinstance(claim, dict) and field.name not in claim:
            raise PydanticCustomError("missing", "Field required: {name}", {"name": field.name})
    return claim


@dataclass(frozen=True)
class Machine:
    """The machine that produced the results; cores are None for runs that were recorded on several machines."""

    processor: str
    cores: int | None
    gpu: str | None
    torch: str


@dataclass(frozen=True)
class Results:
    """The fields of results.json that are read again; see `Reproduction`. `bf16`: some runs had bf16 products."""

    recipe: str
    title: str
    source: str
    quick: bool
    seconds: float | None
    machine: Machine | None
    settings: Mapping[str, Any]
    claims: tuple[Annotated[Claim, BeforeValidator(_require_every_field)], ...]
    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...]
    lost: int
    missing: int
    bf16: bool
    partial: bool


def results_in(folder: Path) -> Results | None:
    """Reads results.json in a folder; None if there is no such file.

    Raises:
        RunError: the file is damaged, or has another format version.
    """
    file = folder / RESULTS
    if not exists(file):
        return None
    text = read_text(file)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise _damaged(file, str(error)) from None
    if not isinstance(content, dict):
        raise _damaged(file, "it holds no JSON object")
    version = content.get("format_version")
    if version is not None and version not in _READABLE:
        raise RunError(
            f"{file} has format version {version!r}, and this grokinterp reads version {RESULTS_VERSION}: install the "
            "release that wrote it"
        )
    if version != RESULTS_VERSION and isinstance(content.get("claims"), list):
        added = {"fewest": None} if version == 1 else {"number": None, "fewest": None}
        claims = [{**added, **claim} if isinstance(claim, dict) else claim for claim in content["claims"]]
        content = {**({} if version == 1 else _DEFAULTS), **_ADDED, **content, "claims": claims}
    try:
        return _adapter().validate_json(json.dumps(content), strict=True)
    except RecursionError:
        raise _damaged(file, "it is nested too deeply") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(file, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@cache
def _adapter() -> Any:
    return TypeAdapter(Results)


def _damaged(file: Path, reason: str) -> RunError:
    return RunError(f"{file} is damaged ({reason}): remove it and run the reproduction again")
