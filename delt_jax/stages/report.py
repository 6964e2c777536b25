"""Stage 6, report: a self-contained page of images, curves, diversity and scores."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax import __version__
from delt_jax.core.progress import progress, say
from delt_jax.data import Normalisation, Source, read
from delt_jax.data.classes import in_words
from delt_jax.errors import DamagedArtefact
from delt_jax.evaluation import dd_ranking, fresh_views, metrics, score_store, verdict
from delt_jax.evaluation.metrics import RECOVERED, Score, ScoreRow, within_class_similarity
from delt_jax.evaluation.rows import skipped
from delt_jax.formats import distilled
from delt_jax.formats.distilled import DistilledSet
from delt_jax.labels import soft_labels
from delt_jax.recipe import Recipe, affecting
from delt_jax.recovery.initial_images import recorded
from delt_jax.recovery.run.loss_history import of_columns
from delt_jax.recovery.schedule import BatchSchedule, make_schedule
from delt_jax.recovery.selection import random_images
from delt_jax.reporting import learning_charts, nearest, run_charts, svg, tables
from delt_jax.reporting import page as report_page
from delt_jax.reporting.figures import Strip
from delt_jax.reporting.page import Shown
from delt_jax.reporting.svg import Chart
from delt_jax.reporting.tables import Section
from delt_jax.stages import report_pictures
from delt_jax.stages.summary import (
    is_learned,
    is_optimised,
    is_recovered,
    of_scores,
    summary_of,
    word_of,
)
from delt_jax.store import artefact, files
from delt_jax.store.local_copies import local
from delt_jax.store.schema import mismatch
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher

ARTEFACT, SUMMARY = "report", "summary.json"
_REAL_PER_CLASS = 100  # real images per class whose diversity is the yardstick


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """Inputs of the report."""
    settings = affecting("report", recipe, "report")
    if recipe.needs_teacher:
        teacher = workdir.needed("teacher/manifest.json", "squeeze")
        settings["teacher"] = teacher["hash"]
        if teacher.get("others"):
            settings["other teachers"] = [other["hash"] for other in teacher["others"]]
    if recipe.report.second_teacher:
        second = teacher_lib.describe(local(recipe.report.second_teacher))
        settings["report.second_teacher"] = second.hash
    if not skipped(recipe):
        evaluation = workdir.needed("evaluation/manifest.json", "evaluate")
        settings["evaluation"] = evaluation["hash"]
    return settings | {
        "version": __version__,
        "distilled": workdir.needed("distilled/manifest.json", "recover")["hash"],
    }


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/report and WORKDIR/summary.json, and prints the tables of scores."""
    started = time.perf_counter()
    say("  measuring the images and drawing the pages")
    teacher = teacher_lib.load(workdir.path / "teacher") if recipe.needs_teacher else None
    stored = distilled.read(workdir.path / "distilled")
    synthetic = stored.to_look_at()
    _check_known(workdir, synthetic)
    evaluation = _evaluation(recipe, source, workdir)
    rows = _rows(workdir, evaluation) if evaluation else []
    robust, ranks = dd_ranking.robustness_scores(rows), dd_ranking.rank_correlations(rows)
    lists = {"scores.csv": tables.as_csv(rows)}
    rows = metrics.in_words(rows, word_of(synthetic))
    starts = _start_pixels(recipe, source, workdir, synthetic)
    similarity = _similarity(teacher, source, synthetic, starts) if teacher else {}
    names = in_words(synthetic.class_names)
    networks = _networks(recipe, teacher) if teacher else {}
    seen = fresh_views.look(list(networks.values()), synthetic.images, synthetic.labels)
    sheet = report_pictures.sheet_of(synthetic, starts, seen[0] if seen else None)
    pictures = {"sheet.png": report_pictures.sheet_png(sheet)}
    scoring = report_pictures.score_charts(rows, _scores(workdir) if evaluation else {}, names)
    making = _making_charts(workdir, synthetic, similarity)
    pictures |= {f"{k}.svg": svg.as_file(chart) for k, chart in (scoring | making).items()}
    summary = summary_of(workdir, teacher, synthetic, evaluation, similarity)
    summary |= of_scores(evaluation, workdir.command, source.scored)
    summary["data"] = source.name
    summary["verdict"] = verdict.sentences(rows, names)
    summary["warnings"] = _warnings(workdir)
    summary["robustness"] = [asdict(r) for r in robust]
    summary["rank_correlations"] = [asdict(r) for r in ranks]
    fresh: list[Section] = []
    if seen:
        summary["fresh_views"] = fresh_views.described(networks, seen)
        fresh = [tables.fresh_views(summary["fresh_views"])]
        lists["fresh_views.csv"] = fresh_views.as_csv(list(networks), seen, synthetic.ipc)
    if stored.preprocessing is not None:
        summary["clipped"] = stored.clipped
    pairs: list[Strip] = []
    if teacher and recipe.report.nearest:
        ours, real = _neighbours(teacher, source, synthetic)
        summary["nearest"] = nearest.summary(ours, real)
        pictures["nearest.png"], pairs = report_pictures.nearest_pictures(source, synthetic, ours)
        lists["nearest.csv"] = nearest.as_csv(ours, synthetic.ipc, source.train.names)
    scored = summary["scored_on"]
    traced = [*tables.sections(rows, robust, ranks, ids=True, scored=scored), *fresh]
    lists["scores.md"] = ("\n".join(tables.as_text(traced)) + "\n").encode()
    scores = tables.sections(rows, robust, ranks, scored=scored)
    strips, beside_real = report_pictures.sheet_strips(sheet), sheet.above is not None
    shown = Shown(strips, pairs, [*scoring.values()], [*making.values()], beside_real)
    lists["report.html"] = report_page.page(summary, rows, [*scores, *fresh], shown).encode()
    manifest = {
        "inputs": inputs(recipe, source, workdir),
        "warnings": [],
        "seconds": round(time.perf_counter() - started, 1),
    }
    _write(workdir, summary, pictures | lists, manifest)
    _tell(workdir, summary, rows, scores[1:] if rows else fresh)


