"""Parquet tables: reading within limits that the footer must respect, and a checksum of the file."""

import io
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from grokinterp.errors import RunError
from grokinterp.runs.checksums import CHECKSUM, DIFFERS, PREFIX, sha256
from grokinterp.runs.files import read_bytes

MAX_COLUMNS = 1000
MAX_NUMBERS = 1 << 25  # rows times columns: five thousand checkpoints with ten columns over 500 frequencies
MAX_TABLE_BYTES = 1 << 28
_BYTES_PER_ROW = 1 << 16  # of a sweep's table
_ZEROS = PREFIX.encode() + b"0" * 64  # stands for the checksum while it is computed
_STORED = re.compile(rb"sha256:[0-9a-f]{64}")


def table_bytes(frame: pd.DataFrame) -> bytes:
    """The content of a Parquet file with a table, without its index, and with a checksum of the file."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    buffer = io.BytesIO()
    metadata = {**(table.schema.metadata or {}), CHECKSUM: _ZEROS}
    pq.write_table(table.replace_schema_metadata(metadata), buffer)
    data = buffer.getvalue()
    return data.replace(_ZEROS, PREFIX.encode() + sha256(data).encode())


def read_table(data: bytes, rows: int) -> pa.Table:
    """Parses a Parquet file.

    Args:
        data: the content of the file.
        rows: the largest possible number of rows.

    Raises:
        ValueError: it is not a Parquet file, or its footer claims more than a table can have. Nothing is read then, so
            a small file cannot fill the memory.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        found = file.metadata
        shape = f"{found.num_rows:,} rows and {found.num_columns:,} columns"
        if found.num_rows > rows or found.num_columns > MAX_COLUMNS or found.num_rows * found.num_columns > MAX_NUMBERS:
            raise ValueError(f"it claims {shape}")
        size = sum(found.row_group(i).total_byte_size for i in range(found.num_row_groups))
        if size > 64 * MAX_NUMBERS:
            raise ValueError(f"it claims {size:,} bytes for {shape}")
        return file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a readable Parquet file: {next(iter(str(error).splitlines()), '')}") from None


def require_intact_table(file: Path, rows: int) -> bool:
    """Verifies the checksum in a Parquet file that `table_bytes` made.

    Args:
        file: the file.
        rows: the largest possible number of rows.

    Returns:
        Whether it has one; files of earlier versions have none.

    Raises:
        RunError: the file cannot be read, or its checksum does not match.
    """
    data = read_bytes(file, limit=min((1 << 20) + _BYTES_PER_ROW * rows, MAX_TABLE_BYTES))
    stored = _STORED.findall(data)
    if not stored and CHECKSUM.encode() not in data:
        try:
            pq.read_metadata(io.BytesIO(data))
        except (pa.ArrowException, OSError) as error:  # the checksum is at the end, which may be what is missing
            raise RunError(f"{file} is damaged ({next(iter(str(error).splitlines()), '')})") from None
        return False
    if len(stored) != 1 or stored[0] != PREFIX.encode() + sha256(data.replace(stored[0], _ZEROS)).encode():
        raise RunError(f"{file} is damaged ({DIFFERS})")
    return True
