"""Every setting of a run: frozen dataclasses whose fields say all there is to say about each.

A setting's default, meaning, allowed values and effects stand at its field, and nowhere else.
`delt_jax.config` fills a `Recipe` from a config file and checks it; docs/settings.md lists it.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from delt_jax.recipe.data import DataRecipe
from delt_jax.recipe.evaluate import EvaluateRecipe, RelabelRecipe, ReportRecipe
from delt_jax.recipe.fields import at_least, one_of, setting, settings_of, some_of
from delt_jax.recipe.learn import LearnRecipe
from delt_jax.recipe.recover import RecoverRecipe, SelectRecipe
from delt_jax.recipe.teacher import TeacherRecipe

__all__ = [
    "REMOVED",
    "SETTINGS",
    "DataRecipe",
    "EvaluateRecipe",
    "LearnRecipe",
    "Recipe",
    "RecoverRecipe",
    "RelabelRecipe",
    "ReportRecipe",
    "SelectRecipe",
    "TeacherRecipe",
    "affecting",
    "choices",
    "flatten",
]


@dataclass(frozen=True)
class Recipe:
    """A whole run: settings of all stages, then a group for each subject."""

    seed: int = setting(
        0,
        "Root of all random draws.",
        affects=("teacher", "images", "labels", "scores"),
        allowed=at_least(0, most=2**32 - 1),
    )
    ipc: int = setting(
        10,
        "Distilled images per class. 0 takes 10, or as many as the smallest class has where its "
        "images do not repeat (select.small_classes).",
        affects=("images", "labels", "scores"),
        allowed=at_least(0, most=10**6),
    )
    synthesis: str = setting(
        "recover",
        'How the set is made: images are optimised for a teacher ("recover"), or learned through '
        'networks in training, without a teacher ("learn", see docs/learned.md).',
        affects=("images", "labels", "scores"),
        allowed=one_of("recover", "learn"),
    )
    writers: tuple[str, ...] = setting(
        ("jsonl",),
        "Where metrics go, see docs/metrics.md; to `metrics.jsonl` they always do.",
        affects="files",
        allowed=some_of("jsonl", "tensorboard", "wandb"),
    )
    data: DataRecipe = field(default_factory=DataRecipe)
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    select: SelectRecipe = field(default_factory=SelectRecipe)
    recover: RecoverRecipe = field(default_factory=RecoverRecipe)
    learn: LearnRecipe = field(default_factory=LearnRecipe)
    relabel: RelabelRecipe = field(default_factory=RelabelRecipe)
    evaluate: EvaluateRecipe = field(default_factory=EvaluateRecipe)
    report: ReportRecipe = field(default_factory=ReportRecipe)

    @property
    def needs_teacher(self) -> bool:
        """Whether anything asks for a teacher: images, labels, or how real images are chosen."""
        labels = set(self.evaluate.regimes) & _OF_A_TEACHER["regimes"]
        images = set(self.evaluate.images) & _OF_A_TEACHER["images"]
        return self.synthesis == "recover" or bool(labels or images)


# What of `evaluate` is made by a teacher.
_OF_A_TEACHER = {
    "regimes": {"online", "stored", "fixed"},
    "images": {"selected", "herding", "kmeans"},
}


# All settings by their dotted names, e.g. "recover.iterations".
SETTINGS = settings_of(Recipe)

# Settings that there were once, and the only value that runs have now. Manifests of older runs
# name them.
REMOVED: dict[str, Any] = {
    "recover.antialias": True,
    "relabel.flip": True,
    "report.classes": 10,
    "report.per_class": 10,
}


def flatten(recipe: Any, prefix: str = "") -> dict[str, Any]:
    """Settings as one dict of dotted names, e.g. {"recover.iterations": 4000}."""
    flat: dict[str, Any] = {}
    for f in dataclasses.fields(recipe):
        value = getattr(recipe, f.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{f.name}.")
        else:
            flat[prefix + f.name] = value
    return flat


def affecting(result: str, recipe: Recipe, group: str) -> dict[str, Any]:
    """The settings of a group that affect a result, by their dotted names.

    Args:
      result: a key of `fields.RESULTS`, e.g. "images".
      recipe: of the run.
      group: name of a field of `Recipe`, e.g. "recover".
    """
    settings = flatten(getattr(recipe, group), f"{group}.")
    return {name: value for name, value in settings.items() if result in SETTINGS[name].affects}


def choices(name: str) -> tuple[Any, ...]:
    """The values that a setting chooses from, e.g. of "select.start"; () if it has no such list."""
    return SETTINGS[name].choices
