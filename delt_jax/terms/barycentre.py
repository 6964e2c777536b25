"""Feature matching to the Wasserstein barycentre of each class (WMDD, arXiv 2311.18531)."""

import os
from pathlib import Path

import chex
import jax
import numpy as np

from delt_jax.core import keys
from delt_jax.core import losses as objective
from delt_jax.core.progress import progress
from delt_jax.data import Source, batches
from delt_jax.recipe import Recipe
from delt_jax.store import files
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher
from delt_jax.terms import TeacherOutputs, Term


def barycentre(features: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Points that stand for many features: their free-support Wasserstein-2 barycentre.

    All features have one mass, and all points have another: every point is the mean of an equal
    share of the features, found by optimal transport and averaging in turn (Cuturi & Doucet,
    2014), at most 100 times.

    Args:
      features: float [N, D].
      start: float [K, D], where the points begin.

    Returns:
      float64 [K, D], each point in the place where it began.
    """
    # POT looks at every array library that is installed, which takes seconds; numpy is enough.
    for library in ("PYTORCH", "TENSORFLOW", "JAX", "CUPY"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{library}", "1")
    from ot.lp import free_support_barycenter

    masses = np.full(len(features), 1 / len(features))
    return free_support_barycenter(
        [np.asarray(features, np.float64)], [masses], np.asarray(start, np.float64)
    )


def prepare(teacher: Teacher, source: Source, recipe: Recipe, cache: Path) -> chex.Array:
    """Points of every class among the teacher's features of its training images.

    The training set is read once, and one class's features are in memory at a time. The points
    begin at N(0, 1), drawn from the seed and the class.

    Args:
      teacher: the teacher.
      source: of the real images.
      recipe: of the run.
      cache: folder where the points are kept.

    Returns:
      float32 [classes, ipc, D].
    """
    made_of = (teacher.hash, source.fingerprint, str(recipe.ipc), str(recipe.seed))
    path = cache / f"barycentre-{'-'.join(made_of)}.npz"
    return files.cached_npz(path, lambda: {"points": _found(teacher, source, recipe)})["points"]


def _found(teacher: Teacher, source: Source, recipe: Recipe) -> np.ndarray:
    points: list[np.ndarray] = []  # of the classes so far
    labels = source.train.labels
    counts = np.bincount(labels, minlength=len(source.class_names))
    waiting = np.zeros((0, 0), np.float32)
    class_by_class = np.argsort(labels, kind="stable")
    with progress(len(labels), "barycentres", "image") as bar:
        for indices, pixels in batches(source.train, teacher_lib.BATCH, class_by_class):
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
    """Frobenius norm of what the images' features lack to the points of their class and rank.

    As released: plain, neither squared nor averaged (the paper sums squares).
    """
    chex.assert_rank([seen.features, points], [2, 3])
    return objective.distance(seen.features, points[seen.labels, seen.ranks]), term_state


TERM = Term(value, prepare)
