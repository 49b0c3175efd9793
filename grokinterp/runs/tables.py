"""Parquet tables: reading within limits that the footer must respect, and a checksum of the content."""

import hashlib
import io
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from grokinterp.errors import RunError
from grokinterp.runs.checksums import DIFFERS
from grokinterp.runs.files import read_bytes

MAX_COLUMNS = 1000
MAX_NUMBERS = 1 << 25  # rows times columns: five thousand checkpoints with ten columns over 500 frequencies
_MAX_BYTES = 1 << 31
_CHECKSUM = b"checksum"


def table_bytes(frame: pd.DataFrame) -> bytes:
    """The content of a Parquet file with a table and a checksum of its content; the index is not stored."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), _CHECKSUM: _digest(table).encode()}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()


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


def require_intact_table(file: Path, rows: int) -> None:
    """Verifies the checksum of a Parquet file; files of earlier versions have none.

    Raises:
        RunError: the file cannot be read, has more than `rows` rows, or its checksum does not match.
    """
    try:
        table = read_table(read_bytes(file, limit=_MAX_BYTES), rows)
        metadata = table.schema.metadata or {}
        if set(metadata) - {_CHECKSUM, b"pandas"}:
            raise ValueError("unknown metadata")
        if _CHECKSUM in metadata and metadata[_CHECKSUM] != _digest(table).encode():
            raise ValueError(DIFFERS)
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error})") from None


def _digest(table: pa.Table) -> str:
    """SHA-256 over the names, types and values of the columns, and what pandas knows about them."""
    about = (table.schema.metadata or {}).get(b"pandas", b"")
    digest = hashlib.sha256(about)
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(json.dumps([name, str(column.type)]).encode())
        numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        values = column.to_numpy().tobytes() if numeric else json.dumps(column.to_pylist(), default=str).encode()
        digest.update(values)
    return digest.hexdigest()
