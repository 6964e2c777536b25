"""Damage of files, seeded: bytes, text, JSON, zip members, pickles, pictures, tables and folders.

Every function takes a `random.Random` and returns a word on what it did, or the damaged content.
"""

import contextlib
import io
import json
import os
import random
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEEP = 100_000  # levels of nesting
ODD_NUMBERS = (0, -1, 1, 2**31, 2**32 + 1, 2**63, 10**12, 10**30, 0.5, -0.0, 1e308, 1e-320)
ODD_TEXTS = (
    "",
    " ",
    "..",
    "../../../etc/passwd",
    "/dev/null",
    "a" * 300,
    "x" * 5000,
    "ü日本💥",
    "a\nb",
    "tab\tquote\"'",
    "\ufeffbom",
    "$5_to_$10",
    "<script>alert(1)</script>",
    "nan",
    "null",
    "-1",
    "%s%n{0}",
    "os.system",
    "C:\\x",
)
ODD_NAMES = ("-rf", "a" * 250, "new\nline", " ", ".hidden", "ü💥", "x.png.txt", "~", "a:b,c", "nul")


def odd_value(draw: random.Random) -> Any:
    """A value of JSON that is probably not what belongs there."""
    kind = draw.choice(("number", "number", "text", "text", "list", "dict", "none", "bool", "nan"))
    return {
        "number": lambda: draw.choice(ODD_NUMBERS),
        "text": lambda: draw.choice(ODD_TEXTS),
        "list": lambda: draw.choice(([], [[]], [None], [1, "a"], list(range(1000)))),
        "dict": lambda: draw.choice(({}, {"": None}, {"a": {"b": []}})),
        "none": lambda: None,
        "bool": lambda: draw.choice((True, False)),
        "nan": lambda: draw.choice((float("nan"), float("inf"), -float("inf"))),
    }[kind]()


