"""A TFDS data set in an object store: the version that is read is copied here."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tensorflow_datasets.core import naming

from delt_jax.errors import UserError
from delt_jax.store.local_copies import local
from delt_jax.store.remote import Listed

_INFO = "dataset_info.json"


def local_directory(data_dir: str, dataset: str) -> Path:
    """A data directory on this machine that holds the data set, without its other versions.

    Args:
      data_dir: a TFDS data directory, here or in an object store.
      dataset: name, name/config or name:1.0.0, as `data.dataset` has it.

    Raises:
      UserError: if the data set is not there, or several of its configurations are.
    """
    return local(data_dir, partial(_of_one, data_dir, dataset))


def _of_one(data_dir: str, dataset: str, found: Mapping[str, Listed]) -> dict[str, Listed]:
    """The files of the newest version that is meant, by their paths below the data directory."""
    named, _, version = dataset.partition(":")
    name, _, config = named.partition("/")
    folder = naming.camelcase_to_snakecase(name)
    prepared = [path.split("/")[1:-1] for path in found if path.startswith(f"{folder}/")]
    prepared = [
        parts for parts in prepared if parts and f"{folder}/{'/'.join(parts)}/{_INFO}" in found
    ]
    wanted = [parts for parts in prepared if _is_meant(parts, config, version)]
    if not wanted:
        raise UserError(
            f"{data_dir} has no prepared data set {dataset!r} ({folder}/.../{_INFO}); set "
            f"data.path to the TFDS data directory that holds it."
        )
    configs = sorted({"/".join(parts[:-1]) for parts in wanted})
    if len(configs) > 1:
        raise UserError(
            f"{data_dir} has several configurations of {folder}: {', '.join(configs)}; name one, "
            f"as in data.dataset {folder}/{configs[0]}."
        )
    newest = max(wanted, key=lambda parts: _numbers(parts[-1]))
    kept = f"{folder}/{'/'.join(newest)}/"
    return {path: entry for path, entry in found.items() if path.startswith(kept)}


def _is_meant(parts: list[str], config: str, version: str) -> bool:
    numbers = zip(version.split("."), parts[-1].split("."), strict=False) if version else ()
    return (not config or parts[:-1] == [config]) and all(w in ("*", n) for w, n in numbers)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else -1 for part in version.split("."))
