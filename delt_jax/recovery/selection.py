"""Selects the real images that synthetic ones start from (DELT, arXiv 2411.19946)."""

from dataclasses import dataclass

import numpy as np

from delt_jax.core import plugins
from delt_jax.errors import UserError

RULES = ("medium", "top", "min", "random")
_REMEDY = (
    "lower ipc, add images, or set select.small_classes to 'repeat' to take them more than once"
)


@dataclass(frozen=True)
class Ranking:
    """What the teacher says of every training image.

    Attributes:
      labels: int32 [N].
      probabilities: float32 [N], the teacher's probability of the true class.
    """

    labels: np.ndarray
    probabilities: np.ndarray


def order(probabilities: np.ndarray, rule: str, draw: np.random.Generator) -> np.ndarray:
    """Ranks the images of one class, best start first; ties keep their order.

    Rules: "top" and "min" by descending and ascending probability; "medium" from the median
    outwards, ceil(n/2), +1, -1, +2, ... of the ascending order; "random"; or a plug-in, a function
    ``(probabilities, draw) -> order``.

    Args:
      probabilities: float [n].
      rule: as above.
      draw: generator of the random rule.

    Returns:
      int [n], a permutation.
    """
    if rule not in RULES:
        return _plugged(probabilities, rule, draw)
    if rule == "random":
        return draw.permutation(len(probabilities))
    if rule == "top":
        return np.argsort(-probabilities, kind="stable")
    ascending = np.argsort(probabilities, kind="stable")
    if rule == "min":
        return ascending
    n = len(ascending)
    middle = (n + 1) // 2  # ceil(n / 2), as a 0-based index
    offsets = [0] + [sign * k for k in range(1, n + 1) for sign in (1, -1)]
    return ascending[[middle + o for o in offsets if 0 <= middle + o < n]]


def _plugged(probabilities: np.ndarray, rule: str, draw: np.random.Generator) -> np.ndarray:
    """The order that a plug-in gives.

    Raises:
      UserError: if it is no permutation.
    """
    group = plugins.RULES
    ordered = np.asarray(
        plugins.call(group, rule, plugins.find(group, rule, {}), probabilities, draw)
    )
    if not np.array_equal(np.sort(ordered.reshape(-1)), np.arange(len(probabilities))):
        raise UserError(
            f"The selection rule {rule!r} must return a permutation of the {len(probabilities)} "
            f"images of a class, int [n]; it returned {ordered.dtype} {list(ordered.shape)}."
        )
    return ordered


def parts(rule: str) -> dict[str, int]:
    """Version of a rule by the name of the part; {} for our own, which belong to the start."""
    return {} if rule in RULES else {f"rule.{rule}": plugins.version(plugins.RULES, rule)}


def select(ranking: Ranking, rule: str, ipc: int, num_classes: int, seed: int) -> np.ndarray:
    """Selects `ipc` training images per class by a rule of `order`.

    Returns:
      int [num_classes, ipc], indices of training images, best start first. A class with fewer
      images has them in turn.

    Raises:
      UserError: if a class has no images.
    """
    check_class_sizes(ranking.labels, 1, tuple(str(c) for c in range(num_classes)))
    draw = np.random.default_rng([seed, 0x5E1EC7])
    chosen = []
    for c in range(num_classes):
        members = np.flatnonzero(ranking.labels == c)
        chosen.append(in_turn(members[order(ranking.probabilities[members], rule, draw)], ipc))
    return np.stack(chosen)


def random_images(labels: np.ndarray, ipc: int, num_classes: int, seed: int) -> np.ndarray:
    """Draws `ipc` images per class uniformly, of small classes all in turn.

    Returns:
      int [num_classes, ipc], indices of images.
    """
    draw = np.random.default_rng([seed, 0xBA5E])

    def drawn(members: np.ndarray) -> np.ndarray:
        return in_turn(draw.choice(members, min(ipc, len(members)), replace=False), ipc)

    return np.stack([drawn(np.flatnonzero(labels == c)) for c in range(num_classes)])


def in_turn(members: np.ndarray, count: int) -> np.ndarray:
    """The first `count` of some indices, which begin again where they are fewer."""
    return members[np.arange(count) % len(members)]


def repeats(chosen: np.ndarray, label: int, rank: int) -> bool:
    """Whether an earlier image of the class is the same.

    Args:
      chosen: int [classes, ipc], indices of images.
      label, rank: place in it.
    """
    return bool((chosen[label, :rank] == chosen[label, rank]).any())


def check_class_sizes(labels: np.ndarray, ipc: int, class_names: tuple[str, ...]) -> None:
    """Raises a UserError naming the smallest class if it has fewer than `ipc` images."""
    counts = np.bincount(labels, minlength=len(class_names))
    smallest = int(counts.argmin())
    if counts[smallest] < ipc:
        raise UserError(
            f"ipc is {ipc}, but class {class_names[smallest]!r} has only {counts[smallest]} "
            f"training images; {_REMEDY if counts[smallest] else 'add some'}."
        )
