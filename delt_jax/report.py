"""Stage 6, report: sheets, curves, diversity and scores in one self-contained page."""

import base64
import datetime
import html
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from delt_jax import __version__, figures, parallel, teacher
from delt_jax.data import Normalisation, Source, read
from delt_jax.engine import Losses
from delt_jax.metrics import Row, within_class_similarity
from delt_jax.progress import say
from delt_jax.recipe import Recipe
from delt_jax.schedule import BatchSchedule, chart, join_rounds, make_schedule
from delt_jax.selection import random_images
from delt_jax.start import start_images
from delt_jax.store import distilled, files
from delt_jax.store.distilled import DistilledSet
from delt_jax.store.workdir import WorkDir
from delt_jax.teacher import Teacher

ARTEFACT = "report"
_REAL_PER_CLASS = 100  # real images per class whose diversity is the yardstick


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """What the report is made from."""
    settings = {f"report.{k}": v for k, v in asdict(recipe.report).items()}
    return settings | {
        "version": __version__,
        "evaluation": workdir.needed("evaluation/manifest.json", "evaluate")["hash"],
        "distilled": workdir.needed("distilled/manifest.json", "recover")["hash"],
        "teacher": workdir.needed("teacher/manifest.json", "squeeze")["hash"],
    }


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/report and WORKDIR/summary.json, and prints the score table."""
    started = time.perf_counter()
    judge = teacher.load(workdir.path / "teacher")
    synthetic = distilled.read(workdir.path / "distilled")
    evaluation = workdir.needed("evaluation/manifest.json", "evaluate")
    teacher.check_class_names("The evaluation", tuple(evaluation["class_names"]), source)
    rows = [Row(**row) for row in evaluation["rows"]]
    starts = _start_pixels(recipe, source, synthetic)
    similarity = _similarity(judge, source, synthetic, starts)
    pictures = {"sheet.png": _sheet(recipe, synthetic, starts)}
    if synthetic.ipc > 1:  # one image has nothing to be similar to
        pictures["diversity.png"] = figures.similarity_chart(similarity, synthetic.class_names)
    if not _is_imported(synthetic):  # of those nothing else is known
        stored = files.read_npz(workdir.path / "distilled" / "losses.npz", "recover")
        losses = Losses(*(stored[name] for name in Losses._fields))
        schedule = _schedule(synthetic)
        rounds = [r.start for r in schedule[0].rounds]
        pictures["losses.png"] = figures.loss_curves(losses, rounds)
        pictures["schedule.png"] = figures.schedule_chart(schedule)
    summary = _summary(workdir, judge, synthetic, evaluation, similarity)
    table = figures.score_table(rows)
    with files.replacing_folder(workdir.path / ARTEFACT) as folder:
        for name, content in pictures.items():
            files.write_bytes(folder / name, content)
        page = _page(source, summary, rows, pictures)
        files.write_bytes(folder / "report.html", page.encode())
        files.write_bytes(folder / "scores.md", ("\n".join(table) + "\n").encode())
        files.write_json(
            folder / "manifest.json",
            {
                "inputs": inputs(recipe, source, workdir),
                "seconds": round(time.perf_counter() - started, 1),
            },
        )
    files.write_json(workdir.path / "summary.json", summary)
    say("")
    for line in table:
        say(line)
    say(f"protocol: {evaluation['protocol']}")
    say(f"report: {workdir.path / ARTEFACT / 'report.html'}")


def _is_imported(synthetic: DistilledSet) -> bool:
    return "imported" in synthetic.manifest


def _start_pixels(recipe: Recipe, source: Source, synthetic: DistilledSet) -> np.ndarray:
    """The images that recovery started from, uint8 in the set's order.

    In their place, random real images of the same classes for an imported set.
    """
    if _is_imported(synthetic):
        classes, ipc = len(synthetic.class_names), synthetic.ipc
        drawn = random_images(source.train.labels, ipc, classes, recipe.seed)
        return read(source.train, drawn.reshape(-1))
    start = synthetic.manifest["start"]
    if "indices" in start:
        return read(source.train, np.array(start["indices"]).reshape(-1))
    normalisation = Normalisation(
        *(tuple(synthetic.manifest["normalisation"][k]) for k in ("mean", "std"))
    )
    everything = tuple(range(len(synthetic.images)))
    noise = start_images(recipe, source, normalisation, np.zeros(0, np.int64), everything)
    return normalisation.to_pixels(noise)


def _schedule(synthetic: DistilledSet) -> tuple[BatchSchedule, ...]:
    """The schedule as it ran, from the set's own settings."""
    settings = synthetic.manifest["settings"]["recover"]
    return make_schedule(
        len(synthetic.class_names),
        synthetic.manifest["ipc"],
        settings["iterations"],
        settings["round_iterations"],
        settings["batch_size"],
        synthetic.manifest["schedule"]["class_iterations"],
    )


