"""Coresets: real images that the teacher's features choose, as many as there are synthetic ones."""

import warnings
from collections.abc import Callable

import numpy as np

from delt_jax.recovery.selection import check_class_sizes, in_turn

VERSION = 1  # part of identities; raise it when results change

_STARTS = 4  # k-means++ starts per class; the one with the tightest clusters counts


def herding(features: np.ndarray, labels: np.ndarray, ipc: int, num_classes: int) -> np.ndarray:
    """Greedy herding (Welling; iCaRL, arXiv 1611.07725).

    Each choice brings the mean of the features chosen so far as near as possible to the mean of
    the whole class; no image is chosen twice, and of equally good ones the first is.

    Args:
      features: float [N, D].
      labels: int [N].
      ipc: images per class.
      num_classes: C.

    Returns:
      int [C, ipc], indices into the N images in the order in which they were chosen, so the first
      k of a class are its herding of k. A class with fewer images has them in turn.

    Raises:
      UserError: if a class has no images.
    """
    return _per_class(_herd, features, labels, ipc, num_classes)


def kmeans(features: np.ndarray, labels: np.ndarray, ipc: int, num_classes: int) -> np.ndarray:
    """The images nearest to the centres of k-means with `ipc` clusters per class.

    The largest cluster comes first. A centre whose nearest image is taken gets the next nearest.
    Where copies leave fewer distinct images than `ipc`, there are fewer clusters, and each gives a
    second image. The starts are seeded, so the same features give the same images.

    Arguments, result and errors are those of `herding`, but the first k images of a class are not
    its k-means of k.
    """
    return _per_class(_cluster, features, labels, ipc, num_classes)


def _per_class(
    choose: Callable[[np.ndarray, int], np.ndarray],
    features: np.ndarray,
    labels: np.ndarray,
    ipc: int,
    num_classes: int,
) -> np.ndarray:
    check_class_sizes(labels, 1, tuple(str(c) for c in range(num_classes)))
    chosen = []
    for c in range(num_classes):
        members = np.flatnonzero(labels == c)
        count = min(ipc, len(members))
        found = choose(features[members].astype(np.float64), count)
        chosen.append(in_turn(members[found], ipc))
    return np.stack(chosen)


def _herd(features: np.ndarray, ipc: int) -> np.ndarray:
    """Indices of the chosen rows of `features` float64 [n, D], int [ipc]."""
    mean, total = features.mean(axis=0), np.zeros(features.shape[1])
    squares = (features**2).sum(axis=1)
    free = np.ones(len(features), bool)
    chosen = []
    for count in range(1, ipc + 1):
        # |count x mean - total - f|^2, without the terms that are the same for all f.
        distances = squares - 2 * features @ (count * mean - total)
        place = int(np.where(free, distances, np.inf).argmin())
        free[place] = False
        total += features[place]
        chosen.append(place)
    return np.array(chosen)


def _cluster(features: np.ndarray, ipc: int) -> np.ndarray:
    """As `_herd`, by k-means."""
    # They take long to import.
    from scipy.spatial.distance import cdist
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct images than clusters
        fitted = KMeans(n_clusters=ipc, n_init=_STARTS, random_state=0).fit(features)
    sizes = np.bincount(fitted.labels_, minlength=ipc)
    centres = fitted.cluster_centers_[np.argsort(-sizes, kind="stable")][: (sizes > 0).sum()]
    distances = cdist(centres, features)
    chosen = []
    for i in range(ipc):
        place = int(distances[i % len(centres)].argmin())
        distances[:, place] = np.inf
        chosen.append(place)
    return np.array(chosen)
