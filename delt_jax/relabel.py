"""Stage 4, relabel: the teacher's soft label of every distilled image.

The online regime asks the teacher anew for every augmented view inside the student's step;
what is stored here is one label per image, the set's own for whoever has no teacher.
"""

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from delt_jax import teacher
from delt_jax.data import Source
from delt_jax.progress import say
from delt_jax.recipe import Recipe
from delt_jax.store import distilled, files, soft_labels
from delt_jax.store.workdir import WorkDir

ARTEFACT = "soft_labels"


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """What the soft labels are made from."""
    return {
        "class_names": source.class_names,
        "teacher": workdir.needed("teacher/manifest.json", "squeeze")["hash"],
        "distilled": workdir.needed("distilled/manifest.json", "recover")["hash"],
    }


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/soft_labels."""
    started = time.perf_counter()
    judge = teacher.load(workdir.path / "teacher")
    teacher.check_against(judge, source, say)
    synthetic = distilled.read(workdir.path / "distilled")
    teacher.check_class_names("The distilled set", synthetic.class_names, source)
    logits = teacher.logits_of(judge, synthetic.images)
    agreement = float((logits.argmax(-1) == synthetic.labels).mean())
    manifest = {
        "inputs": inputs(recipe, source, workdir),
        "class_names": list(source.class_names),
        "teacher": {"hash": judge.hash, "accuracy": judge.accuracy},
        "distilled": synthetic.manifest["hash"],
        "views": "none: one label per image as it is",
        "online_views": asdict(recipe.relabel),
        "teacher_accuracy_on_distilled": agreement,
        "seconds": round(time.perf_counter() - started, 1),
    }
    with files.replacing_folder(workdir.path / ARTEFACT) as folder:
        soft_labels.write(folder, logits.astype(np.float32), manifest)
    workdir.log.write("relabel", len(logits), teacher_accuracy_on_distilled=agreement)
    say(f"  labelled {len(logits)} images; the teacher agrees with {agreement:.1%} of the classes")
