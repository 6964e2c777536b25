"""Stage 6, report: a self-contained page of images, curves, diversity and scores."""

import datetime
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax import __version__
from delt_jax.core.progress import progress, say
from delt_jax.data import Normalisation, Source, read
from delt_jax.errors import DamagedArtefact
from delt_jax.evaluation import dd_ranking, metrics, score_store
from delt_jax.evaluation.metrics import Score, ScoreRow, or_none, within_class_similarity
from delt_jax.formats import distilled
from delt_jax.formats.distilled import DistilledSet
from delt_jax.labels import soft_labels
from delt_jax.recipe import Recipe, affecting
from delt_jax.recovery.initial_images import recorded
from delt_jax.recovery.schedule import BatchSchedule, join_rounds, make_schedule
from delt_jax.recovery.selection import random_images
from delt_jax.recovery.types import Losses
from delt_jax.reporting import figures, nearest, tables
from delt_jax.reporting import page as report_page
from delt_jax.runtime import devices
from delt_jax.store import artefact, files
from delt_jax.store.schema import mismatch
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher

ARTEFACT, SUMMARY = "report", "summary.json"
_REAL_PER_CLASS = 100  # real images per class whose diversity is the yardstick


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """Inputs of the report."""
    settings = affecting("report", recipe, "report")
    teacher = workdir.needed("teacher/manifest.json", "squeeze")
    if teacher.get("others"):
        settings["other teachers"] = [other["hash"] for other in teacher["others"]]
    return settings | {
        "version": __version__,
        "evaluation": workdir.needed("evaluation/manifest.json", "evaluate")["hash"],
        "distilled": workdir.needed("distilled/manifest.json", "recover")["hash"],
        "teacher": teacher["hash"],
    }


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/report and WORKDIR/summary.json, and prints the tables of scores."""
    started = time.perf_counter()
    teacher = teacher_lib.load(workdir.path / "teacher")
    synthetic = distilled.read(workdir.path / "distilled")
    _check_known(workdir, synthetic)
    evaluation = workdir.needed("evaluation/manifest.json", "evaluate")
    teacher_lib.check_class_names("The evaluation", tuple(evaluation["class_names"]), source)
    rows = _rows(workdir, evaluation)
    doubts = _warnings(workdir)
    robust, ranks = dd_ranking.robustness_scores(rows), dd_ranking.rank_correlations(rows)
    starts = _start_pixels(recipe, source, workdir, synthetic)
    similarity = _similarity(teacher, source, synthetic, starts)
    pictures = {"sheet.png": _sheet(synthetic, starts)}
    if synthetic.ipc > 1:  # a single image of a class is similar to no other
        pictures["diversity.png"] = figures.similarity_chart(similarity, synthetic.class_names)
    if _is_optimised(synthetic):
        pictures |= _optimisation_charts(workdir, synthetic)
    pictures |= _score_charts(rows, _scores(workdir), synthetic.class_names)
    summary = _summary(workdir, teacher, synthetic, evaluation, similarity)
    summary["warnings"] = doubts
    summary["robustness"] = [asdict(r) for r in robust]
    summary["rank_correlations"] = [asdict(r) for r in ranks]
    lists = {"scores.csv": tables.as_csv(rows)}
    if recipe.report.nearest:
        ours, real = _neighbours(teacher, source, synthetic)
        summary["nearest"] = nearest.summary(ours, real)
        pictures["nearest.png"] = _nearest_sheet(source, synthetic, ours)
        lists["nearest.csv"] = nearest.as_csv(ours, synthetic.ipc, source.train.names)
    scored = evaluation["scored_on"]
    traced = tables.sections(rows, robust, ranks, ids=True, scored=scored)
    lists["scores.md"] = ("\n".join(tables.as_text(traced)) + "\n").encode()
    lists["report.html"] = report_page.page(source.name, summary, traced, pictures).encode()
    manifest = {
        "inputs": inputs(recipe, source, workdir),
        "warnings": [],
        "seconds": round(time.perf_counter() - started, 1),
    }
    # First the summary: the folder's manifest lists it, too, and comes last.
    files.write_json(workdir.path / SUMMARY, summary)
    with artefact.replacing(workdir.path / ARTEFACT) as folder:
        for name, content in (pictures | lists).items():
            files.write_bytes(folder / name, content)
        parts = artefact.below(folder) | {f"../{SUMMARY}": workdir.path / SUMMARY}
        artefact.seal(folder / "manifest.json", manifest, parts)
    _, *more = tables.sections(rows, robust, ranks, scored=scored)
    for line in ["", *_paragraph(tables.as_text(more)), *tables.last_lines(rows, scored)]:
        say(line)
    for doubt in doubts:
        say(f"warning of {doubt['stage']}: {doubt['sentence']}")
    say(f"report: {workdir.path / ARTEFACT / 'report.html'}")


def _warnings(workdir: WorkDir) -> list[dict[str, str]]:
    """What stages warned of, in their order; those of older versions have kept nothing."""
    first = workdir.manifest("teacher/manifest.json") or {}
    folders = [f"{other['folder']}/manifest.json" for other in first.get("others", ())]
    manifests = [
        *(("squeeze", name) for name in ("teacher/manifest.json", *folders)),
        ("rank", "ranking.json"),
        ("recover", "distilled/manifest.json"),
        ("relabel", f"{soft_labels.FOLDER}/manifest.json"),
        ("evaluate", "evaluation/manifest.json"),
    ]
    return [
        {"stage": stage, "sentence": str(sentence)}
        for stage, name in manifests
        for sentence in (workdir.manifest(name) or {}).get("warnings", ())
    ]


def _paragraph(lines: list[str]) -> list[str]:
    """Lines with an empty one after them, if there are any."""
    return [*lines, ""] if lines else []


def _optimisation_charts(workdir: WorkDir, synthetic: DistilledSet) -> dict[str, bytes]:
    """Charts of the losses and of the schedule of a set that was optimised here."""
    path = _checked(workdir, "losses.npz")
    try:
        losses = Losses(**files.read_npz(path, "recover"))
    except TypeError as e:
        raise DamagedArtefact(path, f"{path} is damaged ({e})", "recover") from e
    schedule = _schedule(synthetic)
    return {
        "losses.png": figures.loss_curves(losses, sorted(set(schedule[0].start_iterations))),
        "schedule.png": figures.schedule_chart(schedule),
    }


def _checked(workdir: WorkDir, name: str) -> Path:
    """Path of a file of the distilled set, which has the content that was written."""
    manifest = workdir.needed("distilled/manifest.json", "recover")
    return artefact.check_file(workdir.path / "distilled", name, manifest, "recover")


def _rows(workdir: WorkDir, evaluation: dict[str, Any]) -> list[ScoreRow]:
    """The rows of an evaluation's manifest."""
    wrong, classes = mismatch(evaluation["rows"], [metrics.ROW]), len(evaluation["class_names"])
    if not wrong and any(len(row["per_class"]) != classes for row in evaluation["rows"]):
        wrong = "its rows are of other classes"
    try:
        if wrong:
            raise ValueError(wrong)
        return [ScoreRow.from_dict(row) for row in evaluation["rows"]]
    except (TypeError, ValueError) as e:
        path = workdir.path / "evaluation/manifest.json"
        raise DamagedArtefact(path, f"{path} is damaged ({e})", "evaluate") from e