def _tell(
    workdir: WorkDir, summary: dict[str, Any], rows: list[ScoreRow], more: list[Section]
) -> None:
    """Prints the tables of scores, the others first, and what the report says in words."""
    for line in ["", *_paragraph(tables.as_text(more))]:
        say(line)
    for line in tables.last_lines(rows, summary["scored_on"]) if rows else ():
        say(line)
    for sentence in summary["verdict"]:
        say(sentence)
    for doubt in summary["warnings"]:
        say(f"warning of {doubt['stage']}: {doubt['sentence']}")
    say(f"report: {workdir.path / ARTEFACT / 'report.html'}")


def _write(
    workdir: WorkDir,
    summary: dict[str, Any],
    contents: dict[str, bytes],
    manifest: dict[str, Any],
) -> None:
    """Writes the report's files by name, and the summary beside their folder."""
    # First the summary: the folder's manifest lists it, too, and comes last.
    files.write_json(workdir.path / SUMMARY, summary)
    with artefact.replacing(workdir.path / ARTEFACT) as folder:
        for name, content in contents.items():
            files.write_bytes(folder / name, content)
        parts = artefact.below(folder) | {f"../{SUMMARY}": workdir.path / SUMMARY}
        artefact.seal(folder / "manifest.json", manifest, parts)


def _evaluation(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any] | None:
    """Manifest of the evaluation; None where no students are trained."""
    if skipped(recipe):
        return None
    evaluation = workdir.needed("evaluation/manifest.json", "evaluate")
    teacher_lib.check_class_names("The evaluation", tuple(evaluation["class_names"]), source)
    return evaluation


def _networks(recipe: Recipe, teacher: Teacher) -> dict[str, Teacher]:
    """Those whose answers to fresh views are shown, by name: the teacher, and perhaps a second."""
    folder = recipe.report.second_teacher
    if not folder:
        return {teacher.spec.name: teacher}
    second = teacher_lib.load(local(folder))
    return {f"{teacher.spec.name} (teacher)": teacher, f"{second.spec.name} (second)": second}


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


