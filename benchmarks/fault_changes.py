"""Damage of files and folders, seeded, by what their names say they hold."""

import contextlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from fault_bytes import damage_bytes, damage_json, damage_text
from fault_formats import damage_npy, damage_picture, damage_table, damage_zip, png

ODD_NAMES = ("-rf", "a" * 250, "new\nline", " ", ".hidden", "ü💥", "x.png.txt", "~", "a:b,c", "nul")


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
