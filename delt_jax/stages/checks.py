"""All that can be known to fail before the first stage runs: settings against data and machine."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from delt_jax import models, terms
from delt_jax.augment import rand_augment
from delt_jax.augment.views import parse_strategy
from delt_jax.core import plugins
from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.evaluation import rows
from delt_jax.formats import distilled
from delt_jax.labels import labelling
from delt_jax.learned import setups
from delt_jax.recipe import Recipe
from delt_jax.recovery import initial_images
from delt_jax.recovery.selection import check_class_sizes
from delt_jax.stages import learn, recover, squeeze
from delt_jax.store import metric_writers, remote
from delt_jax.store.local_copies import local
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import ensemble
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.training import learned_labels, student_loop
from delt_jax.training.protocols import Protocol

_MOST_PLACES = 4 * 10**6  # images times rounds of a schedule, which is laid out in memory
_INT32 = 2**31  # numbers on devices lie below


def check(recipe: Recipe, source: Source, names: Sequence[str] = ()) -> None:
    """Checks the recipe against the data before anything runs.

    Args:
      recipe: complete (see `delt_jax.config.derive`).
      source: the data, perhaps only described.
      names: of the stages that will run; all if empty. What only other stages read may be wrong.

    Raises:
      UserError: naming what cannot work.
    """
    metric_writers.check(recipe.writers)
    if recipe.needs_teacher:
        _check_teachers(recipe, source)
    _check_second_teacher(recipe, source)
    if recipe.data.has_training_images:
        _check_class_sizes(recipe, source, names)
    if recipe.data.has_test_images and len(source.test) == 0:
        raise UserError(f"{source.name} has no test images, so nothing could be scored.")
    if recipe.synthesis == "recover":
        _check_terms(recipe, source, names)
        _check_sides(recipe, source)
        initial_images.check(recipe, source)
        _check_schedule(recipe, source)
    else:
        learn.check(recipe, source)
        _check_students_of_floats(recipe, source, learn.label_form(recipe))
    if (not names or "evaluate" in names) and not rows.skipped(recipe):
        _check_students(recipe, source)


def _check_students_of_floats(recipe: Recipe, source: Source, form: str | None) -> None:
    """Raises a UserError for labels and views that students cannot have of float images.

    Args:
      recipe: complete.
      source: the data.
      form: of the labels that were learned with the images; None without any.
    """
    rows.check_learned(recipe)
    for row in rows.rows_of(recipe, recipe.ipc):
        protocol = rows.resolve(recipe, source, row)
        student_loop.check_floats(protocol.views)
        if row.regime == "learned":
            learned_labels.check(form, protocol.loss == "squared")


def _check_teachers(recipe: Recipe, source: Source) -> None:
    """Raises a UserError unless teachers can be had, and take the images."""
    squeeze.check_weights(recipe)
    squeeze.check_head_classes(recipe, source)
    squeeze.check_others(recipe, source)
    labelling.described(recipe.relabel.teachers, source)
    squeeze.check_norm(squeeze.spec_of(recipe, source))


def _check_second_teacher(recipe: Recipe, source: Source) -> None:
    """Raises a UserError unless `report.second_teacher` is the folder of a teacher of the data."""
    folder = recipe.report.second_teacher
    if not folder:
        return
    try:
        teacher_lib.check_fits(teacher_lib.describe(local(folder)), source)
    except UserError as e:
        raise UserError(f"report.second_teacher names {folder}: {e}") from e


def _check_terms(recipe: Recipe, source: Source, names: Sequence[str]) -> None:
    """Raises a UserError for a term that reads what is missing, or whose packages are."""
    for name, _ in terms.asked(recipe.recover.terms):
        term = terms.find(name)
        if not names or "recover" in names:
            term.check()
        if term.reads_images and not recipe.data.has_training_images:
            raise UserError(
                f"recover.terms has {name!r}, which reads training images, but data.name "
                f"{recipe.data.name!r} has none; leave it out."
            )
        others = ensemble.recipes(recipe).values() if recipe.recover.round_robin else ()
        for spec in (squeeze.spec_of(one, source) for one in (recipe, *others)):
            if term.reads_convolutions and not teacher_lib.convolves_images(spec):
                raise UserError(
                    f"recover.terms has {name!r}, which reads the inputs of convolutions, [B, h, "
                    f"w, c], but {spec.name} has none, or others; leave the term out, or choose "
                    f"another teacher."
                )


def _check_class_sizes(recipe: Recipe, source: Source, names: Sequence[str]) -> None:
    """Raises a UserError if a class has fewer real images than are taken of it."""
    needed = recipe.select.start == "real" and recipe.synthesis == "recover"
    needed = needed or (recipe.synthesis == "learn" and recipe.learn.start == "random")
    if not names or "evaluate" in names:
        real = set(recipe.evaluate.images) - {"recovered", "full"}
        needed = needed or bool(real)
    needed = needed and recipe.select.small_classes == "stop"
    check_class_sizes(source.train.labels, recipe.ipc if needed else 1, source.class_names)
    if recipe.synthesis == "learn" and recipe.learn.start == "random" and needed:
        _check_starts(recipe, source)


def _check_starts(recipe: Recipe, source: Source) -> None:
    """Raises a UserError if a class has fewer real images than its learned ones start from."""
    factor = recipe.learn.factor or 1
    taken = recipe.ipc * factor**2
    counts = np.bincount(
        setups.classes_learned_from(recipe, source), minlength=len(source.class_names)
    )
    smallest = int(counts.argmin())
    if counts[smallest] >= taken:
        return
    parts = f", in each of which are {factor**2}," if factor > 1 else ""
    held_out = " that are not held out to validate on" if setups.holds_out(recipe) else ""
    raise UserError(
        f"ipc is {recipe.ipc}, and the images{parts} start from {taken} real ones of each class, "
        f"but {source.class_names[smallest]!r} has only {counts[smallest]}{held_out}; lower ipc, "
        f"or set select.small_classes to 'repeat' to take them more than once."
    )


def _check_sides(recipe: Recipe, source: Source) -> None:
    """Checks what is measured in pixels against the images' side."""
    size = source.image_size
    for name, pixels in (
        ("teacher.crop_padding", recipe.teacher.crop_padding),
        ("recover.crop_padding", recipe.recover.crop_padding),
    ):
        if pixels >= size:
            raise UserError(
                f"{name} ({pixels}) must be below the images' side, which is {size} px."
            )
    if recipe.recover.jitter > size:
        raise UserError(
            f"recover.jitter ({recipe.recover.jitter}) must be at most the images' side, which is "
            f"{size} px."
        )