def _check_known(workdir: WorkDir, synthetic: DistilledSet) -> None:
    """Raises a DamagedArtefact if a set that was recovered here does not say how."""
    wrong = mismatch(synthetic.manifest, {} if _is_imported(synthetic) else artefact.RECOVERED)
    if wrong:
        path = workdir.path / "distilled/manifest.json"
        raise DamagedArtefact(path, f"{path} is damaged ({wrong})", "recover")


def _scores(workdir: WorkDir) -> dict[str, Score]:
    """Every training by its id."""
    return {score.id: score for score in score_store.read_list(workdir)}


def _is_imported(synthetic: DistilledSet) -> bool:
    return "imported" in synthetic.manifest


def _is_optimised(synthetic: DistilledSet) -> bool:
    """Whether recovery took any iterations; of an imported set that is not known."""
    return not _is_imported(synthetic) and synthetic.manifest["schedule"]["image_iterations"] > 0


def _start_pixels(
    recipe: Recipe, source: Source, workdir: WorkDir, synthetic: DistilledSet
) -> np.ndarray:
    """The images that recovery started from, uint8 [N, S, S, C] in the set's order.

    For an imported set, random real images of the same classes.
    """
    if _is_imported(synthetic):
        classes, ipc = len(synthetic.class_names), synthetic.ipc
        drawn = random_images(source.train.labels, ipc, classes, recipe.seed)
        return read(source.train, drawn.reshape(-1))
    normalisation = Normalisation(
        *(tuple(synthetic.manifest["normalisation"][k]) for k in ("mean", "std"))
    )
    folder = workdir.path / "distilled"
    if "patches" in synthetic.manifest["start"]:
        _checked(workdir, synthetic.manifest["start"]["patches"])
    starts = recorded(synthetic.manifest["start"], folder, source, normalisation)
    return starts.pixels(range(len(synthetic.images)))


