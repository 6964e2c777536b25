"""Identities of a run's inputs: hashes of plain values under fixed names.

An identity must survive every renaming in the code, so it hashes dictionaries that are written out
key by key, never the `repr` or the fields of a class.

The named parts of a run (terms, starts, protocols, models, augmentations, steps) carry a version.
Raise it when the results of a part change; a run then redoes what it made with the older version.
Version 1 adds nothing to an identity, nor does a source that is as released.
"""

import json
from collections.abc import Mapping
from typing import Any

from delt_jax.store import files, part_sources


def identity(content: Any) -> str:
    """Hash of a JSON value, 16 hexadecimal digits; the order of keys does not matter.

    Args:
      content: dictionaries, lists, tuples, strings, numbers, booleans and None.

    Raises:
      TypeError: for anything else, such as an instance of a dataclass or a numpy scalar.
    """
    return files.content_hash(json.dumps(content, sort_keys=True).encode())


def versions(parts: Mapping[str, int]) -> dict[str, int | str]:
    """Entries that parts add to an identity: versions above 1, and sources that have changed.

    A source counts if it is not the one that was released (see `delt_jax.store.part_sources`).

    >>> versions({"term.barycentre": 1, "model.conv3": 2})
    {'version of model.conv3': 2}
    """
    raised = {f"version of {name}": version for name, version in parts.items() if version > 1}
    sources = part_sources.changed(parts)
    return raised | {f"source of {name}": source for name, source in sources.items()}
