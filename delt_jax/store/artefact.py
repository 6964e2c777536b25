"""Artefacts: what a stage made, with a manifest that can tell whether it is still whole.

A manifest says what an artefact was made from (`inputs`) and what it is (`hash` and more). Its
entry `files` has the size and SHA-256 of every file, by path relative to the manifest's folder, and
`checksum` the SHA-256 of the manifest's other entries as JSON with sorted keys. Manifests of older
versions have neither; nothing is then known about their files.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from delt_jax.core.random_numbers import RANDOM_NUMBERS
from delt_jax.errors import DamagedArtefact
from delt_jax.store import files
from delt_jax.store.schema import mismatch

_FILES, _CHECKSUM, _RANDOM = "files", "checksum", "random_numbers"
_TEXTS = [str]
_CONSTANTS = {"mean": [float], "std": [float]}
_ACCURACY = (float, type(None))  # null where there were no test images
TEACHER = {
    "hash": str,
    "spec": {"name": str, "num_classes": int, "image_size": int, "channels": int},
    "normalisation": _CONSTANTS,
    "class_names": _TEXTS,
    "accuracy": _ACCURACY,
    "others?": [{"folder": str, "hash": str, "accuracy": _ACCURACY}],
    "seconds?": float,
}
_SET = {"inputs": dict, "hash": str, "class_names": _TEXTS, "ipc": int, "storage": str}
_SET |= {"made?": {"date": str, "machine": str}}  # sets of older versions do not say
# What is known of a set that was recovered here; older versions and imported sets know less.
RECOVERED = {
    "start": (
        {"indices": [[int]]},
        {"patches": str, "mosaic": int},
        {"noise_seed": int},
        {"given": str},
        {"pictures": [str], "folder": str, "chosen": [[int]], "fit": str, "seed": int},
    ),
    "schedule": {"image_iterations": int, "fraction": float, "class_iterations": [int]},
    "settings": {
        "select": dict,
        "recover": {"iterations": int, "round_iterations": int, "batch_size": int, "layout": str},
    },
    "normalisation": _CONSTANTS,
    "cost_seconds": float,
}
LEARNED = {
    "synthesis": str,
    "preprocessing": dict,
    "image_size": int,
    "channels": int,
    "cost_seconds": float,
    "settings": {"learn": dict},
    "validation": [[float]],
    "kept": str,
}
_OF_A_RUN = {f"{name.removesuffix('?')}?": shape for name, shape in TEACHER.items()} | {
    "inputs": dict,
    "hash": str,
}
# By the name of the manifest, or of its folder.
_SHAPES: dict[str, Any] = {
    "teacher": _OF_A_RUN,
    "teachers": _OF_A_RUN,
    "ranking.json": {"inputs": {"teacher": str}, "hash": str, "class_names": _TEXTS},
    "distilled": (
        _SET | {f"{name}?": shape for name, shape in RECOVERED.items()} | {"imported?": type(None)},
        _SET | {"imported": dict, "image_size": int, "channels": int},
        _SET | LEARNED,
    ),
    "soft_labels": {
        "inputs": dict,
        "hash": str,
        "distilled": str,
        "class_names": _TEXTS,
        "bytes": int,
        "stored?": {"plan": dict, "sha256": _TEXTS, "bytes": int},
    },
    "evaluation": {
        "inputs": dict,
        "hash": str,
        "rows": [dict],
        "command": str,
        "protocols": _TEXTS,
        "class_names": _TEXTS,
        "scored_on": str,
        "seconds": float,
    },
    "report": {"inputs": dict},
}
_LISTED = {"bytes": int, "sha256": str}


def seal(path: Path, manifest: Mapping[str, Any], parts: Mapping[str, Path] | None = None) -> None:
    """Writes the manifest of an artefact, whose files are all written already.

    Args:
      path: of the manifest.
      manifest: without `files`, `checksum` and `random_numbers`.
      parts: files of the artefact by path relative to the manifest's folder, where they will be
        once it has its name; by default those `below` it.
    """
    parts = below(path.parent) if parts is None else parts
    content = files.as_json(unsealed(manifest)) | {_RANDOM: RANDOM_NUMBERS}
    content[_FILES] = {name: described(part) for name, part in sorted(parts.items())}
    files.write_json(path, with_checksum(content))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """`files.replacing_folder` for an artefact: files of others in its folder stay there.

    These are known where the manifest before lists the artefact's own.
    """
    with files.replacing_folder(path) as folder:
        yield folder
        with contextlib.suppress(FileNotFoundError, DamagedArtefact):
            before = read(path / "manifest.json")
            for name, file in below(path).items() if lists_files(before) else ():
                if name not in before[_FILES] and not (folder / name).exists():
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    files.link(file, folder / name)


def below(folder: Path) -> dict[str, Path]:
    """All files of a folder but its manifest, by their paths relative to it."""
    manifest = folder / "manifest.json"
    found = (p for p in folder.rglob("*") if p.is_file() and p != manifest)
    return {p.relative_to(folder).as_posix(): p for p in found}


def unsealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest without the entries that `seal` adds, which are true of one folder only."""
    return {name: v for name, v in manifest.items() if name not in (_FILES, _CHECKSUM, _RANDOM)}


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """An object for a JSON file with the checksum that `has_checksum` looks at."""
    return {**content, _CHECKSUM: checksum(content)}


