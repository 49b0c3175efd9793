"""Mutations of the content of one file: bytes, JSON, JSON lines, safetensors and Parquet."""

import io
import json
import math
import random
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

# Unpickling it would create a folder in the current directory.
PICKLE = b"cos\nmkdir\n(S'executed'\ntR."
UNPICKLED = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".npy", ".npz", ".joblib", ".h5", ".dill", ".pyc")

Mutation = Callable[[random.Random, bytes], Iterator[bytes] | bytes]

# --- bytes


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _flip(rng: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8]) if found else 0):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice([1, 2, 8, 100])) + data[at:]


def _delete(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice([1, 2, 8, 100]) :]


def _zeros(rng: random.Random, data: bytes) -> bytes:
    at, n = rng.randrange(len(data) + 1), rng.choice([4, 64, 512])
    return data[:at] + bytes(min(n, len(data) - at)) + data[at + n :]


def _splice(rng: random.Random, data: bytes) -> bytes:
    at, of, n = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1), rng.choice([8, 64, 512])
    return data[:at] + data[of : of + n] + data[at:]


BYTES: dict[str, Mutation] = {
    "cut": cut,
    "bits flipped": _flip,
    "bytes inserted": _insert,
    "bytes deleted": _delete,
    "zeros": _zeros,
    "spliced": _splice,
    "empty": lambda rng, data: b"",
    "noise": lambda rng, data: rng.randbytes(rng.choice([1, 8, 200, 5000])),
    "not UTF-8": lambda rng, data: data[: len(data) // 2] + b"\xff\xfe\x00\xd8" + data[len(data) // 2 :],
    "pickle": lambda rng, data: PICKLE,
    "UTF-16": lambda rng, data: data.decode("latin-1").encode("utf-16"),
}

# --- JSON

_NUMBERS = [
    *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "-1", "0", "-0.0", "1e-320", "0.5", "1.0", "3", "1e9"),
    *(str(2**31), str(2**53 + 1), str(2**63), str(2**64), str(-(2**63) - 1), str(10**30), str(10**12), "9" * 5000),
    *("9" * 400, "1" + "0" * 4000, "2", "7", "64", "997", "3000", "100000", "1e-9", "1e25", "1e38", "0.999999"),
]
_TEXTS = [
    *("../../../victims/config", "/etc/passwd", "/dev/zero", "..", ".", "", "a/b", "~", "NUL", "x\0y"),
    "\x1b[31m\x1b]0;t\x07",
    *("<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>", "two\nlines", "\r\n", "‮gnol", "é" * 300),
    *("[red]rich[/]", "[/]", "{0.__class__}", "%s%n", "$title", "`id`", "$(id)", "; rm -rf ."),
    *("nan", "inf", "1", "true"),
    *("every:1", "log:1000000000", "dense:0:1000000000000:1", "log:99999999999999999999", "+".join(["1"] * 3000)),
    *("os:system", "posix:system", "cuda", "mps", "meta", "x" * 1_000_000),
]  # fmt: skip
_OTHERS = ["null", "true", "false", "[]", "{}", "[[]]", '{"a": 1}', "[1, 2, 3]", '["a", null, 1.5]', '"\\ud800"']
_DEEP = ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 50_000 + "1" + "}" * 50_000]


