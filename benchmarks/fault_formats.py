"""Damage of archives, arrays, pictures, pickles and tables, seeded; see fault_changes.py."""

import functools
import io
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from fault_bytes import DEEP, damage_bytes, damage_json


def damage_zip(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """An archive with another member, but checksums that are right; or damaged as bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, RuntimeError, zlib.error):
        return damage_bytes(content, draw)
    name = draw.choice(sorted(members))
    way = draw.choice(
        ("bytes", "bytes", "member", "member", "header", "header", "lost", "renamed", "raw",
         "compression", "encrypted", "odd member", "only it")
    )  # fmt: skip
    if way == "bytes":
        return damage_bytes(content, draw)
    if way == "only it":
        return members[name], f"only its member {name}"
    if way == "member":
        members[name], how = damage_bytes(members[name], draw)
        way = f"{name}: {how}"
    elif way == "header":
        members[name], how = damage_npy(members[name], draw)
        way = f"{name}: {how}"
    elif way == "lost":
        del members[name]
    elif way == "renamed":
        members[draw.choice(("../x.npy", "/abs.npy", "a" * 300, "é", "x"))] = members.pop(name)
    elif way == "raw":
        members[name] = draw.choice((b"", b"hello", draw.randbytes(200)))
    elif way == "odd member":
        members[draw.choice(("readme.txt", "x/", "images", "labels.npy.npy"))] = b"hello"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as z:
        for member, value in members.items():
            z.writestr(member, value)
    whole = bytearray(packed.getvalue())
    if way in ("compression", "encrypted"):
        # Of the first local header and of its entry in the directory.
        for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = whole.find(signature)
            if at >= 0 and way == "encrypted":
                whole[at + flags] |= 1
            elif at >= 0:
                whole[at + flags + 2 : at + flags + 4] = struct.pack("<H", draw.choice((1, 12, 93)))
    return bytes(whole), way


def damage_npy(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """An .npy whose header claims another shape or type, or is odd."""
    if content[:6] != b"\x93NUMPY":
        return damage_bytes(content, draw)
    length = int.from_bytes(content[8:10], "little")
    header, values = content[10 : 10 + length].decode("latin1"), content[10 + length :]
    odd_shapes = ("(1000000000000,)", "(0,)", "(-1,)", "(8, 0)", "()", "(2,) * 9", "[1]", "(1e9,)")
    odd_types = ("'|O'", "'<f2'", "'<f8'", "'<i8'", "'<u8'", "'|S9'", "'<U7'", "'<M8[s]'", "'<c16'",
                 "'|b1'", "'x'", "[('a', '<f4')]", "'|V3'")  # fmt: skip
    way = draw.choice(("shape", "type", "fortran", "text"))
    if way == "shape":
        odd = draw.choice(odd_shapes)
        header = re.sub(r"'shape': \([^)]*\)", lambda _: f"'shape': {odd}", header)
        way = f"the shape {odd}"
    elif way == "type":
        odd = draw.choice(odd_types)
        header = re.sub(r"'descr': '[^']*'", lambda _: f"'descr': {odd}", header)
        way = f"the type {odd}"
    elif way == "fortran":
        header = header.replace("False", "True")
    else:
        header = draw.choice(("{}", "[" * 5000, "__import__('os')", "1" * 60_000, "\0"))
        way = f"the header {header[:20]!r}"
    encoded = header.encode("latin1")[:65535]
    return content[:8] + struct.pack("<H", len(encoded)) + encoded + values, way


@functools.cache  # large ones take a second
def png(width: int, height: int, grey: bytes | None = None) -> bytes:
    """A grey PNG that claims a size; its checksums are right whatever the rows are."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(width)) * height if grey is None else grey, 1)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def damage_picture(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """A picture of another size, mode or kind, a bomb, or damaged bytes."""
    from PIL import Image

    def as_kind(kind: str, mode: str, size: tuple[int, int]) -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, size).save(buffer, kind)
        return buffer.getvalue()

    ways: dict[str, Callable[[], bytes]] = {
        "bytes": lambda: damage_bytes(content, draw)[0],
        "flipped": lambda: damage_bytes(content, draw)[0],
        "a bomb": lambda: png(20_000, 20_000),
        "a claimed size": lambda: png(2**31 - 1, 2**31 - 1, b"\0\0"),
        "a claimed 60000 x 60000": lambda: png(60_000, 60_000, b"\0\0"),
        "0 px": lambda: png(0, 8, b""),
        "a line": lambda: png(100_000, 1),
        "a column": lambda: png(1, 20_000),
        "1 px": lambda: png(1, 1),
        "CMYK": lambda: as_kind("JPEG", "CMYK", (8, 8)),
        "16 bit": lambda: as_kind("PNG", "I;16", (8, 8)),
        "float": lambda: as_kind("TIFF", "F", (8, 8)),
        "palette": lambda: as_kind("GIF", "P", (8, 8)),
        "transparent": lambda: as_kind("PNG", "LA", (8, 8)),
        "bitmap": lambda: as_kind("BMP", "1", (8, 8)),
        "text": lambda: b"hello",
        "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "eps": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
    }
    way = draw.choice(list(ways))
    return ways[way](), way


def damage_pickle(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """An archive whose pickle is odd: deep, foreign, endless, or with a storage that is not."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(n for n in members if n.endswith("data.pkl"))
    deep = DEEP * 10
    ways = {
        "deep tuple as key": b"(d" + b"N" + b"\x85" * deep + b"I1\ns.",
        "deep list": b"]" * deep + b"a" * (deep - 1) + b".",
        "foreign call": b"cos\nsystem\n(Vtrue\ntR.",
        "foreign class": b"cargparse\nNamespace\n)R.",
        "nothing": b"",
        "a number": b"I7\n.",
        "huge string": b"T" + struct.pack("<I", 2**31 - 1) + b"x.",
        "huge long": b"\x8b" + struct.pack("<I", 2**31 - 1) + b"x.",
        "memo": b"g999999999\n.",
        "large memo": b"Nr" + struct.pack("<I", 2**31 - 1) + b".",
        "itself": b"]q\x00h\x00a.",
        "protocol": b"\x80\xff.",
        "persistent": b"Vx\nQ.",
        "damaged": damage_bytes(members[name], draw)[0],
        "cut": members[name][: draw.randrange(1 + len(members[name]))],
    }
    way = draw.choice(list(ways))
    members[name] = ways[way]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as z:
        for member, value in members.items():
            z.writestr(member, value)
    return packed.getvalue(), f"pickle: {way}"


def damage_table(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """A parquet file with a column of another type, or odd metadata; or damaged as bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    way = draw.choice(("bytes", "bytes", "label", "label", "image", "image", "metadata", "metadata",
                       "soft", "lost", "empty"))  # fmt: skip
    if way == "bytes":
        return damage_bytes(content, draw)
    table = pq.read_table(io.BytesIO(content))
    count = table.num_rows
    odd: list[Any]
    if way == "label":
        odd = draw.choice(([0.5, 1.7], [None, 1], ["a", "b"], [-1, 0], [10**18, 0], [[1], [2]],
                           [True, False], [b"x", b"y"], [0, 10**9]))  # fmt: skip
        values = pa.array((odd * count)[:count])
        table = table.set_column(table.column_names.index("label"), "label", values)
        way = f"labels {odd}"
    elif way == "image":
        odd = draw.choice((["a"], [None], [1.5], [b"hello"], [{"bytes": None}], [{"bytes": "x"}],
                           [{"bytes": b"hello"}], [{"path": "/etc/passwd"}], [[1, 2]],
                           [{"bytes": png(20_000, 20_000)}]))  # fmt: skip
        values = pa.array((odd * count)[:count])
        table = table.set_column(table.column_names.index("image"), "image", values)
        way = f"images {str(odd)[:40]}"
    elif way == "metadata":
        held = dict(table.schema.metadata or {})
        key = draw.choice([b"huggingface", b"delt_jax"])
        held[key], how = damage_json(held.get(key, b'{"info": {"features": {}}}'), draw)
        table = table.replace_schema_metadata(held)
        way = f"metadata {key.decode()}: {how}"
    elif way == "soft":
        odd = draw.choice(([[1.0]], [[float("nan")] * 3], [None], ["a"], [[None, 1.0, 2.0]], [[]]))
        if "soft_label" in table.column_names:
            table = table.drop_columns(["soft_label"])
        table = table.append_column("soft_label", pa.array((odd * count)[:count]))
        way = f"soft labels {odd}"
    elif way == "lost":
        table = table.drop_columns([draw.choice(["image", "label"])])
    else:
        table = table.slice(0, 0)
    packed = io.BytesIO()
    pq.write_table(table, packed)
    return packed.getvalue(), way
