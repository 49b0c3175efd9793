"""Files of runs, changed on purpose but with a valid checksum, or damaged."""

import json
from pathlib import Path
from typing import Any

from grokinterp.runs.checksums import with_checksum, without_checksum


def rewrite(file: Path, **changes: Any) -> None:
    """Changes entries of a JSON file, whose checksum then matches again."""
    content = without_checksum(json.loads(file.read_text()))
    file.write_text(json.dumps(with_checksum(content | changes)))


def flip(file: Path, position: int, bit: int = 0) -> None:
    """Flips one bit of a file."""
    data = bytearray(file.read_bytes())
    data[position] ^= 1 << bit
    file.write_bytes(data)
