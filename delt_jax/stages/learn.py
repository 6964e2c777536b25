"""Stage 3, learn: a set learned through networks in training, in the place of a recovered one."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax import models
from delt_jax.augment import dsa
from delt_jax.core import stopping
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.core.progress import progress, say
from delt_jax.data import Source, whitening
from delt_jax.errors import UserError
from delt_jax.evaluation import learned_score
from delt_jax.evaluation.rows import at_rate, learned_rate
from delt_jax.formats import distilled
from delt_jax.formats.decoding import Decoding
from delt_jax.formats.distilled import DistilledSet
from delt_jax.learned import driver, methods, program, setups, start
from delt_jax.learned.checkpoint import Progressed
from delt_jax.learned.driver import LearnTask
from delt_jax.learned.expert_walk import ExpertWalk
from delt_jax.learned.method import Learned, Method, Setup
from delt_jax.learned.program import SetProgram
from delt_jax.learned.real_batches import devices_for
from delt_jax.learned.setups import preprocessing_of, setup_of
from delt_jax.recipe import Recipe, affecting
from delt_jax.runtime import devices, environment
from delt_jax.store import artefact, files
from delt_jax.store.identity import versions
from delt_jax.store.workdir import WorkDir

ARTEFACT = "distilled"
# How labels are read, by how a method starts them.
_FORMS = {
    "one_hot": "probabilities",
    "centred": "centred",
    "shifted": "centred",
    "weights": "weights",
    "expert_logits": "logits",
}


def skipped(recipe: Recipe) -> str:
    """Why nothing is learned, as a phrase; empty if a set is."""
    return "" if recipe.synthesis == "learn" else "synthesis is 'recover'"


def check(recipe: Recipe, source: Source) -> None:
    """Raises a UserError if a set cannot be learned from the data with these settings."""
    learn = recipe.learn
    try:
        setup = setup_of(recipe, source)
    except UserError as e:
        raise UserError(str(e).replace("relabel.dsa", "learn.augment")) from e
    models.create(setup.spec)
    if setup.factor > source.image_size:
        raise UserError(
            f"learn.factor ({setup.factor}) is more than the {source.image_size} pixels of a side."
        )
    method, images = methods.find(learn.method), len(setups.classes_learned_from(recipe, source))
    if setup.more_real > images and images:
        raise UserError(
            f"A network trains on {setup.more_real} real images a step (learn.real_batch times "
            f"learn.network_steps), but there are {images}; lower learn.network_steps."
        )
    if method.walks_on_experts and 0 < images < setup.option("expert_batch"):
        raise UserError(
            f"learn.options of {method.name}: expert_batch={setup.option('expert_batch'):g} is "
            f"more than the {images:,} training images, so experts would never take a step; lower "
            f"it."
        )
    if method.keeps_bounds and str(learn.preprocessing).startswith("unit"):
        raise UserError(
            f"{method.name} keeps images between black and white, which learn.preprocessing "
            f"{learn.preprocessing!r} does not have for all images alike; take 'standardise'."
        )
    if learn.keep == "best" and learn.validate_every > setup.steps:
        raise UserError(
            f"learn.validate_every ({learn.validate_every}) is more than learn.steps "
            f"({setup.steps}); lower it."
        )


def work(recipe: Recipe, source: Source) -> tuple[Setup, float]:
    """The setup, and passes of one image through the network that all steps amount to, forward."""
    setup, method = setup_of(recipe, source), methods.find(recipe.learn.method)
    return setup, float(method.passes(setup)) * setup.steps


def words(recipe: Recipe, source: Source) -> list[str]:
    """Lines of the plan on how a set is learned."""
    setup, method = setup_of(recipe, source), methods.find(recipe.learn.method)
    asked = _walk_in_words(setup) if method.walks_on_experts else _networks_in_words(method, setup)
    lines = [
        f"learned by {method.name}: {setup.num_classes * setup.ipc:,} images, {setup.steps:,} "
        f"steps, each with {asked}"
    ]
    if setup.factor > 1:
        lines.append(f"every image is {setup.factor} x {setup.factor} smaller ones")
    if every := recipe.learn.validate_every:
        held = f"{setups.OWN_SHARE:.0%} of the training images"
        if not setups.holds_out(recipe):
            held = "the validation images"
        lines.append(
            f"validated every {every:,} steps on {held}; the {recipe.learn.keep} set goes on"
        )
    return lines


def _networks_in_words(method: Method, setup: Setup) -> str:
    many = f"a pool of {method.pool.size} networks" if method.pool.size > 1 else "a network"
    of_each = " of each class" if method.by_class else ""
    return (
        f"{setup.real_batch} real images{of_each} through {many} ({setup.spec.name}), made anew "
        f"after {setup.lifetime} step(s)"
    )


def _walk_in_words(setup: Setup) -> str:
    numbers = {name: int(value) for name, value in setup.options}
    first, last, grown = (numbers[n] for n in ("first_start", "last_start", "grown_last_start"))
    later = f", later up to {grown - 1}" if grown > last else ""
    return (
        f"{numbers['student_steps']} steps of a student ({setup.spec.name}) towards "
        f"{numbers['expert_epochs']} epoch(s) of one of {numbers['experts']} experts, from a start "
        f"after {first} to {last - 1} of its epochs{later}"
    )


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """Inputs of the learned set."""
    setup = setup_of(recipe, source)
    settings = affecting("images", recipe, "learn")
    if not recipe.learn.validate_every:
        del settings["learn.validate_every"], settings["learn.keep"]
    elif recipe.learn.keep == "best":  # which depends on how students train
        decoding = decoding_of(recipe)
        settings |= learned_score.inputs(recipe, source, decoding.copies if decoding else 1)
    if methods.find(recipe.learn.method).walks_on_experts:
        settings["experts"] = workdir.needed(setups.EXPERTS, "experts")["hash"]
    if setups.holds_out(recipe):
        settings["data.split_seed"] = recipe.data.split_seed
    parts = {
        "learned.engine": program.VERSION,
        f"learned.{recipe.learn.method}": methods.version(recipe.learn.method),
        f"model.{setup.spec.name}": models.version(setup.spec.name),
    }
    if setup.augment:
        parts["augment.dsa"] = dsa.VERSION
    if recipe.learn.preprocessing != "standardise":
        parts["data.whitening"] = whitening.VERSION
    return (
        settings
        | versions(parts)
        | {
            "synthesis": recipe.synthesis,
            "seed": recipe.seed,
            "ipc": recipe.ipc,
            "data": source.fingerprint,
            "data.flip": recipe.data.flip,
            "class_names": source.class_names,
            "data.mean": recipe.data.mean,
            "data.std": recipe.data.std,
        }
    )


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/distilled, resuming what an interrupted run left in distilled.partial."""
    stage_inputs = inputs(recipe, source, workdir)
    method, setup = methods.find(recipe.learn.method), setup_of(recipe, source)
    count = setup.num_classes * setup.ipc
    say(
        f"  learning {count:,} images: {method.name} through {setup.spec.name}, {setup.steps:,} "
        f"steps from {recipe.learn.start!r}"
    )
    partial = workdir.partial(ARTEFACT, stage_inputs)
    scored = setups.learned_from(recipe, source)
    if setups.holds_out(recipe):
        say(f"  {len(scored.test):,} training images are held out to validate on")
    task = _task(recipe, scored, workdir, partial, preprocessing_of(recipe, scored))
    begun = driver.begin(task)
    done = len(begun.losses)
    if done:
        say(f"  learn goes on after {done:,} of {setup.steps:,} steps")
    with progress(setup.steps, "learn", "step", done) as bar, stopping.deferred():
        finished = driver.finish(task, begun, bar)
    _write(recipe, scored, workdir, task, finished, stage_inputs)
    files.delete_folder(partial)


