"""Every form of a part against the plain one, and where each is chosen."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from small_models import random_state, small

from delt_jax import models
from delt_jax.augment import crop
from delt_jax.models import forms, pool, strided, torch_weights
from delt_jax.models.forms import PLAIN, Forms
from delt_jax.models.tap import TappedNetwork, apply_tapped
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery.program import step_settings

NHWC = ("NHWC", "HWIO", "NHWC")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("backend", "dtype", "expected"),
    [
        ("cpu", "float32", Forms("plain", "HIGHEST", "indexed")),
        ("cpu", "bfloat16", Forms("plain", "HIGHEST", "indexed")),
        ("gpu", "float32", Forms("blocks", "HIGHEST", "indexed")),
        ("gpu", "bfloat16", Forms("aligned_blocks", "HIGH", "indexed")),
        ("tpu", "float32", Forms("blocks", "HIGHEST", "plain")),
        ("tpu", "bfloat16", Forms("blocks", "HIGH", "plain")),
    ],
)
def test_the_choice(backend, dtype, expected):
    assert forms.choose(backend, jnp.dtype(dtype)) == expected
    assert isinstance(expected.view_precision, jax.lax.Precision)  # runs on every device


def test_forced_forms_end_with_their_context():
    chosen = forms.current(jnp.float32)
    assert chosen == forms.choose(jax.default_backend(), jnp.float32)
    with forms.forced(Forms("blocks")):
        assert forms.current(jnp.float32) == Forms("blocks")
    assert forms.current(jnp.float32) == chosen
    preset = Forms(view="BF16_BF16_F32_X3").view_precision
    assert preset is jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X3


@pytest.mark.parametrize(
    ("size", "stride", "padding", "height", "width", "channels", "multiple"),
    [
        (7, 2, 3, 16, 18, 3, 16),  # ResNet
        (3, 2, 1, 12, 10, 3, 16),  # MobileNet, EfficientNet, ShuffleNet
        (11, 4, 2, 32, 35, 3, 1),  # AlexNet; 35 is no multiple of 4
        (16, 16, 0, 32, 32, 1, 1),  # vision transformer
        (7, 2, 3, 17, 15, 4, 1),
        (5, 3, 1, 13, 14, 2, 16),
    ],
)
def test_blocks_are_the_strided_convolution(
    size, stride, padding, height, width, channels, multiple
):
    """In the result and both gradients."""
    x, kernel = normal(2, height, width, channels), normal(size, size, channels, 5, seed=1)
    pads, strides = ((padding, padding), (padding, padding)), (stride, stride)
    outputs = [(length + 2 * padding - size) // stride + 1 for length in (height, width)]
    upstream = normal(2, *outputs, 5, seed=2)

    @functools.partial(jax.jit, static_argnums=0)
    def both_ways(convolution):
        y, pull = jax.vjp(convolution, x, kernel)
        return y, pull(upstream)

    plain = both_ways(
        lambda x, k: jax.lax.conv_general_dilated(x, k, strides, pads, dimension_numbers=NHWC)
    )
    blocks = both_ways(lambda x, k: strided.convolve_blocks(x, k, strides, pads, multiple))
    for ours, theirs in zip(jax.tree.leaves(blocks), jax.tree.leaves(plain), strict=True):
        chex.assert_trees_all_close(ours, theirs, atol=1e-6 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize(
    ("size", "stride", "padding", "height", "width", "dtype"),
    [
        (3, 2, 1, 12, 13, "float32"),  # ResNet, ShuffleNet
        (3, 2, 1, 12, 12, "bfloat16"),
        (3, 2, 0, 9, 8, "float32"),  # AlexNet
        (2, 2, 0, 8, 7, "float32"),  # VGG
        (5, 2, 2, 9, 9, "float32"),
        (2, 3, 0, 9, 8, "float32"),
    ],
)
def test_max_pool_and_its_gradient_are_exactly_the_plain_ones(
    size, stride, padding, height, width, dtype
):
    """After a ReLU most windows have several maxima; and sums of gradients round alike."""
    coarse = np.maximum(np.round(normal(3, height, width, 4)), 0)
    x = jnp.asarray(coarse, dtype)
    outputs = [(length + 2 * padding - size) // stride + 1 for length in (height, width)]
    upstream = jnp.asarray(normal(3, *outputs, 4, seed=1), dtype)

    def both_ways(form):
        def run(x):
            y, pull = jax.vjp(lambda x: pool.max_pool(x, size, stride, padding), x)
            return y, pull(upstream)

        with forms.forced(Forms(pool=form)):
            return jax.jit(run)(x)

    assert (coarse == 0).mean() > 0.5
    chex.assert_trees_all_equal(both_ways("indexed"), both_ways("plain"))


def test_max_pool_shows_what_is_not_a_number():
    x = jnp.asarray(normal(1, 6, 6, 1)).at[0, 2, 3, 0].set(jnp.nan)
    y = pool.indexed_max_pool(x, 3, 2, 1)
    assert np.isnan(y).sum() == 2  # the pixel is in two windows


def test_max_pool_of_stacked_batches_neither_scatters_nor_gathers():
    def gradient(x):
        return jax.grad(lambda x: (pool.indexed_max_pool(x, 3, 2, 1) ** 2).sum())(x)

    program = str(jax.make_jaxpr(jax.vmap(gradient))(jnp.zeros((2, 3, 8, 8, 4))))
    assert "select_n" in program
    assert not re.search("scatter|gather|reduce_window", program)


def test_a_teacher_is_the_same_in_every_form():
    """Parameters, what the tap sees, the logits, and the gradient of the images."""
    spec = small("resnet18")
    model, variables = models.create(spec), torch_weights.from_torch(random_state(spec), spec)
    images = normal(2, spec.image_size, spec.image_size, 3)

    def look(form):
        def loss(images):
            tapped = apply_tapped(model, variables, images)
            return (tapped.logits**2).mean(), (
                tapped.logits,
                *tapped.batch[:1],
                tapped.conv_inputs[0],
            )

        with forms.forced(form):
            made = jax.eval_shape(lambda k: model.init(k, images, train=False), jax.random.key(0))
            # Most of the time goes into compiling, and libraries do most of the work.
            options = {"xla_backend_optimization_level": 0}
            step = jax.jit(jax.grad(loss, has_aux=True), compiler_options=options)
            return jax.tree.map(jnp.shape, made["params"]), *step(images)

    shapes, gradient, parts = look(PLAIN)
    other_shapes, other_gradient, other_parts = look(Forms("aligned_blocks", pool="indexed"))
    assert other_shapes == shapes
    np.testing.assert_array_equal(other_parts[-1], images)
    chex.assert_trees_all_close(other_parts, parts, rtol=1e-3, atol=1e-4)
    scale = float(jnp.abs(gradient).max())
    chex.assert_trees_all_close(other_gradient, gradient, atol=1e-3 * scale)


@pytest.mark.parametrize("name", models.NAMES)
def test_every_strided_stem_may_take_blocks(name):
    model, size = models.create(small(name)), small(name).image_size

    class FirstLayer(Exception):
        pass

    def stop(next_fun, args, kwargs, context):
        if isinstance(context.module, nn.Conv):
            raise FirstLayer(context.module)
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(stop), pytest.raises(FirstLayer) as first:
        jax.eval_shape(
            lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, size, size, 3))
        )
    (layer,) = first.value.args
    assert layer.strides in (1, (1, 1)) or layer.conv_general_dilated is strided.convolve


def hlo(function, *arguments):
    """Computations of a compiled function, text by name; the last is the entry."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    parts = re.findall(r"^(?:ENTRY )?%?([\w.\-]+) \(.*?^}", text, re.S | re.M)
    bodies = re.findall(r"^(?:ENTRY )?%?[\w.\-]+ \(.*?^}", text, re.S | re.M)
    return dict(zip(parts, bodies, strict=True))


