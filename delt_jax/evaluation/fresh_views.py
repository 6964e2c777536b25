"""What teachers say of distilled images in crops that these were not optimised for."""

import csv
import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from delt_jax.augment import crop
from delt_jax.core import keys
from delt_jax.runtime.programs import Program
from delt_jax.teachers import prediction
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher

VIEWS = 8  # crops of each image
LEAST_AREA = 0.25  # of a crop, as a share of the image's
_MOST = 1000  # images that are looked at, which takes less than their recovery


class FreshViews(NamedTuple):
    """A network's answers to fresh views of some images of a set.

    Attributes:
      indices: int [M], of the images in the set, ascending.
      probability: float64 [M], of the image's class, mean over its views.
      right: float64 [M], share of the views whose most probable class is the image's.
    """

    indices: np.ndarray
    probability: np.ndarray
    right: np.ndarray


def look(teachers: Sequence[Teacher], pixels: np.ndarray, labels: np.ndarray) -> list[FreshViews]:
    """Shows the same random crops of a set to each of some networks.

    They are drawn by the image's index alone, so other runs see the same crops. Of more than 1000
    images as many are looked at, evenly spread.

    Args:
      teachers: networks of the set's classes and size.
      pixels: uint8 [N, S, S, C].
      labels: int [N], the classes.
    """
    if not teachers:
        return []
    chosen = np.unique(np.linspace(0, len(pixels) - 1, min(_MOST, len(pixels))).astype(np.int32))
    probability, right = np.zeros((2, len(teachers), len(chosen)))
    rows, classes = np.arange(len(chosen)), labels[chosen]
    for number in range(VIEWS):
        views = _views(pixels[chosen], chosen, number)
        for k, teacher in enumerate(teachers):
            logits = teacher_lib.logits_of(teacher, views)
            probability[k] += softmax(logits.astype(np.float64), axis=1)[rows, classes] / VIEWS
            right[k] += (logits.argmax(1) == classes) / VIEWS
    return [FreshViews(chosen, *each) for each in zip(probability, right, strict=True)]


def _views(pixels: np.ndarray, indices: np.ndarray, number: int) -> np.ndarray:
    """A crop of each image, uint8 [M, S, S, C]; in batches, the last of which goes round."""
    size = min(len(pixels), prediction.batch_size(pixels.shape[1]))
    cut, parts = _program(size, pixels.shape[1:]), []
    for start in range(0, len(pixels), size):
        batch = np.arange(start, start + size) % len(pixels)
        parts.append(np.asarray(cut(pixels[batch], indices[batch], np.int32(number))))
    return np.concatenate(parts)[: len(pixels)]


@functools.lru_cache(maxsize=4)
def _program(size: int, shape: tuple[int, ...]) -> Program:
    """Cuts view `number` out of a batch of images of a shape."""
    del size  # only tells programs apart

    def cut(pixels: chex.Array, indices: chex.Array, number: chex.Array) -> chex.Array:
        def view(i):
            return crop.random_view(keys.stream(0, "fresh", i, number), shape[0], LEAST_AREA, False)

        seen = crop.view_images(pixels.astype(jnp.float32), jax.vmap(view)(indices), shape[0])
        return jnp.clip(jnp.round(seen), 0, 255).astype(jnp.uint8)

    return Program(jax.jit(cut), quickly=True)


def described(networks: Mapping[str, Teacher], seen: Sequence[FreshViews]) -> dict[str, Any]:
    """What the report's summary says of the answers of networks, which it has by their names."""
    answers = [
        {
            "network": name,
            "hash": teacher.hash,
            "probability": float(each.probability.mean()),
            "right": float(each.right.mean()),
        }
        for (name, teacher), each in zip(networks.items(), seen, strict=True)
    ]
    images = len(seen[0].indices)
    return {"images": images, "views": VIEWS, "least_area": LEAST_AREA, "networks": answers}


def as_csv(names: Sequence[str], seen: Sequence[FreshViews], ipc: int) -> bytes:
    """A line for each image that was looked at, with two columns for each network.

    Args:
      names: of the networks.
      seen: what each of them says.
      ipc: images per class of the set.
    """
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    of_networks = [f"{what} of {name}" for name in names for what in ("probability", "right")]
    out.writerow(["class", "rank", *of_networks])
    for row, index in enumerate(seen[0].indices):
        values = [v for each in seen for v in (each.probability[row], each.right[row])]
        out.writerow([*divmod(int(index), ipc), *(f"{value:.6g}" for value in values)])
    return text.getvalue().encode()