def _making_charts(
    workdir: WorkDir, synthetic: DistilledSet, similarity: dict[str, np.ndarray]
) -> dict[str, Chart]:
    """Charts by name: diversity, and how a set that was made here came about."""
    charts: dict[str, Chart] = {}
    if synthetic.ipc > 1 and similarity:  # a single image of a class is similar to no other
        named = {word_of(synthetic) if n == RECOVERED else n: v for n, v in similarity.items()}
        names = in_words(synthetic.class_names)
        charts["diversity"] = run_charts.similarity_chart(named, names)
    if is_learned(synthetic):
        learning = _learning_chart(workdir, synthetic)
        return charts | ({"losses": learning} if learning else {})
    if not is_optimised(synthetic):
        return charts
    losses = _losses(workdir, of_columns)
    schedule = _schedule(synthetic)
    joins = sorted(set(schedule[0].start_iterations))
    charts["schedule"] = run_charts.schedule_chart(schedule)
    curves = run_charts.loss_curves(losses, joins)
    return charts | ({"losses": curves} if curves else {})


def _learning_chart(workdir: WorkDir, synthetic: DistilledSet) -> Chart | None:
    """Losses of a learned set, and what was validated."""
    losses = _losses(workdir, lambda arrays: np.ravel(arrays["loss"]))
    validated = [(int(step), float(value)) for step, value in synthetic.manifest["validation"]]
    return learning_charts.learning(losses, validated, synthetic.manifest["kept"])


def _losses(workdir: WorkDir, read: Callable[[dict[str, np.ndarray]], Any]) -> Any:
    """What is read out of the arrays of losses beside the set."""
    path = _checked(workdir, "losses.npz")
    try:
        return read(files.read_npz(path, "recover"))
    except (KeyError, TypeError) as e:
        raise DamagedArtefact(path, f"{path} is damaged ({e})", "recover") from e


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
    wrong = mismatch(synthetic.manifest, _known_of(synthetic))
    if wrong:
        path = workdir.path / "distilled/manifest.json"
        raise DamagedArtefact(path, f"{path} is damaged ({wrong})", "recover")


def _known_of(synthetic: DistilledSet) -> dict[str, Any]:
    """Shape of what the manifest of a set that was made here must say."""
    if is_recovered(synthetic):
        return artefact.RECOVERED
    return artefact.LEARNED if is_learned(synthetic) else {}


def _scores(workdir: WorkDir) -> dict[str, Score]:
    """Every training by its id."""
    return {score.id: score for score in score_store.read_list(workdir)}


def _start_pixels(
    recipe: Recipe, source: Source, workdir: WorkDir, synthetic: DistilledSet
) -> np.ndarray | None:
    """The images that recovery started from, uint8 [N, S, S, C] in the set's order.

    For an imported set, random real images of the same classes; None where there are none.
    """
    if not is_recovered(synthetic) and not len(source.train):
        return None
    if not is_recovered(synthetic):
        classes, ipc = len(synthetic.class_names), synthetic.ipc
        drawn = random_images(source.train.labels, ipc, classes, recipe.seed)
        return read(source.train, drawn.reshape(-1))
    normalisation = Normalisation(
        *(tuple(synthetic.manifest["normalisation"][k]) for k in ("mean", "std"))
    )
    folder = workdir.path / "distilled"
    start = synthetic.manifest["start"]
    for name in (start[key] for key in ("patches", "given") if key in start):
        _checked(workdir, name)
    starts = recorded(start, folder, source, normalisation)
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
    teacher: Teacher, source: Source, synthetic: DistilledSet, starts: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Within-class similarity of teacher features, float64 [classes] by the set's name."""
    sets = {}
    if len(source.train):
        sample = _real_sample(source)
        sets["real"] = read(source.train, sample), source.train.labels[sample]
    if starts is not None and is_recovered(synthetic):
        sets["start"] = starts, synthetic.labels
    sets[RECOVERED] = synthetic.images, synthetic.labels
    return {
        name: within_class_similarity(teacher_lib.features_of(teacher, pixels), labels)
        for name, (pixels, labels) in sets.items()
    }


def _real_sample(source: Source) -> np.ndarray:
    """Indices of some training images of every class, int [n]."""
    draw = np.random.default_rng(0)
    members = [np.flatnonzero(source.train.labels == c) for c in range(len(source.class_names))]
    return np.concatenate([draw.permutation(each)[:_REAL_PER_CLASS] for each in members])


def _neighbours(
    teacher: Teacher, source: Source, synthetic: DistilledSet
) -> tuple[nearest.Nearest, nearest.Nearest]:
    with progress(len(source.train), "nearest", "image") as bar:
        return nearest.with_yardstick(
            teacher, source.train, synthetic.images, synthetic.labels, bar.update
        )
