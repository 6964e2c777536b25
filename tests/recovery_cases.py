"""A small recovery: its network, recipe, teacher, and states and jobs by seed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from delt_jax import models
from delt_jax.augment import crop
from delt_jax.models import ModelSpec
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import step as engine
from delt_jax.recovery.types import Job, TeacherVariables

SIZE, BATCH = 8, 4
MODEL = models.create(ModelSpec("conv3", 5, SIZE, 3, width=8))
RECIPE = RecoverRecipe(iterations=12, round_iterations=3, learning_rate=0.1, bn_weight=0.1)
FULL = crop.full_view(SIZE)

STATIC = ("models", "recipe", "flip", "active", "steps", "classes", "first")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def variables():
    """A teacher drawn by numpy, with running statistics away from those of the images."""
    images = jnp.zeros((1, SIZE, SIZE, 3))
    shaped = jax.eval_shape(lambda k: MODEL.init(k, images, train=False), jax.random.key(0))
    draw = np.random.default_rng(1)
    return {
        "params": jax.tree.map(
            lambda x: jnp.float32(0.3 * draw.standard_normal(x.shape)), shaped["params"]
        ),
        "batch_stats": jax.tree.map(
            lambda x: jnp.float32(0.5 + draw.random(x.shape)), shaped["batch_stats"]
        ),
    }


def guides():
    return (TeacherVariables(variables()),)


def make_state(seed=0, step=0):
    state = engine.init_state(jnp.asarray(normal(BATCH, SIZE, SIZE, 3, seed=seed)))
    return state.replace(step=jnp.int32(step))


def make_job(seed=0, joins=(0, 0, 0, 0), bound=100.0):
    return Job(
        labels=jnp.array([0, 1, 2, 3 + seed % 2], jnp.int32),
        ranks=jnp.zeros(4, jnp.int32),
        joins=jnp.array(joins, jnp.int32),
        iterations=jnp.int32(RECIPE.iterations),
        key=jax.random.key(seed),
        low=jnp.full(3, -bound),
        high=jnp.full(3, bound),
    )
