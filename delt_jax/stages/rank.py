"""Stage 2, rank: the teacher's probability of the true class of every training image."""

import time
from typing import Any

import numpy as np
from scipy.special import softmax

from delt_jax.core.progress import progress, say
from delt_jax.data import Source, batches
from delt_jax.evaluation import failed_training
from delt_jax.recipe import Recipe
from delt_jax.recovery import ranking as store
from delt_jax.recovery.selection import Ranking
from delt_jax.store.identity import versions
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import teacher as teacher_lib


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
    """Makes WORKDIR/ranking.csv."""
    started = time.perf_counter()
    teacher = teacher_lib.load(workdir.path / "teacher")
    teacher_lib.check_against(teacher, source, say)

    labels = source.train.labels
    answers, probabilities = np.empty_like(labels), np.empty(len(labels), np.float32)
    with progress(len(labels), "rank", "image") as bar:
        # Batch by batch: the logits of 1.28 million images would be 5 GB.
        for indices, pixels in batches(source.train, teacher_lib.BATCH):
            logits = teacher_lib.logits_of(teacher, pixels)
            answers[indices] = logits.argmax(-1)
            rows = np.arange(len(indices))
            probabilities[indices] = softmax(logits, axis=1)[rows, labels[indices]]
            bar.update(len(indices))
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
