"""What a recipe asks to be trained: the rows of the table of scores."""

from dataclasses import dataclass

from delt_jax.data import Source
from delt_jax.models import ModelSpec
from delt_jax.recipe import Recipe
from delt_jax.training import protocols
from delt_jax.training.protocols import EvalSetting, Protocol


@dataclass(frozen=True)
class Row:
    """One line of the table: students that differ by seed and learning rate only."""

    student: str
    regime: str
    images: str
    ipc: int


def rows_of(recipe: Recipe, ipc: int) -> list[Row]:
    """The rows that a recipe asks for, of a distilled set with so many images per class."""
    e = recipe.evaluate
    sizes = {name: [ipc] for name in e.images if name != "full"}
    if "recovered" in sizes:
        sizes["recovered"] += sorted({k for k in e.smaller if k < ipc}, reverse=True)
    rows = []
    for student in e.students:
        for regime in e.regimes:
            rows += [Row(student, regime, name, k) for name in sizes for k in sizes[name]]
        if e.plain:
            plain = [name for name in ("recovered", "random") if name in sizes]
            rows += [Row(student, "plain", name, ipc) for name in plain]
        if "full" in e.images:
            rows.append(Row(student, "hard", "full", 0))
    return rows


def student_spec(recipe: Recipe, name: str, source: Source) -> ModelSpec:
    """Architecture of a student."""
    e = recipe.evaluate
    classes = len(source.class_names)
    return ModelSpec(name, classes, source.image_size, source.channels, e.width, e.dtype)


def settle(recipe: Recipe, source: Source, row: Row, rate: float | None = None) -> Protocol:
    """The protocol that a row is trained by."""
    trial = EvalSetting(row.student, len(source.class_names), row.ipc, source.image_size)
    return protocols.settle(recipe, trial, rate)
