"""Identities of a run's inputs: hashes of plain values under fixed names.

An identity must survive every renaming in the code, so it hashes dictionaries that are written out
key by key, never the `repr` or the fields of a class.

The named parts of a run (terms, starts, protocols, models, augmentations) carry a version. Raise
it when the results of a part change; a run then redoes what it made with the older version.
Version 1 adds nothing to an identity.
"""

import json
from collections.abc import Mapping
from typing import Any

from delt_jax.store import files


def identity(content: Any) -> str:
    """Hash of a JSON value, 16 hexadecimal digits; the order of keys does not matter.

    Args:
      content: dictionaries, lists, tuples, strings, numbers, booleans and None.

    Raises:
      TypeError: for anything else, such as an instance of a dataclass or a numpy scalar.
    """
    return files.content_hash(json.dumps(content, sort_keys=True).encode())


def versions(parts: Mapping[str, int]) -> dict[str, int]:
    """Entries that parts add to an identity, by their versions; none for version 1.

    >>> versions({"term.barycentre": 1, "model.conv3": 2})
    {'version of model.conv3': 2}
    """
    return {f"version of {name}": version for name, version in parts.items() if version > 1}