def test_a_loop_gets_its_kernel_in_blocks():
    """The kernel is rearranged once, before the iterations."""

    def stem(x, kernel):
        return strided.convolve_blocks(x, kernel, (2, 2), ((3, 3), (3, 3)), 16)

    def iterate(x, kernel):
        def step(x, _):
            return x - jax.grad(lambda x: (stem(x, kernel) ** 2).sum())(x), None

        return jax.lax.scan(step, x, length=4)[0]

    found = hlo(iterate, normal(2, 16, 16, 3), normal(7, 7, 3, 8))
    *_, entry = found.values()
    (body,) = re.findall(r"body=%?([\w.\-]+)", entry)
    assert "[7,7,3,8]" in entry
    assert re.search(r"convolution|custom-call|fusion", found[body])
    assert "[7,7,3,8]" not in found[body]


def test_a_viewed_image_is_written_in_blocks_only():
    """XLA makes one pass of the view's transposition, the cast and the blocks' arrangement."""
    view = crop.full_view(32)

    def seen(images, kernel):
        viewed = crop.view_images(images, view, 32).astype(jnp.bfloat16)
        return strided.convolve_blocks(viewed, kernel, (2, 2), ((3, 3), (3, 3)), 16)

    *_, entry = hlo(
        seen, normal(5, 32, 32, 3), jnp.asarray(normal(7, 7, 3, 8), "bfloat16")
    ).values()
    written = re.findall(r"= (\w+\[[\d,]*\])\S* (?!parameter|bitcast)", entry)
    assert "f32[5,32,32,3]" not in written
    assert "bf16[5,32,32,3]" not in written


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_teachers_type_sets_the_precision_of_its_views(dtype):
    """On a GPU, the objective's four products, two each way, have the chosen precision."""
    model = models.create(small("conv3", dtype))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), images
    )
    settings = step_settings(RecoverRecipe(), flip=True)

    def objective(images, variables):
        teacher = TappedNetwork(model, variables)
        labels = jnp.zeros(2, jnp.int32)
        return recovery_step.loss(images, labels, crop.full_view(32), teacher, settings)[0]

    chosen = forms.choose("gpu", jnp.dtype(dtype))
    with forms.forced(chosen):
        program = str(jax.make_jaxpr(jax.grad(objective))(images, variables))
    products = re.findall(r"precision=\(Precision\.(\w+), Precision\.\w+\)", program)
    assert products == 4 * [chosen.view]