def _task(
    recipe: Recipe, source: Source, workdir: WorkDir, partial: Path, space: Preprocessing
) -> LearnTask:
    """What is to be learned from the training images of `source`, and scored on its test images."""
    learn, setup = recipe.learn, setup_of(recipe, source, space.normalisation)
    method = methods.find(learn.method)
    assert learn.start is not None

    begun = start.of(learn.start, method, source.train, setup, space, recipe.seed)
    walk = None
    if method.walks_on_experts:
        workdir.needed(setups.EXPERTS, "experts")
        store = setups.expert_store(recipe, source, workdir.path)
        walk = ExpertWalk(store, setup, recipe.seed)
        if method.labels == "expert_logits":
            classes = np.repeat(np.arange(setup.num_classes), setup.ipc)
            logits = setups.expert_logits(store, setup, begun.images, classes)
            begun = begun._replace(labels=logits.astype(np.float32))

    def validate(learned: Learned) -> float:
        rate = learned_rate(recipe, {name: float(v) for name, v in learned.extra.items()})
        if rate is not None and rate <= 0:
            return 0.0  # nobody learns at it
        made = _as_set(recipe, source, method, learned, space)
        return learned_score.accuracy(at_rate(recipe, rate), source, made, partial)

    return LearnTask(
        SetProgram(method, setup, space.normalisation, space.kind),
        recipe.seed,
        begun,
        space,
        source.train,
        partial,
        workdir.log,
        learn.chunk_steps,
        learn.save_minutes,
        learn.validate_every,
        validate,
        walk.segment if walk else None,
    )