def damage_bytes(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Bytes of another length, order or value."""
    size = len(content)
    place = draw.randrange(size + 1)
    other = draw.randrange(size + 1)
    low, high = sorted((place, other))
    span = content[low : min(high, low + 4096)]

    def flip(limit: int, count: int) -> bytes:
        changed = bytearray(content)
        for _ in range(count if size else 0):
            changed[draw.randrange(min(size, limit))] ^= 1 << draw.randrange(8)
        return bytes(changed)

    huge = struct.pack(draw.choice("<>") + "q", draw.choice((-1, 2**31, 2**40, 2**62)))
    ways: dict[str, Callable[[], bytes]] = {
        "truncate": lambda: content[:place],
        "cut the end": lambda: content[: max(0, size - draw.choice((1, 4, 8, 40)))],
        "empty": lambda: b"",
        "flip a bit": lambda: flip(size or 1, 1),
        "flip bits": lambda: flip(size or 1, draw.choice((3, 20, 200))),
        "flip the head": lambda: flip(64, draw.choice((1, 4))),
        "splice": lambda: content[:other] + span + content[other + len(span) :],
        "insert": lambda: (
            content[:place] + draw.randbytes(draw.choice((1, 7, 64))) + content[place:]
        ),
        "cut out": lambda: content[:low] + content[high:],
        "append": lambda: content + draw.randbytes(draw.choice((1, 100, 10_000))),
        "twice": lambda: content + content,
        "zeros": lambda: bytes(size),
        "page": lambda: b"<!DOCTYPE html><html><body>404 not found</body></html>\n",
        "huge number": lambda: content[:place] + huge + content[place + 8 :],
        "noise": lambda: draw.randbytes(min(size, 10_000)),
    }
    way = draw.choice(list(ways))
    return ways[way](), way


def damage_json(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """JSON with a value of another type, size or depth, with a key less, or damaged as bytes."""
    try:
        value = json.loads(content)
    except ValueError:
        return damage_bytes(content, draw)
    way = draw.choice(("bytes", "swap", "swap", "swap", "swap", "drop", "drop", "deep", "whole"))
    if way == "bytes":
        return damage_bytes(content, draw)
    if way == "whole":
        odd = draw.choice(("[]", "{}", "null", "1", '"x"', "NaN", "", "[1, 2]", "{}{}", "1e999"))
        return odd.encode(), f"all of it is {odd!r}"
    places = list(_places(value))
    if not places:
        return b"{}", "all of it is '{}'"
    holder, key = draw.choice(places)
    if way == "drop":
        del holder[key]
        return json.dumps(value).encode(), f"without {key!r}"
    if way == "deep":
        holder[key] = "DEEP"
        text, (start, end) = json.dumps(value), draw.choice((("[", "]"), ('{"a":', "}")))
        nested = start * DEEP + ("1" if start != "[" else "") + end * DEEP
        return text.replace('"DEEP"', nested).encode(), f"{key!r} is {DEEP} levels deep"
    holder[key] = odd_value(draw)
    return json.dumps(value).encode(), f"{key!r} is {str(holder[key])[:40]!r}"


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) of a value of JSON; of long lists the first ten and the last."""
    keys: list[Any] = []
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = sorted({*range(min(10, len(value))), len(value) - 1}) if value else []
    found = [(value, key) for key in keys]
    for key in keys:
        found += _places(value[key])
    return found


def damage_text(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Text with lines lost, doubled, in another order or encoding, or with an odd number."""
    lines = content.splitlines(keepends=True) or [b""]
    place = draw.randrange(len(lines))

    def odd_number() -> bytes:
        found = list(re.finditer(rb"-?\d+(\.\d+)?", content))
        if not found:
            return content + str(draw.choice(ODD_NUMBERS)).encode()
        at = draw.choice(found)
        odd = draw.choice((*map(str, ODD_NUMBERS), "nan", "inf", "", "x", "1,5", "1e999", "٣"))
        return content[: at.start()] + odd.encode() + content[at.end() :]

    ways: dict[str, Callable[[], bytes]] = {
        "line lost": lambda: b"".join(lines[:place] + lines[place + 1 :]),
        "line twice": lambda: b"".join([*lines[: place + 1], lines[place], *lines[place + 1 :]]),
        "lines shuffled": lambda: b"".join(draw.sample(lines, len(lines))),
        "byte order mark": lambda: b"\xef\xbb\xbf" + content,
        "utf-16": lambda: content.decode("utf-8", "replace").encode("utf-16"),
        "latin-1": lambda: content + "Übung\n".encode("latin-1"),
        "NUL": lambda: content[: len(content) // 2] + b"\0" + content[len(content) // 2 :],
        "CRLF": lambda: content.replace(b"\n", b"\r\n"),
        "long line": lambda: content + b"y" * 5000,
        "odd number": odd_number,
        "odd text": lambda: b"".join(lines[:place]) + draw.choice(ODD_TEXTS).encode() + b"\n",
        "empty lines": lambda: content.replace(b"\n", b"\n\n"),
        "bytes": lambda: damage_bytes(content, draw)[0],
    }
    way = draw.choice(list(ways))
    return ways[way](), way


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


def png(width: int, height: int, grey: bytes | None = None) -> bytes:
    """A grey PNG that claims a size; its checksums are right whatever the rows are."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(width)) * height if grey is None else grey, 9)
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


def of_file(path: Path) -> Callable[[bytes, random.Random], tuple[bytes, str]]:
    """The function that damages files of this name."""
    by_suffix = {
        ".json": damage_json,
        ".npz": damage_zip,
        ".npy": damage_npy,
        ".parquet": damage_table,
        ".txt": damage_text,
        ".csv": damage_text,
        ".py": damage_text,
        ".jsonl": damage_text,
        ".html": damage_text,
        ".md": damage_text,
    }
    if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".ppm"):
        return damage_picture
    return by_suffix.get(path.suffix.lower(), damage_bytes)


def damage_file(path: Path, draw: random.Random) -> str:
    """Damages one file in place."""
    content, how = of_file(path)(path.read_bytes(), draw)
    path.unlink()  # it may be one file with another name elsewhere
    path.write_bytes(content)
    return f"{path.name}: {how}"


def damage_folder(folder: Path, draw: random.Random) -> str:
    """Damages one file below a folder, or what its place holds."""
    every = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    path = draw.choice(every)
    way = draw.choice(("content",) * 8 + ("gone", "folder", "dangling", "loop", "pipe", "renamed",
                      "swapped", "more", "folder gone", "locked"))  # fmt: skip
    where = path.relative_to(folder)
    if way == "content":
        return f"{where.parent}/{damage_file(path, draw)}"
    if way == "more":
        name = draw.choice(ODD_NAMES)
        with contextlib.suppress(OSError):
            (path.parent / name).write_bytes(draw.choice((b"", b"hello", png(4, 4))))
        return f"{where.parent} has {name!r}, too"
    if way == "swapped":
        other = draw.choice(every)
        one, two = path.read_bytes(), other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)
        return f"{where} and {other.relative_to(folder)} are swapped"
    if way == "folder gone":
        if path.parent == folder:
            path.unlink()
            return f"{where} is gone"
        shutil.rmtree(path.parent)
        return f"{where.parent} is gone"
    if way == "renamed":
        name = draw.choice(ODD_NAMES) + path.suffix
        with contextlib.suppress(OSError):
            path.rename(path.with_name(name[-250:]))
        return f"{where} is called {name!r}"
    if way == "locked":
        path.chmod(0)
        return f"{where} may not be read"
    path.unlink()
    if way == "folder":
        path.mkdir()
    elif way == "dangling":
        path.symlink_to("nowhere")
    elif way == "loop":
        path.symlink_to(path.name)
    elif way == "pipe":
        os.mkfifo(path)
    return f"{where}: {way}"
