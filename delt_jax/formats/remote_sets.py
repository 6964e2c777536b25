"""Sets in object stores: copied here to be read, and written here before they are copied there."""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from delt_jax.core import stopping
from delt_jax.errors import UserError
from delt_jax.formats import ownership
from delt_jax.formats.stored import SIDECAR
from delt_jax.labels import soft_labels
from delt_jax.store import foreign, local_copies, remote
from delt_jax.store.remote import Listed

_SET, _MANIFEST = "distilled", "manifest.json"
_LABELS = tuple(f"{soft_labels.FOLDER}/{n}" for n in (soft_labels.MANIFEST, soft_labels.LOGITS))
_LAST = (SIDECAR, _MANIFEST)  # say that a set is whole
_CONFIG_BYTES = 16 * 2**20


def local_set(path: str | Path) -> Path:
    """Path of a set, copied here if it is a URL; of a work directory only the set is.

    Raises:
      UserError: if there is nothing, or the store cannot be reached.
    """
    text = remote.checked(str(path), "The path")
    return (
        local_copies.local(text, partial(_of_a_set, text)) if remote.is_remote(text) else Path(text)
    )


def _of_a_set(url: str, found: Mapping[str, Listed]) -> dict[str, Listed]:
    """The files of a set below a URL, and the soft labels that our own layout has beside it."""
    if f"{_SET}/{_MANIFEST}" in found:
        return {n: f for n, f in found.items() if n.startswith(f"{_SET}/") or n in _LABELS}
    if _MANIFEST not in found:
        return dict(found)
    above = url.rpartition("/")[0]
    beside = {f"../{name}": remote.file_at(f"{above}/{name}") for name in _LABELS}
    labels = {name: file for name, file in beside.items() if file is not None}
    return {**found, **(labels if len(labels) == len(_LABELS) else {})}


def check_place(source: Path, out: Path, layout: str) -> None:
    """`ownership.check_place`, also for an export to a store.

    Raises:
      UserError: if it is, holds or lies in what is read, or belongs to a run's stages.
    """
    if not remote.is_remote(out):
        ownership.check_place(local_set(source), out, layout)
        return
    read, target = f"{source}/", f"{out}/"
    if read.startswith(target) or target.startswith(read):
        raise UserError(f"{out} is, holds or lies within what is read; choose another --out.")
    parts = str(out).split("/")
    for depth in range(3, len(parts)):
        folder, name = "/".join(parts[:depth]), parts[depth]
        if name in ownership.STAGES and _is_workdir(folder):
            raise UserError(
                f"{out} belongs to the run that {folder} mirrors, whose stages write {name}; "
                f"choose another --out."
            )


def _is_workdir(url: str) -> bool:
    try:
        config = foreign.parse_json(remote.read_bytes(f"{url}/config.json", _CONFIG_BYTES))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and ownership.is_a_workdirs(config)


@contextlib.contextmanager
def standing_in(out: Path) -> Iterator[Path]:
    """A local copy of what is at a place, which may be nothing; sentences about it name the place.

    A local path is yielded as it is.
    """
    if not remote.is_remote(out):
        yield out
        return
    url = str(out)
    there = remote.file_at(url) is not None or remote.is_folder(url)
    here = local_copies.local(url, dict) if there else local_copies.folder() / "nothing" / out.name
    try:
        yield here
    except UserError as e:
        raise UserError(str(e).replace(str(here), url)) from e


@contextlib.contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Yields a path to write to, and copies what is there to the store if nothing is raised.

    What says that a set is whole goes first and comes last, so that it never belongs to other
    files. Files of an earlier export that the new one lacks are deleted.
    """
    url = str(out)
    with tempfile.TemporaryDirectory(prefix="delt_jax-") as temporary:
        here = Path(temporary) / out.name
        yield here
        with stopping.deferred():  # until the set there is whole
            _copy(here, url)


def _copy(here: Path, url: str) -> None:
    before = {} if here.is_file() else remote.files_below(url)
    remote.delete([f"{url}/{name}" for name in _LAST if name in before])
    inside = [here] if here.is_file() else [path for path in here.rglob("*") if path.is_file()]
    paths = {path.relative_to(here).as_posix(): path for path in inside}
    last = {name for name in paths if name in _LAST}

    def upload(names: Iterable[str]) -> None:
        at = {url if paths[n] == here else f"{url}/{n}": paths[n] for n in names}
        sizes = {place: path.stat().st_size for place, path in at.items()}
        remote.upload(sizes, at.__getitem__, f"copy to {url}")

    upload(paths.keys() - last)
    remote.delete([f"{url}/{name}" for name in before.keys() - paths.keys() - set(_LAST)])
    upload(last)
