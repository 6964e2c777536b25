"""Damage of bytes, text and JSON, seeded.

Every function takes a `random.Random` and returns the damaged content and a word on what it did.
"""

import json
import random
import re
import struct
from collections.abc import Callable
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
