"""Cells of a comparison made by hand, for the tests of its tables, charts and page."""

from delt_jax.comparison.sizes import RealSizes, Sizes
from delt_jax.comparison.tables import CellResult
from delt_jax.evaluation.metrics import ScoreRow


def row(images, ipc, ids, last=0.5, **changed) -> ScoreRow:
    values = {
        "student": "conv3",
        "regime": "hard",
        "learning_rate": 0.01,
        "protocol": "p: 1 epoch",
        "seeds": 2,
        "last_std": 0.01,
        "best_mean": last + 0.1,
        "best_std": 0.02,
        "per_class": [last, last],
        "calibration": 0.125,
    }
    return ScoreRow(
        image_set=images, ipc=ipc, last_mean=last, scores=ids.split(), **(values | changed)
    )


def cell(method, ipc, rows, similar=True, **changed) -> CellResult:
    labels = changed.pop("labels", {"fixed": 1234})
    made = Sizes(2, (100,) * ipc, labels, changed.pop("teachers", 5000), RealSizes(50, 9.5))
    per_class = {"real": [0.5, 0.7], "start": [0.5, 0.6], "recovered": [0.25, 0.75]}
    summary = {
        "ipc": ipc,
        "class_names": ["cat", "dog"],
        "teacher": {"model": "conv3", "accuracy": 0.87654, "hash": "7ea"},
        "distilled": f"set-{method}-{ipc}",
        "image_iterations": 12345,
        "fraction_of_full": 0.6375,
        "within_class_similarity": {"recovered": 0.25, "start": 0.5, "real": 0.75}
        if similar
        else None,
        "similarity_per_class": per_class if similar else None,
        "command": f"make {method} {ipc}",
        "scores": [r.as_dict() for r in rows],
        "seconds": {"recover": 12.34},
        "scored_on": "test images",
        "made": {"machine": "2 x cpu", "date": "2026-11-22"},
    }
    return CellResult(method, f"{method}-ipc{ipc}", summary | changed, made)
