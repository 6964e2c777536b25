"""Ordinary Flax modules as teachers: what is read of them, and what is said where they cannot be.

Optimisers from outside are tested beside them, against Adam.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from outside import installed
from test_step import MODEL, OWN_CLOCK, make_inputs, normal, teachers, views
from tiny_run import tiny

from delt_jax import main, models
from delt_jax.core import plugins
from delt_jax.core.losses import Moments
from delt_jax.data import Normalisation
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec, torch_weights
from delt_jax.models.tap import apply_tapped
from delt_jax.recovery import optimisers
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery.program import StepProgram
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher

PLAIN = ModelSpec("plain_net", 5, 8, 3, width=6)
run_chunk = jax.jit(recovery_step.run_chunk, static_argnums=0)


@pytest.fixture(autouse=True)
def package(tmp_path):
    with installed(tmp_path):
        plugins.allow(plugins.MODELS, "plain_net")
        yield


def of(fault):
    plugins.allow(plugins.MODELS, f"outside:{fault}")
    return ModelSpec(f"outside:{fault}", 5, 8, 3)


@functools.cache
def drawn(spec):
    """Variables whose statistics are away from 0 and 1."""
    draw = np.random.default_rng(1)
    shapes = teacher_lib.init_shapes(spec)
    return jax.tree.map(lambda x: np.float32(0.5 + 0.3 * draw.standard_normal(x.shape)), shapes)


def test_the_inputs_of_its_layers_are_read():
    images, weights = normal(4, 8, 8, 3), np.float32([0.5, 0, 0.25, 0.25])
    model, variables = models.create(PLAIN), drawn(PLAIN)
    seen = jax.jit(functools.partial(apply_tapped, model))(variables, images)
    conv = nn.Conv(6, (3, 3), use_bias=False)
    first = np.asarray(conv.apply({"params": variables["params"]["Conv_0"]}, images))
    chex.assert_trees_all_close(seen.norm_inputs[0], first, rtol=1e-5)
    moments = Moments(first.mean((0, 1, 2)), first.var((0, 1, 2)))
    chex.assert_trees_all_close(seen.batch[0], moments, rtol=1e-4)
    stats = variables["batch_stats"]["BatchNorm_1"]
    chex.assert_trees_all_equal(seen.running[1], Moments(stats["mean"], stats["var"]))
    dense = variables["params"]["Dense_0"]
    logits = seen.features @ dense["kernel"] + dense["bias"]
    chex.assert_trees_all_close(seen.logits, logits, rtol=1e-4, atol=1e-5)
    weighed = apply_tapped(model, variables, images, weights)
    mean = (weights[:, None] * first.mean((1, 2))).sum(0)
    chex.assert_trees_all_close(weighed.batch[0].mean, mean, rtol=1e-4)


def test_it_is_a_teacher_like_any_other():
    normalisation = Normalisation((0.5,) * 3, (0.25,) * 3)
    teacher = Teacher(PLAIN, drawn(PLAIN), normalisation, tuple("abcde"), None)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    tapped = apply_tapped(teacher.model, teacher.variables, normalisation(pixels))
    chex.assert_trees_all_close(teacher_lib.logits_of(teacher, pixels), tapped.logits, rtol=1e-4)
    features = teacher_lib.features_of(teacher, pixels)
    chex.assert_trees_all_close(features, tapped.features, rtol=1e-4)
    assert teacher_lib.convolves_images(PLAIN)
    stored = torch_weights.to_torch(teacher.variables, PLAIN)
    assert stored["params.Conv_0.kernel"].shape == (3, 3, 3, 6)
    chex.assert_trees_all_equal(torch_weights.from_torch(stored, PLAIN), teacher.variables)
    del stored["params.Dense_0.bias"]
    with pytest.raises(UserError, match=r"plain_net with 5 classes.*missing params\.Dense_0\.bias"):
        torch_weights.from_torch(stored, PLAIN)


def test_its_last_layer_is_known_for_fine_tuning():
    stored = torch_weights.to_torch(drawn(PLAIN), PLAIN)
    fewer = dataclasses.replace(PLAIN, num_classes=3)
    without = torch_weights.from_torch(torch_weights.without_head(stored, fewer), fewer)
    assert not without["params"]["Dense_0"]["kernel"].any()
    chex.assert_trees_all_equal(without["params"]["Conv_1"], drawn(PLAIN)["params"]["Conv_1"])
    assert torch_weights.is_head(("params", "Dense_0", "bias"), PLAIN)
    with pytest.raises(UserError, match=r"has no nn\.Dense, so it cannot be fine-tuned"):
        torch_weights.without_head(stored, of("sown"))


def test_fields_of_a_class_are_filled():
    narrow = models.create(dataclasses.replace(PLAIN, dtype="bfloat16"))
    assert (narrow.num_classes, narrow.width, narrow.dtype) == (5, 6, jnp.bfloat16)
    plugins.allow(plugins.MODELS, "outside:Net")
    spec = ModelSpec("outside:Net", 5, 8, 3)
    assert models.create(spec) is models.create(spec)
    with pytest.raises(UserError, match="has no field 'width', but is to be built with width 4"):
        models.create(dataclasses.replace(spec, width=4))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("axis", "normalises axis 1, but recovery reads the moments of the last axis"),
        ("twice", r"ran 2 BatchNorm layers \(1 different\)"),
        ("classes", r"must return logits float32 \[B, 5\].*returns float32 \[2, 6\]"),
        ("bfloat16", r"must return logits float32 \[B, 5\].*returns bfloat16"),
        ("counts", "'outside:counts' failed: .*counts"),
        ("no_dense", r'does not end in an nn\.Dense.*self\.sow\("features", "pooled"'),
        ("adam", "must be a Flax module or a function"),
        ("installed", "failed|must be"),
    ],
)
def test_what_is_no_classifier_is_said(fault, sentence):
    with pytest.raises(UserError, match=sentence):
        models.create(of(fault))


def test_features_may_be_sown_and_convolutions_missing(tmp_path):
    spec = of("sown")
    seen = jax.eval_shape(
        lambda v, x: apply_tapped(models.create(spec), v, x).features,
        teacher_lib.init_shapes(spec),
        jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32),
    )
    assert seen.shape == (2, 4)
    assert not teacher_lib.convolves_images(of("no_convolution"))
    config = tiny(
        **{"teacher.model": "outside:no_convolution", "recover.terms": ("global_statistics=1",)}
    )
    config.teacher.width = 0
    with pytest.raises(UserError, match=r"inputs of convolutions, .* outside:no_convolution has"):
        main.run(config, str(tmp_path / "run"), dry_run=True)


def test_shared_statistics_need_our_batch_norm(tmp_path):
    config = tiny(**{"evaluate.batch_norm": "shared", "evaluate.devices_per_student": 3})
    config.evaluate.students = ("plain_net",)
    with pytest.raises(UserError, match=r"the plug-in 'plain_net' may not have"):
        main.run(config, str(tmp_path / "run"), dry_run=True)


# Optimisers

JOINS = (0, 0, 2, 2)
OWN = dataclasses.replace(OWN_CLOCK, crop="image", residual=0.3, residual_rounds=2)


def optimised(name, steps=7):
    """State after some iterations, in which a masked program follows an exact one."""
    plugins.allow(plugins.OPTIMISERS, name)
    settings = dataclasses.replace(OWN, optimiser=name)
    images = jnp.asarray(normal(4, 8, 8, 3))
    state = recovery_step.init_state(images, (), name)
    inputs = make_inputs(joins=JOINS)._replace(starts=images)
    drawn_views = views(state, inputs, settings)
    for t in range(steps):
        program = StepProgram((MODEL,), settings, 4 if t >= 2 else 2, masked=t >= 2)
        state, _ = run_chunk(program, state, inputs, drawn_views, teachers())
    return state


def test_every_image_has_its_own_state():
    """Adam from outside is Adam on each image's own clock, with blocks that begin anew."""
    ours, theirs = optimised("adam"), optimised("outside:adam")
    chex.assert_trees_all_close(ours.images, theirs.images, rtol=1e-5, atol=1e-5)
    assert (theirs.mu, theirs.nu) == ((), ())
    chex.assert_trees_all_close(ours.mu, theirs.plugged.mu, rtol=1e-4, atol=1e-6)
    # The clocks have 12 and 10 iterations, so second blocks begin after 6 and 5 of them.
    np.testing.assert_array_equal(theirs.plugged.count, [1, 1, 5, 5])


def test_states_may_begin_with_the_image():
    state = optimised("outside:lookahead", steps=1)
    slow, count = state.plugged
    np.testing.assert_array_equal(count, [1, 1, 0, 0])
    chex.assert_trees_all_equal(slow[2:], state.images[2:])


def test_what_is_no_optimiser_is_said():
    for name, sentence in (
        ("outside:growing", r"whose shapes and types stay.*int32\[\].*float32\[\]"),
        ("outside:axis", "failed"),
        ("outside:JOINS", "has no JOINS"),
    ):
        plugins.allow(plugins.OPTIMISERS, name)
        with pytest.raises(UserError, match=sentence):
            optimisers.find(name)
