"""Content of summary.json: what a run made, how, and what it cost."""

from pathlib import Path
from typing import Any

import numpy as np

from delt_jax import __version__
from delt_jax.evaluation.metrics import or_none
from delt_jax.formats.distilled import DistilledSet
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers.teacher import Teacher


def is_learned(synthetic: DistilledSet) -> bool:
    """Whether a set was learned here, through networks in training."""
    return synthetic.manifest.get("synthesis") == "learn" and not is_imported(synthetic)


def is_recovered(synthetic: DistilledSet) -> bool:
    """Whether a set was recovered here, so that its start and its schedule are known."""
    return not is_imported(synthetic) and not is_learned(synthetic)


def is_imported(synthetic: DistilledSet) -> bool:
    """Whether a set was brought from elsewhere, so that nothing is known of its start."""
    return "imported" in synthetic.manifest


def word_of(synthetic: DistilledSet) -> str:
    """What a set's images are called, one of `metrics.DISTILLED`."""
    if is_imported(synthetic):
        return "distilled"
    return "learned" if is_learned(synthetic) else "recovered"


def is_optimised(synthetic: DistilledSet) -> bool:
    """Whether recovery took any iterations; of an imported set that is not known."""
    return is_recovered(synthetic) and synthetic.manifest["schedule"]["image_iterations"] > 0


def of_scores(evaluation: dict[str, Any] | None, command: str, scored_on: str) -> dict[str, Any]:
    """Entries about scores; empty ones where no students were trained.

    Args:
      evaluation: manifest of the evaluation, if there is one.
      command: line of the run.
      scored_on: what test images are called.
    """
    if evaluation is None:
        return {"command": command, "protocols": [], "scored_on": scored_on, "scores": []}
    return {
        "command": evaluation["command"],
        "protocols": evaluation["protocols"],
        "scored_on": evaluation["scored_on"],
        "scores": evaluation["rows"],
    }


def _other(folder: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """Entry of the summary about another teacher of the run."""
    return {"model": Path(folder).name} | {k: manifest[k] for k in ("accuracy", "hash")}


def _of_teacher(teacher: Teacher) -> dict[str, Any]:
    return {"model": teacher.spec.name, "accuracy": teacher.accuracy, "hash": teacher.hash}


def _of_experts(workdir: WorkDir, synthetic: DistilledSet) -> dict[str, float | None]:
    """Seconds of the experts that a set was learned from; no entry where there were none."""
    asked = synthetic.manifest["inputs"].get("experts") if is_learned(synthetic) else None
    if asked is None:
        return {}
    made = workdir.manifest("experts/manifest.json") or {}
    return {"experts": made.get("seconds") if made.get("hash") == asked else None}


def _making(synthetic: DistilledSet) -> dict[str, Any]:
    """Entries about how the images came about."""
    made = synthetic.manifest
    if is_imported(synthetic):
        return {"imported": made["imported"]}
    if is_learned(synthetic):
        learn, count = made["settings"]["learn"], made["ipc"] * len(made["class_names"])
        return {
            "learned": learn | {"network": made.get("network", {}).get("name")},
            "image_iterations": (learn.get("steps") or 0) * count,  # each step moves all images
            "fraction_of_full": None,
        }
    return {
        "image_iterations": made["schedule"]["image_iterations"],
        "fraction_of_full": made["schedule"]["fraction"],
        "recover": made["settings"]["recover"],
        "select": made["settings"]["select"],
    }


def summary_of(
    workdir: WorkDir,
    teacher: Teacher | None,
    synthetic: DistilledSet,
    evaluation: dict[str, Any] | None,
    similarity: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Content of summary.json but for scores, and for what is computed from images.

    Args:
      workdir: of the run.
      teacher: its first one; None where nothing asked for one.
      synthetic: the distilled set.
      evaluation: its manifest; None where no students were trained.
      similarity: within each class, float [classes] by the set's name.
    """
    made = synthetic.manifest
    squeezed = workdir.manifest("teacher/manifest.json") or {}
    others = {
        other["folder"]: workdir.needed(f"{other['folder']}/manifest.json", "squeeze")
        for other in squeezed.get("others", ())
    }
    spent = [made["seconds"] for made in (squeezed, *others.values()) if "seconds" in made]
    seconds = {
        "squeeze": round(sum(spent), 1) if spent else None,
        "rank": (workdir.manifest("ranking.json") or {}).get("seconds"),
        **_of_experts(workdir, synthetic),
        "learn" if is_learned(synthetic) else "recover": made.get("cost_seconds")
        if not is_imported(synthetic)
        else None,
        "relabel": (workdir.manifest("soft_labels/manifest.json") or {}).get("seconds"),
        "evaluate": evaluation["seconds"] if evaluation else None,
    }
    diverse = made["ipc"] > 1  # a single image of a class is similar to no other
    return {
        "version": __version__,
        "class_names": list(synthetic.class_names),
        "ipc": made["ipc"],
        **({"teacher": _of_teacher(teacher)} if teacher else {}),
        **({"other_teachers": [_other(*other) for other in others.items()]} if others else {}),
        "distilled": made["hash"],
        **_making(synthetic),
        "within_class_similarity": {k: float(np.nanmean(v)) for k, v in similarity.items()}
        if diverse
        else None,
        "similarity_per_class": {k: or_none(v) for k, v in similarity.items()} if diverse else None,
        "seconds": seconds,
        **({"made": made["made"]} if "made" in made else {}),
    }
