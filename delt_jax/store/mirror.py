"""A mirror: a copy of a work directory's finished files in an object store.

The store has no locks and no renames, so a run works on a disk and its mirror follows. There,
`mirror.json` lists what was put there, with sizes and checksums of what is known to be whole; a
copy that was killed goes on from it. Before any file of an artefact changes, the artefact's
manifest is deleted, and it comes back last: where there is a manifest, its artefact is whole. Files
of replaced artefacts are deleted before that, but only those that the mirror itself put there.
"""

import os
import secrets
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.store import artefact, files, foreign, remote
from delt_jax.store.schema import mismatch

RECORD = "mirror.json"
_FORMAT = "delt_jax mirror, version 1"
_LEFT_OUT = ("cache",)  # can be made again
_MANIFESTS = ("manifest.json", "ranking.json")
_MOST_BYTES = 2**30  # of a record
_AT_ONCE = 2000  # files that are copied between two records
_SHAPE = {"format": str, "mirror": str, "files": dict}

_Files = dict[str, dict[str, Any]]  # "bytes" and "sha256" of each file, by name


def check(folder: Path, url: str, left_out: Collection[str] = ()) -> None:
    """Checks that a place can be read, and is a work directory's own mirror or empty.

    Args:
      folder: the work directory, which may not exist yet.
      url: of its mirror.
      left_out: as in `copy`.

    Raises:
      UserError: naming the place.
    """
    there = _record(url)
    if there is None:
        if not remote.is_empty(url, left_out):
            raise UserError(
                f"--mirror {url} holds files that no mirror of delt_jax put there; choose an "
                f"empty place."
            )
    elif there["mirror"] != _own_name(folder):
        raise UserError(
            f"--mirror {url} is the mirror of another work directory than {folder}; choose an "
            f"empty place, or copy all of it into an empty {folder} to go on with that run."
        )


def copy(folder: Path, url: str, left_out: Collection[str] = ()) -> int:
    """Copies what has changed, and deletes what is gone.

    Args:
      folder: the work directory; only the process that holds its lock may call this.
      url: of its mirror.
      left_out: names right in the folder that have mirrors of their own, or none.

    Returns:
      Number of files copied.

    Raises:
      UserError: if the store cannot be reached, or the place has become another's.
    """
    check(folder, url, left_out)
    own = _own_name(folder) or secrets.token_hex(8)
    files.write_json(folder / RECORD, {"format": _FORMAT, "mirror": own})
    wanted = _finished(folder, left_out)
    before: _Files = (_record(url) or {}).get("files", {})
    listed = remote.files_below(url)
    as_written = {
        name: about
        for name, about in before.items()
        if about and name in listed and listed[name].size == about["bytes"]
    }
    changed = {name for name, about in wanted.items() if as_written.get(name) != about}
    stale = before.keys() - wanted.keys()
    if not changed and not stale and before:
        return 0
    begun = _manifests_of(folder, changed | stale)
    changed |= begun & wanted.keys()

    def record(whole: _Files) -> None:
        # Without size and checksum: there in part, or no longer; but the mirror's.
        unsure: _Files = {name: {} for name in (*changed, *stale, *begun)}
        content = {"format": _FORMAT, "mirror": own, "files": unsure | whole}
        remote.write_bytes(f"{url}/{RECORD}", files.as_bytes(content))

    there = {name: of for name, of in as_written.items() if name not in changed | stale}
    record(there)
    remote.delete([f"{url}/{name}" for name in sorted(begun & listed.keys())])
    last = {name for name in changed if _is_manifest(name)}
    for some in _batches(sorted(changed - last)):
        _upload(folder, url, some, wanted)
        there |= {name: wanted[name] for name in some}
        record(there)
    remote.delete([f"{url}/{name}" for name in sorted((stale - begun) & listed.keys())])
    stale, begun = set(), set()
    _upload(folder, url, sorted(last), wanted)
    record(wanted)
    return len(changed)


def _own_name(folder: Path) -> str:
    """What a work directory and its mirrors are known by; empty before the first copy."""
    try:
        return str(files.read_object(folder / RECORD).get("mirror", ""))
    except (OSError, ValueError):
        return ""


def _record(url: str) -> dict[str, Any] | None:
    """The record of a mirror; None where there is none.

    Raises:
      UserError: if something else has its name.
    """
    try:
        content = foreign.parse_json(remote.read_bytes(f"{url}/{RECORD}", _MOST_BYTES), _MOST_BYTES)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise UserError(f"--mirror {url}: its {RECORD} is damaged ({e}); empty the place.") from e
    if mismatch(content, _SHAPE) or content["format"] != _FORMAT:
        raise UserError(f"--mirror {url} has a {RECORD} that is no mirror's; choose another place.")
    return content


def _finished(folder: Path, left_out: Collection[str]) -> _Files:
    """All files of a work directory but temporary, unfinished and cached ones."""
    listed = _listed(folder)
    found: _Files = {}
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        inside = Path(parent)
        at_top = inside == folder
        seen.add(os.path.realpath(parent))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not name.endswith(".partial")
            and not (at_top and name in (*_LEFT_OUT, *left_out))
            and os.path.realpath(inside / name) not in seen
        ]
        for name in names:
            path = inside / name
            is_apart = at_top and name in (RECORD, *left_out)
            if name.startswith(".") or is_apart or not path.is_file():
                continue
            key = path.relative_to(folder).as_posix()
            about = listed.get(key)
            is_as_listed = about and about["bytes"] == path.stat().st_size
            found[key] = about if about and is_as_listed else artefact.described(path)
    return found


def _listed(folder: Path) -> _Files:
    """Files that the manifests of finished artefacts list, which need not be read again."""
    return {
        name: {"bytes": about["bytes"], "sha256": about["sha256"]}
        for path in _manifests(folder)
        for name, about in _of_manifest(folder, path).items()
    }


def _manifests(folder: Path) -> list[Path]:
    places = ("*", "*/manifest.json", "teachers/*/manifest.json")
    return [p for place in places for p in folder.glob(place) if p.name in _MANIFESTS]


def _of_manifest(folder: Path, path: Path) -> _Files:
    """Files that a manifest lists, by their names below the work directory."""
    try:
        held = artefact.listed_files(artefact.read(path))
    except (FileNotFoundError, DamagedArtefact):
        return {}
    inner = path.parent.relative_to(folder)
    return {Path(os.path.normpath(inner / name)).as_posix(): about for name, about in held.items()}


def _manifests_of(folder: Path, names: Collection[str]) -> set[str]:
    """Manifests of the artefacts that files belong to, those of files that are gone included."""
    owners = {
        name: path.relative_to(folder).as_posix()
        for path in _manifests(folder)
        for name in _of_manifest(folder, path)
    }
    found = set()
    for name in names:
        parts = name.split("/")
        depth = 2 if parts[0] == "teachers" else 1
        by_place = "/".join([*parts[:depth], "manifest.json"]) if len(parts) > depth else ""
        found.add(owners.get(name, by_place))
    return {name for name in found if name}


def _is_manifest(name: str) -> bool:
    return name.rpartition("/")[2] in _MANIFESTS


def _batches(names: list[str]) -> Iterable[list[str]]:
    return (names[i : i + _AT_ONCE] for i in range(0, len(names), _AT_ONCE))


def _upload(folder: Path, url: str, names: Collection[str], wanted: _Files) -> None:
    paths = {f"{url}/{name}": folder / name for name in names}
    sizes = {f"{url}/{name}": wanted[name]["bytes"] for name in names}
    if sizes:
        remote.upload(sizes, paths.__getitem__, f"copy to {url}")