def label_form(recipe: Recipe) -> str | None:
    """How learned labels are to be read; None where the classes are the labels."""
    method = methods.find(recipe.learn.method)
    if method.labels in ("one_hot", "weights") and not recipe.learn.label_rate:
        return None
    return _FORMS[method.labels]


def _as_set(
    recipe: Recipe, source: Source, method: Method, learned: Learned, space: Preprocessing
) -> DistilledSet:
    """What is learned, as it would be read from disk."""
    form = label_form(recipe)
    decoding = decoding_of(recipe)
    manifest = {
        "class_names": list(source.class_names),
        "ipc": recipe.ipc,
        **distilled.manifest_of_learned(space, decoding, form),
    }
    classes = np.arange(len(source.class_names), dtype=np.int32)
    return DistilledSet(
        learned.images,
        np.repeat(classes, recipe.ipc),
        source.class_names,
        manifest,
        preprocessing=space,
        learned_labels=None if form is None else learned.labels,
        decoding=decoding,
    )


def decoding_of(recipe: Recipe) -> Decoding | None:
    """How stored images become those that students see; None where they are the same.

    FRePo's mirrored copies are its loss's alone, RCIG's are students', too.
    """
    is_mirrored = recipe.learn.mirrored and recipe.data.flip
    keeps_mirrored = methods.find(recipe.learn.method).keeps_mirrored
    decoding = Decoding(recipe.learn.factor or 1, bool(is_mirrored and keeps_mirrored))
    return decoding if decoding.copies > 1 else None


def _write(
    recipe: Recipe,
    source: Source,
    workdir: WorkDir,
    task: LearnTask,
    finished: Progressed,
    stage_inputs: dict[str, Any],
) -> None:
    """Writes the set that goes on, and beside it the last one and the best."""
    method, setup = task.program.method, task.program.setup
    sets = {"last": program.outcome(task.program, finished.state, setup.steps)}
    if finished.validated:
        sets["best"] = finished.best
    kept = _as_set(recipe, source, method, sets[recipe.learn.keep], task.preprocessing)
    manifest = {
        "inputs": stage_inputs,
        "warnings": [],
        "synthesis": "learn",
        "class_names": list(source.class_names),
        "ipc": recipe.ipc,
        "image_size": source.image_size,
        "channels": source.channels,
        "normalisation": task.preprocessing.normalisation.as_dict(),
        "network": setup.spec.as_dict(),
        "method": method.name,
        "seed": recipe.seed,
        "settings": {"learn": dataclasses.asdict(recipe.learn)},
        "start": {"kind": recipe.learn.start},
        "kept": recipe.learn.keep,
        "extra": {name: float(v) for name, v in sets[recipe.learn.keep].extra.items()},
        "validation": [list(one) for one in finished.validated],
        "validated_on": source.scored if finished.validated else None,
        "execution": {
            "devices": devices_for(setup.real_batch, devices.device_count()),
            "chunk_steps": driver.chunk_steps(recipe.learn.chunk_steps, setup),
        },
        "repeatable": environment.repeats(),
        "made": devices.here_and_now(),
        "cost_seconds": round(finished.seconds, 1),
        **distilled.manifest_of_learned(task.preprocessing, kept.decoding, label_form(recipe)),
    }
    with artefact.replacing(workdir.path / ARTEFACT) as folder:
        manifest["hash"] = distilled.write_learned(
            folder, kept.images, kept.learned_labels, task.preprocessing, kept.decoding
        )
        files.write_npz(folder / "losses.npz", loss=finished.losses)
        for name, learned in sets.items():
            if name != recipe.learn.keep or learned.extra:
                more = {f"extra_{key}": value for key, value in learned.extra.items()}
                files.write_npz(
                    folder / f"{name}.npz", images=learned.images, labels=learned.labels, **more
                )
        artefact.seal(folder / "manifest.json", manifest)
    _tell(recipe, task, finished)


def _tell(recipe: Recipe, task: LearnTask, finished: Progressed) -> None:
    setup = task.program.setup
    rate = setup.steps / max(finished.seconds, 1e-9)
    say(
        f"  learned {setup.num_classes * setup.ipc} images in {finished.seconds:.0f} s: "
        f"{setup.steps:,} steps, {rate:.3g} per second, loss {finished.losses[:10].mean():.4g} -> "
        f"{finished.losses[-10:].mean():.4g}"
    )
    if finished.validated:
        best = max(finished.validated, key=lambda one: (one[1], -one[0]))
        last = finished.validated[-1]
        say(
            f"  validation accuracy {100 * last[1]:.1f} % after the last step, at best "
            f"{100 * best[1]:.1f} % after step {best[0]:,}; the {recipe.learn.keep} set goes on"
        )
