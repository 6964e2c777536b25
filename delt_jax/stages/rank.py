"""Stage 2, rank: the teacher's probability of the true class of every training image."""

import time
from typing import Any

import numpy as np
from scipy.special import softmax

from delt_jax.core.progress import progress, say
from delt_jax.data import Source, batches
from delt_jax.evaluation import failed_training
from delt_jax.recipe import Recipe
from delt_jax.recovery import initial_images
from delt_jax.recovery import ranking as store
from delt_jax.recovery.selection import Ranking
from delt_jax.runtime import processes as hosts
from delt_jax.store.identity import versions
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import prediction
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher


def skipped(recipe: Recipe) -> str:
    """Why nothing is ranked, as a phrase; empty if the ranking is read."""
    if not recipe.data.has_training_images:
        return "there are no training images"
    start = recipe.select.start
    if recipe.synthesis == "learn":
        needed = "selected" in recipe.evaluate.images
        return "" if needed else "evaluate.images has no 'selected'"
    if initial_images.reads_training_images(start) or "selected" in recipe.evaluate.images:
        return ""
    return f"select.start {start!r} takes no training images, nor does evaluate.images 'selected'"


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """Inputs of the ranking."""
    teacher = workdir.needed("teacher/manifest.json", "squeeze")
    return {
        "data": source.fingerprint,
        "class_names": source.class_names,
        "teacher": teacher["hash"],
        **versions(teacher_lib.parts([teacher])),
    }


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/ranking.csv: batches of images go to all devices of all processes."""
    started = time.perf_counter()
    teacher = teacher_lib.load(workdir.path / "teacher")
    if hosts.is_first():
        teacher_lib.check_against(teacher, source, say)
    say(f"  asking the teacher about {len(source.train):,} training images")
    answers, probabilities = _asked(teacher, source)
    if not hosts.is_first():
        return
    labels = source.train.labels
    teacher_lib.check_classes(teacher, answers, labels)
    doubts = failed_training.of_probabilities(probabilities)
    store.write(
        workdir.path,
        Ranking(labels, probabilities),
        source.train.names,
        source.class_names,
        {
            "inputs": inputs(recipe, source, workdir),
            "warnings": doubts,
            "seconds": round(time.perf_counter() - started, 1),
        },
    )
    workdir.log.write("rank", len(labels), mean_probability=float(probabilities.mean()))
    say(f"  ranked {len(labels)} training images; mean p(true class) {probabilities.mean():.3f}")
    failed_training.told(doubts)


def _asked(teacher: Teacher, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's answers int32 [N], and its probabilities of the true classes float32 [N].

    Every process asks about its share of the batches, and has the answers to all.
    """
    labels = source.train.labels
    stacks = range(0, len(labels), prediction.BATCH)
    shares = [
        np.concatenate([np.arange(i, min(i + prediction.BATCH, len(labels))) for i in own])
        if own
        else np.zeros(0, int)
        for own in (hosts.share(stacks, process) for process in range(hosts.count()))
    ]
    mine = shares[hosts.index()]
    answers, probabilities = np.empty(len(mine), np.int32), np.empty(len(mine), np.float32)
    pixels = (images for _, images in batches(source.train, prediction.BATCH, mine))
    done = 0
    with progress(len(mine), "rank", "image") as bar:
        # Part by part: the logits of 1.28 million images would be 5 GB.
        for logits, _ in prediction.predictions(
            teacher.model, teacher.variables, teacher.normalisation, pixels
        ):
            now = slice(done, done + len(logits))
            answers[now] = logits.argmax(-1)
            rows = np.arange(len(logits))
            probabilities[now] = softmax(logits, axis=1)[rows, labels[mine[now]]]
            done = now.stop
            bar.update(len(logits))
    order = np.argsort(np.concatenate(shares))
    answers, probabilities = (np.concatenate(hosts.gather(a)) for a in (answers, probabilities))
    return answers[order], probabilities[order]
