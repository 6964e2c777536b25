"""Coresets: real images chosen by the teacher's features, baselines of equal budget."""

import warnings
from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import cdist

from delt_jax.recovery.selection import check_class_sizes

_STARTS = 4  # k-means runs per class, from k-means++ starts; the tightest counts


def herding(features: np.ndarray, labels: np.ndarray, ipc: int, classes: int) -> np.ndarray:
    """Greedy herding (Welling; iCaRL, arXiv 1611.07725).

    Each choice brings the mean of the features chosen so far as near as possible to the mean of
    the whole class; no image is chosen twice, and of equally good ones the first is.

    Args:
      features: float [N, D].
      labels: int [N].
      ipc: images per class.
      classes: C.

    Returns:
      int [C, ipc], indices into the N images in the order in which they were chosen, so the first
      k of a class are its herding of k.

    Raises:
      UserError: if a class has fewer than `ipc` images.
    """
    return _per_class(_herd, features, labels, ipc, classes)


def kmeans(features: np.ndarray, labels: np.ndarray, ipc: int, classes: int) -> np.ndarray:
    """The images nearest to the centres of k-means with `ipc` clusters per class.

    Largest clusters first. A centre whose nearest image is taken gets the next nearest; where
    copies leave fewer distinct images than `ipc`, the centres are gone through again. The starts
    are seeded, so the same features give the same images.

    Args, returns and raises as `herding`, but the first k are not the k-means of k.
    """
    return _per_class(_cluster, features, labels, ipc, classes)


def _per_class(
    choose: Callable[[np.ndarray, int], np.ndarray],
    features: np.ndarray,
    labels: np.ndarray,
    ipc: int,
    classes: int,
) -> np.ndarray:
    check_class_sizes(labels, ipc, tuple(str(c) for c in range(classes)))
    chosen = []
    for c in range(classes):
        members = np.flatnonzero(labels == c)
        chosen.append(members[choose(features[members].astype(np.float64), ipc)])
    return np.stack(chosen)


def _herd(features: np.ndarray, ipc: int) -> np.ndarray:
    """Places of the chosen rows of float64 [n, D], int [ipc]."""
    mean, total = features.mean(axis=0), np.zeros(features.shape[1])
    squares = (features**2).sum(axis=1)
    free = np.ones(len(features), bool)
    chosen = []
    for count in range(1, ipc + 1):
        # |count x mean - total - f|^2 without what all f share.
        distances = squares - 2 * features @ (count * mean - total)
        place = int(np.where(free, distances, np.inf).argmin())
        free[place] = False
        total += features[place]
        chosen.append(place)
    return np.array(chosen)


def _cluster(features: np.ndarray, ipc: int) -> np.ndarray:
    """As `_herd`."""
    # scikit-learn takes seconds to import.
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
