"""Which students a recipe asks for: the rows of the table of scores."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec
from delt_jax.recipe import Recipe
from delt_jax.training import protocols
from delt_jax.training.protocols import EvalSetting, Protocol

_HARD = ("hard", "plain")  # regimes whose labels are the classes


@dataclass(frozen=True)
class EvalRow:
    """A row that is asked for: students that differ only by seed and learning rate.

    Attributes:
      student: architecture.
      regime: where labels come from (see `delt_jax.evaluation.metrics.Score`).
      image_set: name of the set that they train on, one of `evaluate.images`.
      ipc: images per class; 0 for all real images.
      copies: images to train on that each of these becomes, of the distilled set.
    """

    student: str
    regime: str
    image_set: str
    ipc: int
    copies: int = 1


def image_sets(recipe: Recipe) -> tuple[str, ...]:
    """Those of `evaluate.images` that can be had; all but one are of training images."""
    asked = recipe.evaluate.images
    has_all = recipe.data.has_training_images
    return asked if has_all else tuple(name for name in asked if name == "recovered")


def skipped(recipe: Recipe) -> str:
    """Why no students are trained, as a phrase; empty if some are."""
    if not recipe.data.has_test_images:
        return "there are no test images to score students on"
    if not image_sets(recipe):
        return "there are no training images for students to learn from"
    return ""


def rows_of(recipe: Recipe, ipc: int, copies: int = 1) -> list[EvalRow]:
    """The rows that a recipe asks for.

    Args:
      recipe: settings of the run.
      ipc: images per class of the distilled set.
      copies: images to train on that each of these becomes.
    """
    e = recipe.evaluate
    sizes = {name: [ipc] for name in e.images if name != "full"}
    if "recovered" in sizes:
        sizes["recovered"] += sorted({k for k in e.smaller if k < ipc}, reverse=True)
    rows = []

    def row(student: str, regime: str, name: str, k: int) -> EvalRow:
        return EvalRow(student, regime, name, k, copies if name == "recovered" else 1)

    for student in e.students:
        for regime in e.regimes:
            rows += [row(student, regime, name, k) for name in sizes for k in sizes[name]]
        if e.plain:
            plain = [name for name in ("recovered", "random") if name in sizes]
            rows += [row(student, "plain", name, ipc) for name in plain]
        if "full" in e.images:
            rows.append(EvalRow(student, "hard", "full", 0))
    return rows


def check_learned(recipe: Recipe) -> None:
    """Raises a UserError where a learned set's students cannot train as they are asked to.

    A set of float images has no labels of a teacher, and a rate that it has learned for the
    students of one protocol is not another's.
    """
    e = recipe.evaluate
    if e.protocol == "mtt" and e.hard_protocol and not e.learning_rates:
        raise UserError(
            f"evaluate.hard_protocol {e.hard_protocol!r} would train at the rate that the set "
            f"learns for protocol 'mtt'; leave it empty, or give evaluate.learning_rates."
        )
    asked = [r for r in recipe.evaluate.regimes if r in ("online", "stored", "fixed")]
    if asked:
        raise UserError(
            f"The distilled set holds float images in a space of their own, which teachers do not "
            f"know, but evaluate.regimes asks for labels of a teacher ({', '.join(asked)}); set it "
            f'to "learned", "hard" or both.'
        )


def student_spec(recipe: Recipe, name: str, source: Source) -> ModelSpec:
    """Architecture of a student, by its name in `evaluate.students`."""
    e = recipe.evaluate
    num_classes = len(source.class_names)
    return ModelSpec(name, num_classes, source.image_size, source.channels, e.width, e.dtype)


def resolve(recipe: Recipe, source: Source, row: EvalRow, rate: float | None = None) -> Protocol:
    """The protocol by which the students of a row train (see `protocols.resolve`)."""
    e = recipe.evaluate
    if row.regime in _HARD and e.hard_protocol:
        recipe = replace(recipe, evaluate=replace(e, protocol=e.hard_protocol))
    setting = EvalSetting(
        row.student,
        len(source.class_names),
        row.ipc * row.copies,
        source.image_size,
        source.channels,
        row.copies,
    )
    return protocols.resolve(recipe, setting, rate)


def learned_rate(recipe: Recipe, extra: Mapping[str, float]) -> float | None:
    """The rate that a set has learned for its students; None where they take another.

    Args:
      recipe: complete.
      extra: further numbers that the set has learned, by name.
    """
    e = recipe.evaluate
    if e.protocol != "mtt" or e.learning_rates:
        return None
    return extra.get("student_rate")


def at_rate(recipe: Recipe, rate: float | None) -> Recipe:
    """The recipe with one learning rate for all students; as it is without one."""
    if rate is None:
        return recipe
    return replace(recipe, evaluate=replace(recipe.evaluate, learning_rates=(rate,)))


def trainings(recipe: Recipe, source: Source, row: EvalRow) -> list[tuple[float, int]]:
    """Peak rate and number of each student of a row."""
    e = recipe.evaluate
    rates = e.learning_rates or (resolve(recipe, source, row).learning_rate,)
    return [(rate, seed) for rate in rates for seed in range(e.seeds)]