def _schedule(synthetic: DistilledSet) -> tuple[BatchSchedule, ...]:
    """The schedule as it ran, from the settings in the set's manifest."""
    settings = synthetic.manifest["settings"]["recover"]
    return make_schedule(
        len(synthetic.class_names),
        synthetic.manifest["ipc"],
        settings["iterations"],
        settings["round_iterations"],
        settings["batch_size"],
        synthetic.manifest["schedule"]["class_iterations"],
        settings["layout"],
    )


def _similarity(
    teacher: Teacher, source: Source, synthetic: DistilledSet, starts: np.ndarray
) -> dict[str, np.ndarray]:
    """Within-class similarity of teacher features, float64 [classes] by the set's name."""
    draw = np.random.default_rng(0)
    sample = np.concatenate(
        [
            draw.permutation(np.flatnonzero(source.train.labels == c))[:_REAL_PER_CLASS]
            for c in range(len(source.class_names))
        ]
    )
    sets = {
        "real": (read(source.train, sample), source.train.labels[sample]),
        "start": (starts, synthetic.labels),
        "recovered": (synthetic.images, synthetic.labels),
    }
    if _is_imported(synthetic):
        del sets["start"]
    return {
        name: within_class_similarity(teacher_lib.features_of(teacher, pixels), labels)
        for name, (pixels, labels) in sets.items()
    }


def _shown(synthetic: DistilledSet) -> tuple[int, np.ndarray]:
    """Number of classes that sheets show, and which ranks of each, int [n]."""
    ipc = synthetic.ipc
    columns = np.unique(np.linspace(0, ipc - 1, min(figures.SHEET_COLUMNS, ipc)).astype(int))
    return min(figures.SHEET_CLASSES, len(synthetic.class_names)), columns


