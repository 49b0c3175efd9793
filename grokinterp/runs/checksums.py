"""Checksums inside the files of runs and sweeps.

In JSON, the last entry of an object is a checksum over all others; in HTML, the last line is a comment with a checksum
of the text above it. They detect damage, not forgery: anyone who changes a file on purpose can compute its checksum
anew.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grokinterp.errors import RunError
from grokinterp.runs.files import MAX_JSON_BYTES, parse_json, read_text

CHECKSUM = "checksum"
PREFIX = "sha256:"
_HEX_DIGITS = 64
_COMMENT = re.compile(r"<!-- SHA-256 of the lines above: ([0-9a-f]{64}) -->\n")
MARK = "its last line is a checksum"  # in a page with such a comment
DIFFERS = "its checksum does not match its content"


def sha256(data: bytes) -> str:
    """SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with a checksum as its last entry.

    >>> list(with_checksum({"step": 5}))
    ['step', 'checksum']

    Args:
        content: what is stored as a JSON object.
    """
    # As it is read: tuples become lists, and keys become strings. Half of a surrogate pair, which cannot be encoded,
    # becomes a question mark.
    plain = json.loads(json.dumps(content, ensure_ascii=False).encode(errors="replace"))
    return {**plain, CHECKSUM: _checksum(plain)}


def without_checksum(content: Any) -> dict[str, Any]:
    """The content without its checksum, which must match; content of earlier versions, which has none, as it is.

    >>> without_checksum(with_checksum({"step": 5}))
    {'step': 5}

    Args:
        content: parsed JSON.

    Raises:
        ValueError: the content is not a JSON object, or its checksum does not match.
    """
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    if not has_checksum(content):
        return content
    plain = {name: value for name, value in content.items() if name != CHECKSUM}
    if content.get(CHECKSUM) != _checksum(plain):
        raise ValueError(DIFFERS)
    return plain


def has_checksum(content: Mapping[str, Any]) -> bool:
    """Whether parsed JSON has a checksum, even if its name or its value is damaged."""
    stored = content.get(CHECKSUM)
    # In the journals of earlier versions, an entry of this name is the checksum of other data, without the prefix.
    if isinstance(stored, str) and len(stored) > _HEX_DIGITS:
        return True
    texts = [value for value in content.values() if isinstance(value, str)]
    return any(text.startswith(PREFIX) for text in texts)


def read_checked_json(file: Path, *, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Reads a JSON object, and verifies and removes its checksum, if it has one.

    Args:
        file: the file.
        limit: largest size in bytes that a file of this kind can have.

    Raises:
        RunError: the file is missing, is not a regular file, is larger than `limit`, or cannot be read.
        ValueError: it is not JSON, is not an object, or its checksum does not match.
    """
    return without_checksum(parse_json(read_text(file, limit=limit)))


def with_comment(html: str) -> str:
    """A page that contains `MARK`, with its checksum in a comment on a last line."""
    text = html if html.endswith("\n") else html + "\n"
    return f"{text}<!-- SHA-256 of the lines above: {sha256(text.encode())} -->\n"


def is_own(file: Path) -> bool:
    """Whether a file was written by this package, which the checksum in it shows."""
    try:
        return require_intact(file)
    except RunError:
        return False


def require_intact(file: Path) -> bool:
    """Verifies the checksum in a file, which is JSON (.json) or HTML (.html).

    Returns:
        Whether it has one; files of earlier versions have none.

    Raises:
        RunError: the file cannot be read, or its checksum does not match.
    """
    try:
        if file.suffix == ".json":
            content = parse_json(read_text(file))
            without_checksum(content)
            return has_checksum(content)
        html = read_text(file)
        text, _, last = html.rpartition("<!--")
        found = _COMMENT.fullmatch("<!--" + last)
        if "</html>" not in html:
            raise ValueError("its end is missing")
        if found is None and MARK not in html:
            return False
        if found is None or found[1] != sha256(text.encode()):
            raise ValueError(DIFFERS)
        return True
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error})") from None


def _checksum(content: Mapping[str, Any]) -> str:
    try:
        return PREFIX + sha256(json.dumps(content, sort_keys=True).encode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