def _places(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, inner in items:
        yield from _places(inner, (*at, name))


def _with_hole(content: Any, at: tuple[Any, ...], raw: str) -> bytes:
    """The JSON text with `raw`, valid or not, inserted at a path."""
    if not at:
        return raw.encode("utf-8", "surrogatepass")
    inner = content
    for name in at[:-1]:
        inner = inner[name]
    inner[at[-1]] = "@@HOLE@@"
    return json.dumps(content, indent=1).replace('"@@HOLE@@"', raw, 1).encode("utf-8", "surrogatepass")


def _replaced(values: list[str]) -> Mutation:
    def mutation(rng: random.Random, data: bytes) -> bytes:
        content = json.loads(data)
        places = list(_places(content))
        leaves = [at for at in places if at]
        return _with_hole(content, rng.choice(leaves or places), rng.choice(values))

    return mutation


def _whole(rng: random.Random, data: bytes) -> bytes:
    return rng.choice([*_NUMBERS, *_OTHERS, *_DEEP, *map(json.dumps, _TEXTS)]).encode()


def _keys(rng: random.Random, data: bytes) -> bytes:
    """Omits, adds, renames or duplicates a key."""
    content = json.loads(data)
    holders = [at for at in _places(content) if isinstance(_at(content, at), dict)]
    if not holders:
        return data
    holder = _at(content, rng.choice(holders))
    names = list(holder)
    what = rng.randrange(4)
    if what == 0 or not names:
        holder[rng.choice([*_TEXTS, "__class__", "pickle"])] = rng.choice([None, 1, "x", [], {}])
    elif what == 1:
        del holder[rng.choice(names)]
    elif what == 2:
        holder[rng.choice(_TEXTS)] = holder.pop(rng.choice(names))
    else:
        name = json.dumps(rng.choice(names))
        text = json.dumps(content)
        return text.replace(f"{name}:", f"{name}: {rng.choice(_NUMBERS[:20])}, {name}:", 1).encode()
    return json.dumps(content).encode()


def _at(content: Any, at: tuple[Any, ...]) -> Any:
    for name in at:
        content = content[name]
    return content


def _many(rng: random.Random, data: bytes) -> bytes:
    content = json.loads(data)
    leaves = [at for at in _places(content) if at]
    raw = rng.choice(["[" + "0," * 300_000 + "0]", "{" + ",".join(f'"k{i}":{i}' for i in range(50_000)) + "}"])
    return _with_hole(content, rng.choice(leaves or [()]), raw)


JSON: dict[str, Mutation] = {
    "another number": _replaced(_NUMBERS),
    "another text": _replaced([json.dumps(text) for text in _TEXTS]),
    "another type": _replaced(_OTHERS),
    "deep": _replaced(_DEEP),
    "another whole": _whole,
    "keys": _keys,
    "many": _many,
}

# --- JSON lines

_STEPS = ["-1", "1.5", "true", '"5"', "null", "1e3", "NaN", str(10**13), str(2**63), str(10**30), "9" * 5000, "[]", "0"]


def _lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    if not lines:
        return b"{}\n"
    i = rng.randrange(len(lines))
    what = rng.randrange(12)
    if what == 0:
        lines[i] = lines[i][: rng.randrange(len(lines[i]))]
    elif what == 1:
        lines.insert(
            i, rng.choice([b"\n", b"{}\n", b"[]\n", b"1\n", b"null\n", b"\x00\n", b'{"step": 3}\n', b"\xe2\x80\xa8\n"])
        )
    elif what == 2:
        lines.insert(rng.randrange(len(lines) + 1), lines[i])
    elif what == 3:
        lines.reverse()
    elif what in (4, 5):
        row = json.loads(lines[i])
        lines[i] = _with_hole(row, ("step",), rng.choice(_STEPS)).replace(b"\n", b" ") + b"\n"
    elif what == 6:
        row = json.loads(lines[i]) | {f"k{rng.random()}": 1.0 for _ in range(rng.choice([1, 300, 5000]))}
        lines[i] = json.dumps(row).encode() + b"\n"
    elif what == 7:
        row = json.loads(lines[i])
        for name in rng.sample(sorted(row), rng.randrange(len(row))):
            row[name] = rng.choice([None, "x", True, [], {}, 1e308, -1e308, 10**400, "1.0"])
        lines[i] = json.dumps(row).encode() + b"\n"
    elif what == 8:
        lines[i] = rng.choice(["9" * 5000, "[" * 100_000, '"' + "x" * 100_000 + '"']).encode() + b"\n"
    elif what == 9:
        lines = [line.replace(b"\n", rng.choice([b"\r\n", b"\r", b"", b"\n\n"])) for line in lines]
    elif what == 10:
        row = json.loads(lines[i])
        place = rng.choice([at for at in _places(row) if at])
        lines[i] = _with_hole(row, place, rng.choice([*_NUMBERS, *_OTHERS])).replace(b"\n", b" ") + b"\n"
    else:
        lines = [lines[i].replace(b'"step": ', b'"step": %d' % (j + 1)) for j in range(rng.choice([200, 20_000]))]
    return b"".join(lines)


LINES: dict[str, Mutation] = {"lines": _lines, "lines again": _lines, "lines once more": _lines}

# --- safetensors


def _opened(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _closed(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def _length(rng: random.Random, data: bytes) -> bytes:
    size = rng.choice([0, 1, len(data), len(data) + 1, 2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 1])
    return struct.pack("<Q", size) + data[8:]


_SHAPES: list[Any] = [
    *([2**60], [0, 2**60], [2**40, 2**40], [-1], [-1, -8], [], [1], [0], [2**64], [1.5], "5", None, [[8]], [1] * 1000),
    *([10**9, 0], [2**31, 2**31, 0], [None], [True, 8]),
]
_OFFSETS: list[Any] = [
    [-8, 8],
    [0, 2**63],
    [8, 0],
    [0, 0],
    [0],
    "0",
    None,
    [0, 2**64],
    [1, 5],
    [0.0, 8.0],
    [2**63, 2**63],
]
_TYPES: list[Any] = [
    "F64",
    "I64",
    "BF16",
    "F16",
    "F8_E4M3",
    "F4",
    "BOOL",
    "U8",
    "U64",
    "C64",
    "X",
    "",
    None,
    3,
    ["F32"],
]
_NAMES = [
    "../../victims/x",
    "/etc/passwd",
    "",
    "a\0b",
    "x" * 100_000,
    "weights:",
    "__metadata__x",
    "\x1b[31m",
    "<script>",
]


def _tensor(rng: random.Random, data: bytes) -> bytes:
    header, body = _opened(data)
    name = rng.choice([name for name in header if name != "__metadata__"])
    what = rng.randrange(8)
    if what == 0:
        header[name]["shape"] = rng.choice(_SHAPES)
    elif what == 1:
        header[name]["data_offsets"] = rng.choice(_OFFSETS)
    elif what == 2:
        header[name]["dtype"] = rng.choice(_TYPES)
    elif what == 3:
        header[rng.choice(_NAMES)] = header.pop(name)
    elif what == 4:
        header[rng.choice([*_NAMES, "additional"])] = {
            "dtype": "F32",
            "shape": [2],
            "data_offsets": [len(body), len(body) + 8],
        }
        body += bytes(8)
    elif what == 5:
        header[name] = rng.choice([None, [], "x", {}, 1])
    elif what == 6:
        header[name]["shape"] = header[name]["shape"][::-1] if rng.random() < 0.5 else [*header[name]["shape"], 1]
    else:
        n = rng.choice([100, 10_000])
        header |= {f"none{i}": {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [0, 0]} for i in range(n)}
    return _closed(header, body)


def _without(rng: random.Random, data: bytes) -> bytes:
    """Omits a tensor; the file remains valid."""
    header, body = _opened(data)
    names = [name for name in header if name != "__metadata__"]
    gone, found, content = rng.choice(names), {}, b""
    for name in names:
        if name != gone:
            first, last = header[name]["data_offsets"]
            found[name] = header[name] | {"data_offsets": [len(content), len(content) + last - first]}
            content += body[first:last]
    if "__metadata__" in header:
        found["__metadata__"] = header["__metadata__"]
    return _closed(found, content)


def _numbers(rng: random.Random, data: bytes) -> bytes:
    """Replaces the numbers of a tensor by senseless ones; the file remains valid."""
    header, body = _opened(data)
    numbers = np.frombuffer(body[: len(body) // 4 * 4], dtype="<f4").copy()
    chosen = slice(None) if rng.random() < 0.5 else rng.randrange(max(1, len(numbers)))
    numbers[chosen] = rng.choice([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.0, -0.0])
    return _closed(header, numbers.tobytes() + body[len(body) // 4 * 4 :])


def _integers(rng: random.Random, data: bytes) -> bytes:
    """Puts indices, counters and generator states out of range."""
    header, body = _opened(data)
    chosen = [name for name in header if name != "__metadata__" and header[name]["dtype"] in ("I64", "U8", "I32")]
    if not chosen:
        return _numbers(rng, data)
    first, last = header[rng.choice(chosen)]["data_offsets"]
    fill = rng.choice([b"\xff", b"\x7f", b"\x80", b"\x00", b"\x01"]) * (last - first)
    if rng.random() < 0.5 and last - first >= 8:
        at = rng.randrange((last - first) // 8) * 8
        number = rng.choice([-1, 2**62, 10**6, 0])
        fill = body[first : first + at] + struct.pack("<q", number) + body[first + at + 8 : last]
    return _closed(header, body[:first] + fill + body[last:])


def _metadata(rng: random.Random, data: bytes) -> bytes:
    header, body = _opened(data)
    known = header.get("__metadata__", {})
    values: list[Any] = [
        *(None, {}, [], "x", {"step": 5}, {"step": "-1"}, {"step": "9" * 5000}, {"step": "1e3"}, {"step": "five"}),
        *(
            {"step": "²"},
            {"step": "0x10"},
            {**known, "frozen": "[" * 100_000},
            {**known, "frozen": "5"},
            {"step": ["5"]},
        ),
        *({**known, "frozen": "not JSON"}, {**known, "frozen": "[1, null]"}, {str(i): "x" for i in range(50_000)}),
        {"step": "\x1b[31m\n"},
    ]
    header["__metadata__"] = rng.choice(values)
    if rng.random() < 0.1:
        del header["__metadata__"]
    return _closed(header, body)


def _header(rng: random.Random, data: bytes) -> bytes:
    header, body = _opened(data)
    mutation = rng.choice([*JSON.values(), BYTES["not UTF-8"], BYTES["bits flipped"], BYTES["cut"]])
    return _closed(mutation(rng, json.dumps(header).encode()), body)


TENSORS: dict[str, Mutation] = {
    "header length": _length,
    "tensor": _tensor,
    "another tensor": _tensor,
    "tensor missing": _without,
    "NaN and Inf": _numbers,
    "integers": _integers,
    "metadata": _metadata,
    "header": _header,
}

# --- Parquet


def _columns(rng: random.Random, data: bytes) -> bytes:
    """A valid table with different content."""
    table = pq.read_table(io.BytesIO(data))
    i, n = rng.randrange(table.num_columns), table.num_rows
    name, what = table.column_names[i], rng.randrange(11)
    others = [
        pa.array(["<script>"] * n),
        pa.array([[1.0]] * n),
        pa.array([{"a": 1}] * n),
        pa.array([True] * n),
        pa.array([None] * n),
        pa.array([2**63 - 1] * n),
        pa.array([b"\xff"] * n),
        pa.array([0] * n, pa.timestamp("ns")),
        pa.array([float("nan")] * n),
        pa.array(["a"] * n).dictionary_encode(),
    ]
    if what < 4:
        table = table.set_column(i, name, rng.choice(others))
    elif what == 4:
        table = table.drop_columns([name])
    elif what == 5:
        table = pa.concat_tables([table, table])
    elif what == 6:
        for j in range(10_000):
            table = table.append_column(f"c{j}", pa.nulls(n)) if j % 1000 else table.append_column(f"c{j}", others[0])
    elif what == 7:
        table = table.replace_schema_metadata(
            rng.choice(
                [
                    None,
                    {b"pandas": b"{}"},
                    {b"pandas": b"[" * 100_000},
                    {b"pandas": b'{"index_columns": ["../x", 5], "columns": []}'},
                ]
            )
        )
    elif what == 8:
        meta = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": PICKLE}
        field = pa.field(name, table.schema.field(i).type, metadata=meta)
        table = table.set_column(i, field, table.column(i))
    elif what == 9:
        table = table.slice(0, rng.randrange(n + 1))
    else:
        table = table.take(pa.array([rng.randrange(n) for _ in range(50_000)])) if n else table
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _claimed_rows(rng: random.Random, data: bytes) -> bytes:
    """Multiplies the number of rows that the footer claims, in the encoding of Thrift's compact protocol."""
    n = pq.read_metadata(io.BytesIO(data)).num_rows
    size = int.from_bytes(data[-8:-4], "little")
    claim = rng.choice([n + 1, 10**6, 10**9, 10**12, 2**62])
    # 0x16: the next field, a zigzag integer of 64 bits
    footer = data[-8 - size : -8].replace(b"\x16" + _varint(2 * n), b"\x16" + _varint(2 * claim))
    return data[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _many_rows(rng: random.Random, data: bytes) -> bytes:
    """A small file of many rows, each without a value."""
    names = pq.read_schema(io.BytesIO(data)).names
    buffer = io.BytesIO()
    pq.write_table(pa.table({rng.choice(names): pa.nulls(rng.choice([10**6, 2 * 10**8]))}), buffer)
    return buffer.getvalue()


PARQUET: dict[str, Mutation] = {
    **dict.fromkeys(("columns", "other columns", "more columns"), _columns),
    **{"claimed rows": _claimed_rows, "many rows": _many_rows},
}

# --- files of torch.save

_TENSORS: tuple[Callable[[], Any], ...] = (
    *(lambda: torch.zeros(0), lambda: torch.zeros(()), lambda: torch.full((5, 4), math.nan), lambda: torch.ones(4, 5)),
    *(lambda: torch.zeros(5, 4, dtype=torch.int64), lambda: torch.zeros(3, dtype=torch.complex64)),
    *(lambda: torch.zeros(1).expand(10**6, 10**6), lambda: torch.zeros(1).expand(5, 4), lambda: torch.ones(9, 9)[::2]),
    *(lambda: torch.eye(5).to_sparse(), lambda: torch.full((5, 4), 1e38), lambda: torch.zeros(10**7)),
    *(lambda: torch.arange(-3, 40), lambda: torch.full((13,), 2**62), lambda: torch.ones(13, dtype=torch.bool)),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, 0.5, math.nan, -math.inf, "", "x" * 10**6, b"x", (), [], {}, {1: 2}),
    *([None], [[]], [(0, 0)] * 30, [(-1, 0)], [[0, 1], [0]], list(range(10**5)), {"model": {}}, OrderedDict()),
)


def _pickled(rng: random.Random, data: bytes) -> bytes:
    """Replaces, removes or adds something in the content, or repeats its checkpoints."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    content = dict(content) if isinstance(content, OrderedDict) else content
    place = rng.choice([at for at in _places(content) if at])
    holder, name = _at(content, place[:-1]), place[-1]
    what = rng.randrange(6)
    if what == 0:
        del holder[name]
    elif what == 1 and isinstance(holder, dict):
        holder[rng.choice([*_TEXTS[:12], 3, None, (1, 2)])] = holder.pop(name)
    elif what == 2 and isinstance(holder, list):
        holder.extend([holder[name]] * rng.choice([1, 10**5]))
    else:
        holder[name] = rng.choice(_TENSORS)() if rng.random() < 0.5 else rng.choice(_VALUES)
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=rng.random() < 0.8)
    return buffer.getvalue()


PICKLED: dict[str, Mutation] = dict.fromkeys(("pickled", "pickled again", "pickled once more"), _pickled)

BY_SUFFIX: dict[str, dict[str, Mutation]] = {
    **{".json": JSON, ".jsonl": LINES, ".safetensors": TENSORS, ".parquet": PARQUET},
    **{".pt": PICKLED, ".pth": PICKLED},
}