def _sheet(synthetic: DistilledSet, starts: np.ndarray) -> bytes:
    ipc, classes = synthetic.ipc, len(synthetic.class_names)
    rows, columns = _shown(synthetic)
    iterations = []
    if _is_optimised(synthetic):
        r = synthetic.manifest["settings"]["recover"]
        step = r["round_iterations"] or r["iterations"]
        joins = join_rounds(ipc, r["iterations"] // step)
        iterations = [r["iterations"] - joins[i] * step for i in columns]

    def cells(images):
        return images.reshape(classes, ipc, *images.shape[1:])[:rows, columns]

    return figures.sheet(
        cells(starts),
        cells(synthetic.images),
        synthetic.class_names[:rows],
        iterations,
    )


def _score_charts(
    rows: list[ScoreRow], trained: dict[str, Score], class_names: tuple[str, ...]
) -> dict[str, bytes]:
    """Charts of the first student's first row of recovered images, and of accuracy over IPC.

    Args:
      rows: those of the evaluation.
      trained: scores by id.
      class_names: one per class.
    """
    ipc = dd_ranking.whole_ipc(rows)
    first = next((r for r in rows if (r.image_set, r.ipc) == ("recovered", ipc)), None)
    if first is None:
        return {}
    beside = {
        r.image_set: np.array(r.per_class, float)
        for r in reversed(rows)  # so that the first of several rows is what remains
        if r.student == first.student
        and (
            (r.image_set, r.regime, r.ipc) == ("random", first.regime, ipc) or r.image_set == "full"
        )
    }
    accuracies = {"recovered": np.array(first.per_class, float)}
    accuracies |= {name: beside[name] for name in ("random", "full") if name in beside}
    charts = {"per_class.png": figures.per_class_chart(accuracies, class_names)}
    counts = [trained[i].confusion for i in first.scores]
    if all(counts):
        charts["confusion.png"] = figures.confusion_chart(np.sum(counts, axis=0), class_names)
    lines: dict[str, list[tuple[int, float, float]]] = {}
    for r in sorted((r for r in rows if r.image_set == "recovered"), key=lambda r: r.ipc):
        line = lines.setdefault(f"{r.student}, {r.regime}", [])
        line.append((r.ipc, r.last_mean, r.last_std))
    lines = {name: line for name, line in lines.items() if len(line) > 1}
    if lines:
        charts["ipc.png"] = figures.ipc_chart(lines)
    return charts


def _neighbours(
    teacher: Teacher, source: Source, synthetic: DistilledSet
) -> tuple[nearest.Nearest, nearest.Nearest]:
    with progress(len(source.train), "nearest", "image") as bar:
        return nearest.with_yardstick(
            teacher, source.train, synthetic.images, synthetic.labels, bar.update
        )


def _nearest_sheet(source: Source, synthetic: DistilledSet, found: nearest.Nearest) -> bytes:
    rows, columns = _shown(synthetic)
    places = (np.arange(rows)[:, None] * synthetic.ipc + columns).reshape(-1)
    shape = (rows, len(columns))
    real = read(source.train, found.pixels_any.indices[places])
    return figures.nearest_sheet(
        synthetic.images[places].reshape(*shape, *real.shape[1:]),
        real.reshape(*shape, *real.shape[1:]),
        found.pixels_any.distances[places].reshape(shape),
        synthetic.class_names[:rows],
    )


def _named(folder: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """Entry of the summary about another teacher of the run."""
    return {"model": Path(folder).name} | {k: manifest[k] for k in ("accuracy", "hash")}


def _summary(
    workdir: WorkDir,
    teacher: Teacher,
    synthetic: DistilledSet,
    evaluation: dict[str, Any],
    similarity: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Content of summary.json but for what is computed from rows and neighbours."""
    made = synthetic.manifest
    if _is_imported(synthetic):
        making = {"imported": made["imported"]}
    else:
        making = {
            "image_iterations": made["schedule"]["image_iterations"],
            "fraction_of_full": made["schedule"]["fraction"],
            "recover": made["settings"]["recover"],
            "select": made["settings"]["select"],
        }
    squeezed = workdir.manifest("teacher/manifest.json") or {}
    others = {
        other["folder"]: workdir.needed(f"{other['folder']}/manifest.json", "squeeze")
        for other in squeezed.get("others", ())
    }
    spent = [made["seconds"] for made in (squeezed, *others.values()) if "seconds" in made]
    seconds = {
        "squeeze": round(sum(spent), 1) if spent else None,
        "rank": (workdir.manifest("ranking.json") or {}).get("seconds"),
        "recover": None if _is_imported(synthetic) else made["cost_seconds"],
        "relabel": (workdir.manifest("soft_labels/manifest.json") or {}).get("seconds"),
        "evaluate": evaluation["seconds"],
    }
    diverse = made["ipc"] > 1  # a single image of a class is similar to no other
    return {
        "version": __version__,
        "class_names": list(synthetic.class_names),
        "ipc": made["ipc"],
        "teacher": {"model": teacher.spec.name, "accuracy": teacher.accuracy, "hash": teacher.hash},
        **({"other_teachers": [_named(*other) for other in others.items()]} if others else {}),
        "distilled": made["hash"],
        **making,
        "within_class_similarity": {k: float(np.nanmean(v)) for k, v in similarity.items()}
        if diverse
        else None,
        "similarity_per_class": {k: or_none(v) for k, v in similarity.items()} if diverse else None,
        "command": evaluation["command"],
        "protocols": evaluation["protocols"],
        "scored_on": evaluation["scored_on"],
        "scores": evaluation["rows"],
        "seconds": seconds,
        "made": {"date": datetime.date.today().isoformat(), "machine": devices.describe()},
    }