def _check_schedule(recipe: Recipe, source: Source) -> None:
    """Checks that the schedule can be laid out, and lays it out."""
    r, num_images = recipe.recover, len(source.class_names) * recipe.ipc
    rounds = r.iterations // (r.round_iterations or max(r.iterations, 1))
    if max(rounds, 1) * num_images > _MOST_PLACES:
        raise UserError(
            f"{num_images:,} images (ipc {recipe.ipc}) in {rounds:,} rounds are more than a "
            f"schedule can hold, which is {_MOST_PLACES:,} images times rounds; lower ipc or raise "
            f"recover.round_iterations."
        )
    if r.residual and r.iterations * r.residual_rounds >= _INT32:
        raise UserError(
            f"recover.residual_rounds ({r.residual_rounds}) times recover.iterations "
            f"({r.iterations}) must be below {_INT32}; lower one of them."
        )
    recover.schedule_of(recipe, len(source.class_names))


def _check_students(recipe: Recipe, source: Source) -> None:
    """Raises a UserError for a student that takes no such images, views or batches."""
    e = recipe.evaluate
    for name in e.students:
        outside = plugins.is_allowed(plugins.MODELS, name) and name not in models.NAMES
        if outside and e.batch_norm == "shared" and (e.devices_per_student or 1) > 1:
            raise UserError(
                f"evaluate.batch_norm 'shared' needs delt_jax's own BatchNorm, which the plug-in "
                f"{name!r} may not have; set it to 'own', or evaluate.devices_per_student to 1."
            )
        if recipe.evaluate.students.count(name) > 1:
            raise UserError(f"evaluate.students lists {name!r} more than once; list it once.")
        models.create(rows.student_spec(recipe, name, source))
    for row in rows.rows_of(recipe, recipe.ipc):
        if row.image_set == "full":
            continue
        num_images = len(source.class_names) * row.ipc
        protocol = rows.resolve(recipe, source, row)
        batch = protocol.batch_size
        _check_views(protocol, source.image_size)
        if num_images > batch and num_images % batch == 1:
            raise UserError(
                f"Batches of {batch} leave a last one of a single image of the {num_images}, on "
                f"which BatchNorm cannot train; set evaluate.batch_size to {batch - 1} or "
                f"{batch + 1}."
            )
        shares, shared_norm = e.devices_per_student or 1, e.batch_norm == "shared"
        student_loop.check_sharing(shares, batch, num_images, shared_norm)
        _check_steps(protocol, num_images)


def _check_views(protocol: Protocol, size: int) -> None:
    """Checks the augmentations of a protocol against the images' side."""
    if protocol.views.rand_augment:
        rand_augment.parse(protocol.views.rand_augment)
    if protocol.views.dsa:
        parse_strategy(protocol.views.dsa)
    if protocol.views.shuffle > size:
        raise UserError(
            f"relabel.shuffle ({protocol.views.shuffle}) cuts a view into more strips than its "
            f"{size} pixels; set it to {size} or less."
        )


