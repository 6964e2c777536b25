"""Feature matching to the Wasserstein barycentre of each class (WMDD, arXiv 2311.18531)."""

import importlib.util
import os
from pathlib import Path

import chex
import jax
import numpy as np

from delt_jax.core import keys
from delt_jax.core import losses as losses_lib
from delt_jax.core.progress import progress
from delt_jax.data import Source, batches
from delt_jax.errors import UserError
from delt_jax.recipe import Recipe
from delt_jax.store import files
from delt_jax.teachers import prediction
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher
from delt_jax.terms import TeacherOutputs, Term


def check() -> None:
    """Raises a UserError unless POT is installed, which an extra brings."""
    if importlib.util.find_spec("ot") is None:
        raise UserError("The term barycentre needs POT: pip install 'delt_jax[wmdd]'.")


def barycentre(features: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Free-support Wasserstein-2 barycentre: K points that stand for N features.

    The features weigh 1/N each and the points 1/K each, so every point is the mean of an equal
    share of the features. Found by alternating optimal transport and averaging (Cuturi & Doucet,
    2014), at most 100 times.

    Args:
      features: float [N, D].
      start: float [K, D], initial points.

    Returns:
      float64 [K, D], in the order of the initial points.
    """
    # POT imports every array library that is installed, which takes seconds; numpy is enough.
    for library in ("PYTORCH", "TENSORFLOW", "JAX", "CUPY"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{library}", "1")
    from ot.lp import free_support_barycenter

    masses = np.full(len(features), 1 / len(features))
    return free_support_barycenter(
        [np.asarray(features, np.float64)], [masses], np.asarray(start, np.float64)
    )


def prepare(teacher: Teacher, source: Source, recipe: Recipe, cache: Path) -> chex.Array:
    """Barycentre of the teacher's features of the training images, class by class.

    The training set is read once, with the features of about one class in memory at a time. The
    initial points are N(0, 1), drawn from the seed and the class.

    Args:
      teacher: computes the features.
      source: of the real images.
      recipe: of the run; its seed and ipc count.
      cache: folder that the points are stored in.

    Returns:
      float32 [classes, ipc, D].
    """
    inputs = (teacher.hash, source.fingerprint, str(recipe.ipc), str(recipe.seed))
    path = cache / f"barycentre-{'-'.join(inputs)}.npz"
    return files.cached_npz(path, lambda: {"points": _find(teacher, source, recipe)})["points"]


def _find(teacher: Teacher, source: Source, recipe: Recipe) -> np.ndarray:
    points: list[np.ndarray] = []  # [ipc, D] of the classes so far
    labels = source.train.labels
    counts = np.bincount(labels, minlength=len(source.class_names))
    waiting = np.zeros((0, 0), np.float32)  # [n, D] of classes not all of which is read
    class_by_class = np.argsort(labels, kind="stable")
    with progress(len(labels), "barycentres", "image") as bar:
        for indices, pixels in batches(source.train, prediction.BATCH, class_by_class):
            features = teacher_lib.features_of(teacher, pixels)
            waiting = np.concatenate([waiting, features]) if len(waiting) else features
            while len(points) < len(counts) and len(waiting) >= counts[len(points)]:
                c = len(points)
                shape = (recipe.ipc, features.shape[1])
                start = jax.random.normal(keys.stream(recipe.seed, "barycentre", c), shape)
                points.append(barycentre(waiting[: counts[c]], np.asarray(start)))
                waiting = waiting[counts[c] :]
            bar.update(len(indices))
    return np.stack(points).astype(np.float32)


def value(seen: TeacherOutputs, points: chex.Array, term_state: tuple) -> tuple[chex.Array, tuple]:
    """||features - points||, each image with the point of its class and rank.

    A plain Frobenius norm, neither squared nor averaged, as released (the paper sums squares).
    """
    chex.assert_rank([seen.features, points], [2, 3])
    return losses_lib.distance(seen.features, points[seen.labels, seen.ranks]), term_state


TERM = Term(value, prepare, reads_images=True, check=check)
