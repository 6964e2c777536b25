"""Stage 5, evaluate: students trained from scratch, scored on the real test set."""

import functools
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from scipy.special import softmax

from delt_jax import keys, models, objective, teacher, training
from delt_jax.augment.views import ViewSpec, plan_epoch, student_views
from delt_jax.data import Normalisation, Source, read
from delt_jax.metrics import Score, aggregate
from delt_jax.models import ModelSpec
from delt_jax.progress import progress, say
from delt_jax.recipe import EvaluateRecipe, Recipe, ViewRecipe
from delt_jax.selection import random_images, select
from delt_jax.store import distilled, files, soft_labels
from delt_jax.store import ranking as ranking_store
from delt_jax.store.workdir import WorkDir
from delt_jax.teacher import Teacher

ARTEFACT = "evaluation"
_KEPT = "students"  # folder of their weights, within the artefact


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """What the scores are made from, and the wish for weights where there are none yet.

    So the stage runs again to make missing weights, and never to be rid of them.
    """
    made_from = _made_from(recipe, source, workdir)
    if recipe.evaluate.keep_students and not (workdir.path / ARTEFACT / _KEPT).is_dir():
        made_from["evaluate.keep_students"] = True
    return made_from


def _made_from(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    settings = {f"evaluate.{k}": v for k, v in asdict(recipe.evaluate).items()}
    del settings["evaluate.keep_students"]
    settings |= {f"relabel.{k}": v for k, v in asdict(recipe.relabel).items()}
    if "selected" in recipe.evaluate.images:
        settings["ranking"] = workdir.needed(ranking_store.MANIFEST, "rank")["hash"]
    return settings | {
        "seed": recipe.seed,
        "select.rule": recipe.select.rule,
        "data": source.fingerprint,
        "data.flip": recipe.data.flip,
        "class_names": source.class_names,
        "soft_labels": workdir.needed("soft_labels/manifest.json", "relabel")["hash"],
        "distilled": workdir.needed("distilled/manifest.json", "recover")["hash"],
    }


def protocol(recipe: Recipe) -> str:
    """The evaluation in one line, printed beside every number."""
    e, v = recipe.evaluate, recipe.relabel
    mix = "no mixing" if v.mix == "none" else f"{v.mix} {v.mix_alpha:g}"
    return (
        f"AdamW {e.learning_rate:g}, decay {e.weight_decay:g}, half-cosine, {e.epochs} epochs, "
        f"batch {e.batch_size}, crops {v.min_scale:g}-1, {mix}, soft labels at T {v.temperature:g}"
        f", {e.seeds} seeds, full test set"
    )


@dataclass(frozen=True)
class TrainingSet:
    """Images that a student learns from: uint8 [N, S, S, C], int32 [N], float32 [N, classes]."""

    pixels: np.ndarray
    labels: np.ndarray
    teacher_logits: np.ndarray


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/evaluation; finished students survive a kill in evaluation.partial."""
    judge = teacher.load(workdir.path / "teacher")
    teacher.check_against(judge, source, say)
    made_from = _made_from(recipe, source, workdir)
    partial = workdir.partial(ARTEFACT, made_from)
    sets = _training_sets(recipe, source, judge, workdir)
    e = recipe.evaluate
    jobs = [
        (student, regime, images, seed)
        for student in e.students
        for regime in e.regimes
        for images in e.images
        for seed in range(e.seeds)
    ]
    scores = []
    with progress(len(jobs) * e.epochs, "evaluate", "epoch") as shown:
        for student, regime, images, seed in jobs:
            path = partial / f"{student}-{regime}-{images}-{seed}.json"
            weights = partial / _KEPT / path.stem
            if path.exists() and (weights.is_dir() or not e.keep_students):
                scores.append(Score(**files.read_json(path)))
                shown.update(e.epochs)
                continue
            started = time.perf_counter()

            label = f"{student} {regime} {images} seed {seed}"

            def on_epoch(loss: float, label: str = label) -> None:
                shown.update(1, training=label, loss=loss)

            spec = student_spec(recipe, student, source)
            history, variables = train_student(
                spec, judge, sets(images, seed), source, regime, recipe, seed, on_epoch
            )
            score = make_score(
                student, regime, images, seed, history, time.perf_counter() - started
            )
            if e.keep_students:
                trained = Teacher(
                    spec, variables, judge.normalisation, source.class_names, score.last
                )
                with files.replacing_folder(weights) as folder:
                    teacher.save(folder, trained, {"inputs": made_from, "score": asdict(score)})
            files.write_json(path, asdict(score))
            workdir.log.write("evaluate", e.epochs, **asdict(score))
            scores.append(score)
    rows = aggregate(scores)
    with files.replacing_folder(workdir.path / ARTEFACT) as folder:
        if e.keep_students:
            shutil.copytree(partial / _KEPT, folder / _KEPT)
        files.write_json(folder / "scores.json", [asdict(s) for s in scores])
        files.write_json(
            folder / "manifest.json",
            {
                "inputs": made_from,
                "protocol": protocol(recipe),
                "teacher": {"hash": judge.hash, "accuracy": judge.accuracy},
                "distilled": made_from["distilled"],
                "class_names": list(source.class_names),
                "test_images": len(source.test),
                "rows": [asdict(r) for r in rows],
                "hash": files.content_hash(repr(scores).encode()),
                "seconds": round(sum(s.seconds for s in scores), 1),
            },
        )
    shutil.rmtree(partial)
    for row in rows:
        say(f"  {row.student}, {row.regime}, {row.images}: {row.text()}")


def student_spec(recipe: Recipe, name: str, source: Source) -> ModelSpec:
    """Architecture of a student."""
    return ModelSpec(
        name, len(source.class_names), source.image_size, source.channels, recipe.evaluate.width
    )


def _training_sets(
    recipe: Recipe, source: Source, judge: Teacher, workdir: WorkDir
) -> Callable[[str, int], TrainingSet]:
    synthetic = distilled.read(workdir.path / "distilled")
    teacher.check_class_names("The distilled set", synthetic.class_names, source)
    labelled = workdir.needed("soft_labels/manifest.json", "relabel")
    teacher.check_class_names("The soft labels", tuple(labelled["class_names"]), source)
    stored = soft_labels.read(workdir.path / "soft_labels", synthetic.manifest["hash"])
    num_classes, ipc = len(source.class_names), synthetic.manifest["ipc"]

    def real(indices: np.ndarray) -> TrainingSet:
        flat = indices.reshape(-1)
        pixels = read(source.train, flat)
        return TrainingSet(pixels, source.train.labels[flat], teacher.logits_of(judge, pixels))

    @functools.cache
    def training_set(images: str, seed: int) -> TrainingSet:
        if images == "recovered":
            return TrainingSet(synthetic.images, synthetic.labels, stored)
        if images == "random":
            drawn = random_images(source.train.labels, ipc, num_classes, recipe.seed + seed)
            return real(drawn)
        ranking = ranking_store.read(workdir.path, judge.hash)
        return real(select(ranking, recipe.select.rule, ipc, num_classes, recipe.seed))

    return training_set


@functools.lru_cache(maxsize=16)
def _make_step(
    student: nn.Module,
    judge: nn.Module,
    regime: str,
    views: ViewRecipe,
    flip: bool,
    recipe: EvaluateRecipe,
    steps_per_epoch: int,
    normalisation: Normalisation,
):
    optimiser = training.adamw(
        training.half_cosine(recipe.learning_rate, recipe.epochs, steps_per_epoch),
        recipe.weight_decay,
    )
    temperature = 1.0 if regime == "hard" else views.temperature
    spec = ViewSpec("", 1, views.min_scale, flip, views.mix, views.mix_alpha)

    @functools.partial(jax.jit, donate_argnums=0, static_argnums=7)
    def step(state, judge_variables, pixels, labels, plan, epoch_key, start, batch):
        """Labels [N, C] are probabilities; the online regime replaces them."""
        mixed = student_views(epoch_key, pixels, normalisation, plan, start, batch, spec, True)
        if regime == "online":
            targets = teacher.soft_labels(judge, judge_variables, mixed.images, temperature)
        else:
            own = jax.lax.dynamic_slice(plan.order, (start,), (batch,))
            partners = plan.order[jax.lax.dynamic_slice(plan.partner, (start,), (batch,))]
            targets = mixed.labels(labels[own], labels[partners])
        return training.update(
            student,
            optimiser,
            lambda logits: objective.kl_divergence(logits, targets, temperature),
            state,
            mixed.images,
            keys.derive(epoch_key, "dropout", start),
        )

    return optimiser, step


_plan = jax.jit(plan_epoch, static_argnums=(1, 2))


def train_student(
    spec: ModelSpec,
    judge: Teacher,
    data: TrainingSet,
    source: Source,
    regime: str,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[float], None],
) -> tuple[list[tuple[int, float]], dict[str, Any]]:
    """Trains one student and looks at the full test set every `eval_every` epochs.

    Initialisation, order and views depend on (recipe.seed, seed) alone, so the same seed sees
    the same draws on every set and in every regime.

    Returns:
      (epoch, test accuracy in [0, 1]) of each look, the last epoch always among them; and the
      variables after the last epoch, host arrays.
    """
    e = recipe.evaluate
    count, batch = len(data.labels), min(e.batch_size, len(data.labels))
    starts = range(0, count, batch)
    model = models.create(spec)
    optimiser, step = _make_step(
        model,
        judge.model,
        regime,
        recipe.relabel,
        recipe.relabel.flip and recipe.data.flip,
        e,
        len(starts),
        judge.normalisation,
    )
    state = training.init_state(
        model,
        optimiser,
        keys.stream(recipe.seed, "student", seed),
        (spec.image_size, spec.image_size, spec.channels),
    )
    if regime == "fixed":
        targets = softmax(data.teacher_logits / recipe.relabel.temperature, axis=1)
    else:
        targets = np.eye(spec.num_classes, dtype=np.float32)[data.labels]
    judge_variables = jax.tree.map(jnp.asarray, judge.variables)
    pixels, targets = jnp.asarray(data.pixels), jnp.asarray(targets)
    history = []
    for epoch in range(e.epochs):
        epoch_key = keys.stream(recipe.seed, "views", seed, epoch)
        plan = _plan(epoch_key, count, batch)
        for start in starts:
            state, loss = step(
                state,
                judge_variables,
                pixels,
                targets,
                plan,
                epoch_key,
                start,
                min(batch, count - start),
            )
        done = epoch + 1
        if done % e.eval_every == 0 or done == e.epochs:
            measured = teacher.accuracy(model, state.variables, judge.normalisation, source.test)
            history.append((done, measured))
        on_epoch(float(loss))
    return history, jax.tree.map(np.asarray, state.variables)


def make_score(
    student: str,
    regime: str,
    images: str,
    seed: int,
    history: list[tuple[int, float]],
    seconds: float,
) -> Score:
    """Last and best epoch of a training."""
    best_epoch, best = max(history, key=lambda look: look[1])
    return Score(
        student=student,
        regime=regime,
        images=images,
        seed=seed,
        last=history[-1][1],
        best=best,
        best_epoch=best_epoch,
        history=[list(look) for look in history],
        seconds=round(seconds, 2),
    )