def has_checksum(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object is the one that was written, as far as it has a checksum."""
    return _CHECKSUM not in content or content[_CHECKSUM] == checksum(content)


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object without its own checksum, whatever the order of its keys."""
    own = {name: value for name, value in content.items() if name != _CHECKSUM}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def read(path: Path, kind: str = "", stage: str = "") -> dict[str, Any]:
    """Reads a manifest and checks that it is one, and the one that was written.

    Args:
      path: of the manifest.
      kind: "teacher", "distilled", "soft_labels", "evaluation", "report" or "ranking.json", which
        says what it must have; any object if empty.
      stage: that writes it, for the sentence.

    Raises:
      FileNotFoundError: if there is none.
      DamagedArtefact: if it is none, or was changed.
    """
    content = read_unchecked(path, stage)
    wrong = mismatch(content, _SHAPES.get(kind, {})) or _wrong_seal(content)
    if wrong:
        raise DamagedArtefact(path, f"{path} is damaged ({wrong})", stage)
    return content


def read_unchecked(path: Path, stage: str = "") -> Any:
    """Reads any JSON; raises as `read` does."""
    try:
        return files.parse_json(path)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise FileNotFoundError(path) from e
    except (OSError, ValueError) as e:
        wrong = getattr(e, "strerror", None) or e
        raise DamagedArtefact(path, f"{path} is damaged ({wrong})", stage) from e


def check_seal(path: Path, manifest: dict[str, Any], stage: str = "") -> None:
    """Raises a DamagedArtefact if a manifest was changed since `seal` wrote it."""
    wrong = _wrong_seal(manifest)
    if wrong:
        raise DamagedArtefact(path, f"{path} is damaged ({wrong})", stage)


def _wrong_seal(content: dict[str, Any]) -> str:
    if not has_checksum(content):
        return "it was changed since it was written"
    listed = content.get(_FILES, {})
    wrong = mismatch(listed, dict, _FILES)
    for name, entry in () if wrong else listed.items():
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or "\0" in name or ".." in parts[1:]:
            return f"{_FILES} has the path {name!r}"
        wrong = wrong or mismatch(entry, _LISTED, name)
    return wrong


def damage(path: Path, manifest: Mapping[str, Any], contents: bool = False) -> str:
    """What is wrong with the first damaged file of an artefact, as a sentence; empty if none is.

    Args:
      path: of the manifest.
      manifest: its content.
      contents: whether files are read; otherwise only their sizes are looked at.
    """
    listed = manifest.get(_FILES, {})
    faults = (_fault(_place(path.parent, name), of, contents) for name, of in listed.items())
    return next(filter(None, faults), "")


def other_random_numbers(manifest: Mapping[str, Any]) -> str:
    """Says so if an artefact was made with other random numbers than runs have; else empty."""
    made_with = manifest.get(_RANDOM, RANDOM_NUMBERS)
    same = made_with == RANDOM_NUMBERS
    return "" if same else f"its random numbers were {made_with}, are {RANDOM_NUMBERS}"


def lists_files(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest says which files belong to it; those of older versions do not."""
    return _FILES in manifest


def check_file(folder: Path, name: str, manifest: Mapping[str, Any], stage: str = "") -> Path:
    """Path of a file of an artefact, whose content is that of the manifest as far as that is known.

    Args:
      folder: of the manifest.
      name: of the file, relative to the folder.
      manifest: of the artefact.
      stage: that makes the file, for the sentence.

    Raises:
      DamagedArtefact: if the file is missing or has other content.
    """
    path = _place(folder, name)
    if name in manifest.get(_FILES, {}):
        fault = _fault(path, manifest[_FILES][name], contents=True)
        if fault:
            raise DamagedArtefact(path, fault, stage)
    return path


def is_intact(folder: Path, name: str, manifest: Mapping[str, Any]) -> bool:
    """Whether a file is listed and has the content that was written."""
    entry = manifest.get(_FILES, {}).get(name)
    return entry is not None and not _fault(_place(folder, name), entry, contents=True)


def _place(folder: Path, name: str) -> Path:
    """A file beside a manifest or above it; `folder` may be a link, so ".." is no path of its."""
    return Path(os.path.normpath(folder / name))


def listed_files(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of the files that a manifest lists, by path relative to its folder."""
    return manifest.get(_FILES, {})


def described(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as manifests have them."""
    with files.disk_errors_as_user_errors(path):
        return {"bytes": path.stat().st_size, "sha256": files.file_checksum(path)}


def _fault(path: Path, entry: Mapping[str, Any], contents: bool) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return f"{path} is damaged (it is no file)"
        if status.st_size != entry["bytes"]:
            return f"{path} is damaged (it has {status.st_size:,} bytes, not {entry['bytes']:,})"
        if contents and files.file_checksum(path) != entry["sha256"]:
            return f"{path} is damaged (its content has changed)"
        if not os.access(path, os.R_OK):
            return f"{path} is damaged (it cannot be read: Permission denied)"
    except (FileNotFoundError, NotADirectoryError):
        return f"{path} is missing"
    except OSError as e:
        return f"{path} is damaged (it cannot be read: {e.strerror})"
    return ""