def _similarity(
    judge: Teacher, source: Source, synthetic: DistilledSet, starts: np.ndarray
) -> dict[str, np.ndarray]:
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
        name: within_class_similarity(teacher.features_of(judge, pixels), labels)
        for name, (pixels, labels) in sets.items()
    }


def _sheet(recipe: Recipe, synthetic: DistilledSet, starts: np.ndarray) -> bytes:
    ipc, classes = synthetic.manifest["ipc"], len(synthetic.class_names)
    rows = min(recipe.report.classes, classes)
    columns = np.unique(np.linspace(0, ipc - 1, min(recipe.report.per_class, ipc)).astype(int))
    iterations = []
    if not _is_imported(synthetic):
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


def _summary(
    workdir: WorkDir,
    judge: Teacher,
    synthetic: DistilledSet,
    evaluation: dict[str, Any],
    similarity: dict[str, np.ndarray],
) -> dict[str, Any]:
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
    seconds = {
        "squeeze": (workdir.manifest("teacher/manifest.json") or {}).get("seconds"),
        "rank": (workdir.manifest("ranking.json") or {}).get("seconds"),
        "recover": None if _is_imported(synthetic) else made["cost_seconds"],
        "relabel": (workdir.manifest("soft_labels/manifest.json") or {}).get("seconds"),
        "evaluate": evaluation["seconds"],
    }
    return {
        "version": __version__,
        "class_names": list(synthetic.class_names),
        "ipc": made["ipc"],
        "teacher": {"model": judge.spec.name, "accuracy": judge.accuracy, "hash": judge.hash},
        "distilled": made["hash"],
        **making,
        "within_class_similarity": {k: float(np.nanmean(v)) for k, v in similarity.items()}
        if made["ipc"] > 1
        else None,
        "protocol": evaluation["protocol"],
        "scores": evaluation["rows"],
        "seconds": seconds,
        "made": {"date": datetime.date.today().isoformat(), "machine": parallel.describe()},
    }


def _page(source: Source, summary: dict[str, Any], rows: list[Row], pictures) -> str:
    def picture(name: str, caption: str) -> str:
        data = base64.b64encode(pictures[name]).decode()
        return (
            f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    body = "".join(
        f"<tr><td>{html.escape(r.student)}</td><td>{r.regime}</td><td>{r.images}</td>"
        f"<td>{100 * r.last_mean:.2f} ± {100 * r.last_std:.2f}</td>"
        f"<td>{100 * r.best_mean:.2f} ± {100 * r.best_std:.2f}</td></tr>"
        for r in rows
    )
    if "imported" in summary:
        made = f"the set was imported from the layout {summary['imported'].get('layout')}"
        above, recovery = "Random real images above those of the set.", ""
    else:
        r = summary["recover"]
        drawn = "\n".join(chart(summary["ipc"], r["iterations"], r["round_iterations"]))
        made = (
            f"{summary['image_iterations']:,} image-iterations, "
            f"{100 * summary['fraction_of_full']:.2f} % of full optimisation"
        )
        above = "Start images above recovered ones, in joining order."
        recovery = f"""<h2>Schedule</h2>
<pre>{drawn}</pre>
{picture("schedule.png", "Iterations in which each image of the first batch is optimised.")}
<h2>Losses</h2>
{picture("losses.png", "Terms of the objective, mean over batches; grey lines: a group joins.")}"""
    diversity = ""
    if "diversity.png" in pictures:
        caption = "Similarity of teacher features within a class; lower is more diverse."
        diversity = f"<h2>Diversity</h2>\n{picture('diversity.png', caption)}"
    spent = ", ".join(f"{k} {v:.0f} s" for k, v in summary["seconds"].items() if v is not None)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>delt_jax: {html.escape(source.name)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }}
img {{ max-width: 100%; }}
figure {{ margin: 1.5rem 0; }}
figcaption {{ color: #555; }}
pre {{ overflow-x: auto; line-height: 1.15; }}
</style></head><body>
<h1>{html.escape(source.name)}, {summary["ipc"]} images per class</h1>
<p>Teacher {html.escape(summary["teacher"]["model"])} with
{100 * summary["teacher"]["accuracy"]:.2f} % test accuracy; {made}; {spent}.</p>
<h2>Scores</h2>
<p>Test accuracy in %, mean ± sample standard deviation. {html.escape(summary["protocol"])}.</p>
<table><tr><th>student</th><th>labels</th><th>images</th><th>last epoch</th><th>best epoch</th></tr>
{body}</table>
<h2>Images</h2>
{picture("sheet.png", above)}
{recovery}
{diversity}
</body></html>
"""
