"""Depthwise convolutions as sums of shifted slices, beside XLA's."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from costly import costly
from small_models import small

from delt_jax import models
from delt_jax.models import depthwise, forms
from delt_jax.models.forms import PLAIN, Forms

NHWC = ("NHWC", "HWIO", "NHWC")
SAME = ((0, 1), (0, 1))
# Of every depthwise convolution in the zoo: kernel, stride, padding, height, width.
SHAPES = [
    (3, 1, ((1, 1), (1, 1)), 8, 7),
    costly(3, 2, ((1, 1), (1, 1)), 8, 7),
    (3, 2, SAME, 8, 8),
    costly(3, 2, ((1, 1), (0, 1)), 7, 8),
    costly(5, 1, ((2, 2), (2, 2)), 7, 6),
    (5, 2, ((2, 2), (2, 2)), 9, 8),
    costly(5, 2, ((1, 2), (2, 2)), 8, 7),
    # Maps smaller than the kernel, as small images have in late stages; and what no network has.
    (3, 1, ((1, 1), (1, 1)), 1, 1),
    costly(3, 2, ((1, 1), (1, 1)), 1, 2),
    costly(5, 1, ((2, 2), (2, 2)), 1, 2),
    costly(5, 2, ((2, 2), (2, 2)), 2, 1),
    (2, 3, ((0, 0), (1, 0)), 8, 7),
]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def both_ways(convolution, x, kernel):
    """The result and both gradients."""
    y, pull = jax.vjp(convolution, x, kernel)
    upstream = jnp.asarray(normal(*y.shape, seed=2), y.dtype)
    return y, *pull(upstream)


def plain(x, kernel, strides, pads):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=NHWC, feature_group_count=x.shape[-1]
    )


@pytest.mark.parametrize(("size", "stride", "pads", "height", "width"), SHAPES)
def test_shifted_slices_are_the_plain_convolution(size, stride, pads, height, width):
    """In the result and both gradients, in float32."""
    x, kernel = normal(2, height, width, 6), normal(size, size, 1, 6, seed=1)
    ours, theirs = (
        both_ways(lambda x, k, form=form: form(x, k, (stride, stride), pads), x, kernel)
        for form in (depthwise.convolve_shifted, plain)
    )
    for one, other in zip(ours, theirs, strict=True):
        chex.assert_trees_all_close(one, other, atol=1e-6 * float(jnp.abs(other).max()))


def test_sums_of_narrow_types_are_wide():
    """Twenty-five taps added up in bfloat16 would lose half of the digits that the result has."""
    x, kernel = normal(2, 9, 9, 4), normal(5, 5, 1, 4, seed=1)
    narrow = jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)
    wide = tuple(array.astype(jnp.float32) for array in narrow)
    run = functools.partial(depthwise.convolve_shifted, strides=(1, 1), pads=((2, 2), (2, 2)))
    y, *gradients = both_ways(run, *narrow)
    chex.assert_trees_all_equal(y, run(*wide).astype(jnp.bfloat16))
    assert {g.dtype for g in gradients} == {jnp.dtype("bfloat16")}


def test_stacked_kernels_have_stacked_gradients():
    """As students that are trained side by side have them."""
    x, kernels = normal(3, 2, 8, 8, 4), normal(3, 3, 3, 1, 4, seed=1)
    run = functools.partial(both_ways, lambda x, k: depthwise.convolve_shifted(x, k, (2, 2), SAME))
    one_by_one = [run(*pair) for pair in zip(x, kernels, strict=True)]
    expected = jax.tree.map(lambda *parts: jnp.stack(parts), *one_by_one)
    chex.assert_trees_all_close(jax.vmap(run)(x, kernels), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        costly("efficientnet_b0", 16),
        costly("efficientnet_lite0", 16),
        ("mobilenet_v2", 17),
        costly("mobilenet_v2_modified", 17),
        costly("shufflenet_v2_x1_0", 19),
    ],
)
def test_every_depthwise_convolution_of_the_zoo_has_the_form(name, count):
    """And none of XLA's is left; parameters keep their shapes."""
    spec = small(name)
    model = models.create(spec)
    images = jax.ShapeDtypeStruct((2, spec.image_size, spec.image_size, 3), jnp.float32)

    def traced(form):
        with forms.forced(form):
            init = functools.partial(model.init, train=False)
            variables = jax.eval_shape(init, jax.random.key(0), images)
            apply = functools.partial(model.apply, train=False, mutable=["features"])
            return jax.tree.map(jnp.shape, variables), str(jax.make_jaxpr(apply)(variables, images))

    shapes, program = traced(PLAIN)
    other_shapes, other_program = traced(Forms(depthwise="shifted"))
    assert other_shapes == shapes
    groups = [line for line in program.splitlines() if "feature_group_count=" in line]
    assert len([line for line in groups if not line.endswith("feature_group_count=1")]) == count
    left = [line for line in other_program.splitlines() if "feature_group_count=" in line]
    assert all(line.endswith("feature_group_count=1") for line in left)
    assert other_program.count("name=convolve_shifted") == count
