"""results.json: what a reproduction found, as it is read again."""

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from grokinterp.errors import RunError
from grokinterp.experiments.outcome import Verdict
from grokinterp.runs.files import exists, parse_json, read_text

RESULTS = "results.json"
RESULTS_VERSION = 1


class _Claim(TypedDict):
    name: str
    statement: str
    published: str
    measured: str
    n: int
    threshold: str
    verdict: Verdict
    should_hold: bool
    number: int | None


class _Comparison(TypedDict):
    quantity: str
    printed: str
    measured: str
    n: int


class _Machine(TypedDict):
    processor: str
    cores: int
    gpu: str | None
    torch: str


class Results(TypedDict):
    """The fields of results.json that are read again; see `Reproduction`."""

    __pydantic_config__ = ConfigDict(strict=True)  # pyright: ignore[reportGeneralTypeIssues]

    recipe: str
    title: str
    source: str
    quick: bool
    seconds: float | None
    machine: _Machine | None
    settings: dict[str, Any]
    claims: list[_Claim]
    comparisons: list[_Comparison]
    warnings: list[str]
    lost: int


# What results that were written before there was a version do not say.
_LATER = {"title": "", "seconds": None, "machine": None, "comparisons": [], "warnings": [], "lost": 0}


def results_in(folder: Path) -> Results | None:
    """What results.json in a folder says; None where there is none.

    Raises:
        RunError: it is damaged, or of another format version.
    """
    file = folder / RESULTS
    if not exists(file):
        return None
    text = read_text(file)
    try:
        found = parse_json(text)
    except ValueError as error:
        raise _damaged(file, str(error)) from None
    if not isinstance(found, dict):
        raise _damaged(file, "it holds no JSON object")
    version = found.get("format_version")
    if version is not None and version != RESULTS_VERSION:
        raise RunError(
            f"{file} has format version {version!r}, and this grokinterp reads version {RESULTS_VERSION}: install the "
            "release that wrote it"
        )
    if version is None and isinstance(found.get("claims"), list):
        claims = [{"number": None, **claim} if isinstance(claim, dict) else claim for claim in found["claims"]]
        found = {**_LATER, **found, "claims": claims}
    try:
        return _adapter().validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(file, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@cache
def _adapter() -> Any:
    return TypeAdapter(Results)


def _damaged(file: Path, why: str) -> RunError:
    return RunError(f"{file} is damaged ({why}): remove it, and reproduce again")