def _check_steps(protocol: Protocol, num_images: int) -> None:
    """Raises a UserError unless a training takes a gradient step, and counts its steps in int32."""
    batches = protocol.epochs * -(-num_images // protocol.batch_size)
    if batches < protocol.accumulate:
        raise UserError(
            f"evaluate.accumulate is {protocol.accumulate}, but a student sees only {batches} "
            f"batches in all, so it would never take a gradient step; lower it."
        )
    if batches >= _INT32:
        raise UserError(
            f"evaluate.epochs is {protocol.epochs}, which makes {batches:,} batches; fewer than "
            f"{_INT32:,} can be counted."
        )


def check_places(
    recipe: Recipe, source: Source, workdir: WorkDir, names: Sequence[str] = ()
) -> None:
    """Checks that files to be read are whole, and that folders to be written to can be.

    Args:
      recipe: complete.
      source: the data.
      workdir: may not exist yet.
      names: of the stages that will run; all if empty.

    Raises:
      UserError: naming the file or folder.
    """
    check_writable("--workdir", workdir.path)
    _check_other_set(recipe.select.set, workdir)
    scores = recipe.evaluate.scores_folder
    if scores and (not names or "evaluate" in names):
        check_writable("evaluate.scores_folder", Path(scores).absolute())
    if recipe.needs_teacher and (not names or "squeeze" in names):
        squeeze.check_readable(recipe, source, workdir)
    if not names or "relabel" in names or "evaluate" in names:
        for folder in recipe.relabel.teachers:
            weights = local(folder) / teacher_lib.WEIGHTS
            if not os.access(weights, os.R_OK):
                raise UserError(f"relabel.teachers names {folder}, but {weights} cannot be read.")


def _check_other_set(path: str, workdir: WorkDir) -> None:
    """Raises a UserError if `select.set` lies where the run writes a set of its own."""
    if not path or remote.is_remote(path):
        return
    place, ours = Path(path).resolve(), workdir.path.resolve() / recover.ARTEFACT
    if place in (ours.parent, ours) or ours in place.parents:
        raise UserError(
            f"select.set {path} is the set of this very run, which would replace it; choose "
            f"another --workdir."
        )


def check_writable(name: str, path: Path) -> None:
    """Raises a UserError unless a folder can be written to, or made where it does not exist.

    Args:
      name: of the setting, for the sentence.
      path: absolute.
    """
    existing = next(p for p in (path, *path.parents) if os.path.lexists(p))
    where = f"{name} {path}" if existing == path else f"{name} {path} lies in {existing}, which"
    if not existing.is_dir():
        raise UserError(f"{where} is no folder; choose another folder.")
    flags = os.statvfs(existing).f_flag
    if flags & os.ST_RDONLY or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{where} cannot be written to; choose another folder.")


def check_imported(names: Sequence[str], recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Checks a set that was brought into the work directory against recipe and data.

    Raises:
      UserError: if the chosen stages would replace it, or it does not fit.
    """
    manifest = workdir.manifest("distilled/manifest.json")
    if manifest is None or "imported" not in manifest:
        return
    folder = workdir.path / "distilled"
    if not names or recipe.synthesis in names:
        raise UserError(
            f"{folder} was imported and the {recipe.synthesis} stage would replace it; name other "
            f"stages, such as --stages=squeeze,relabel,evaluate,report, or choose another "
            f"--workdir."
        )
    shape = (manifest["image_size"], manifest["channels"])
    if shape != (source.image_size, source.channels):
        raise UserError(
            f"The images in {folder} are {shape[0]} px of {shape[1]} channels, but the data are "
            f"{source.image_size} px of {source.channels}; set data.image_size and data.channels."
        )
    if manifest["ipc"] != recipe.ipc:
        raise UserError(
            f"{folder} has {manifest['ipc']} images per class, but ipc is {recipe.ipc}; add "
            f"--config.ipc={manifest['ipc']}."
        )
    class_names = tuple(manifest["class_names"])
    numbers = tuple(map(str, range(len(source.class_names))))
    if class_names == numbers != source.class_names:
        raise UserError(
            f"The classes in {folder} are only numbered; import it again with --class_names=FILE, "
            f"which lists their names in the order of its labels, one a line."
        )
    teacher_lib.check_class_names("The distilled set", class_names, source)
    is_scored = "evaluate" in names and not rows.skipped(recipe)
    if is_scored and manifest["storage"] == distilled.FLOATS:
        labels = manifest.get("learned_labels")
        form = labels.get("form") if isinstance(labels, dict) else None
        _check_students_of_floats(recipe, source, form)
