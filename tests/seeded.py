"""Weights made by the recipe of golden/README.md, so that no weight files are needed."""

import json
from pathlib import Path

import numpy as np


def seeded_state(listing: Path, seed: int) -> dict[str, np.ndarray]:
    """torch's state dict for a list of [position, name, shape], drawn from `seed`."""
    entries = json.loads(listing.read_text())
    return {name: _draw(name, tuple(shape), seed, i) for i, name, shape in entries}


def _draw(name: str, shape: tuple[int, ...], seed: int, position: int) -> np.ndarray:
    r = np.random.default_rng([seed, position])
    leaf = name.rpartition(".")[2]
    if leaf == "running_var":
        drawn = 0.5 + r.random(shape)
    elif leaf == "running_mean" or leaf == "bias" or (len(shape) < 2 and leaf != "weight"):
        drawn = 0.1 * r.standard_normal(shape)
    elif len(shape) == 1:
        drawn = 0.75 + 0.5 * r.random(shape)
    else:
        drawn = r.standard_normal(shape) * np.sqrt(1 / np.prod(shape[1:]))
    return np.asarray(drawn, np.float32)
