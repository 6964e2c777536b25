"""A recipe with stored labels of few images and epochs, and its plan; compiled compression."""

import dataclasses

import jax

from delt_jax.augment.views import ViewSpec
from delt_jax.labels import compact
from delt_jax.labels.label_store import LabelPlan
from delt_jax.recipe import DataRecipe, EvaluateRecipe, Recipe, RelabelRecipe, TeacherRecipe

IPC, IMAGES = 3, 30
RECIPE = Recipe(
    ipc=IPC,
    data=DataRecipe(name="digits", flip=False),
    teacher=TeacherRecipe(model="conv3", width=8, epochs=3, batch_size=64, crop_padding=0),
    relabel=RelabelRecipe(rand_augment="", stored_epochs=3, top_k=3),
    evaluate=EvaluateRecipe(width=8, epochs=5, batch_size=8, regimes=("stored",)),
)


def asking(**changes) -> Recipe:
    """The recipe with other settings of relabel."""
    return dataclasses.replace(RECIPE, relabel=dataclasses.replace(RECIPE.relabel, **changes))


def plan_with(**changes) -> LabelPlan:
    views = ViewSpec("", 1, 0.5, False, "cutmix", 1.0)
    plan = LabelPlan(0, 4, IMAGES, 10, "logits", 3, 20.0, views, 8, 40)
    return dataclasses.replace(plan, **changes)


compress = jax.jit(compact.compress, static_argnums=(1, 2))
expand = jax.jit(compact.expand, static_argnums=(1, 2))
