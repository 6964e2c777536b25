"""Dense convolutions as sums of products, of shifted images or of tiles, beside XLA's."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from costly import costly

from delt_jax import models
from delt_jax.models import dots, forms, winograd
from delt_jax.models.forms import Forms
from delt_jax.models.spec import ModelSpec

NHWC = ("NHWC", "HWIO", "NHWC")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def plain(x, kernel, pads):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=NHWC)


@pytest.mark.parametrize(
    ("height", "width", "channels", "pads"),
    [
        (3, 3, 6, ((1, 1), (1, 1))),
        costly(3, 3, 1, ((3, 3), (3, 3))),  # grey images of 28 px, padded to 32
        costly(3, 3, 3, ((1, 1), (1, 1))),
        costly(1, 1, 6, ((0, 0), (0, 0))),
        (5, 2, 6, ((2, 1), (0, 1))),
    ],
)
def test_products_are_the_plain_convolution(height, width, channels, pads):
    """In the result, both gradients, and a gradient of these."""
    x, kernel = normal(2, 7, 6, channels), normal(height, width, channels, 5, seed=1)

    def ways(convolution):
        def loss(x, kernel):
            return (convolution(x, kernel, pads) ** 2).mean()

        def second(x, kernel):
            return (jax.grad(loss, 1)(x, kernel) ** 2).sum()

        return (
            convolution(x, kernel, pads),
            jax.grad(loss, (0, 1))(x, kernel),
            jax.grad(second)(x, kernel),
        )

    chex.assert_trees_all_close(ways(dots.convolve_dots), ways(plain), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "pads", [costly(((1, 1), (1, 1))), ((0, 0), (2, 0)), costly(((3, 3), (3, 3)))]
)
def test_products_of_tiles_are_the_plain_convolution(pads):
    """As above, for sides that differ."""
    x, kernel = normal(2, 8, 6, 5), normal(3, 3, 5, 4, seed=1)
    assert winograd.suits(x, kernel, pads)

    def ways(convolution):
        def loss(x, kernel):
            return (convolution(x, kernel, pads) ** 2).mean()

        def second(x, kernel):
            return (jax.grad(loss, 1)(x, kernel) ** 2).sum()

        first = jax.grad(loss, (0, 1))(x, kernel)
        return convolution(x, kernel, pads), first, jax.grad(second)(x, kernel)

    ours = jax.jit(lambda: ways(winograd.convolve_winograd))()
    chex.assert_trees_all_close(ours, ways(plain), rtol=1e-4, atol=1e-4)
    narrow = winograd.convolve_winograd(jnp.bfloat16(x), jnp.bfloat16(kernel), pads)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow, plain(x, kernel, pads), rtol=0.02, atol=0.05)


def test_tiles_suit_kernels_of_three_and_even_sides():
    pads = ((1, 1), (1, 1))
    assert not winograd.suits(normal(1, 7, 6, 5), normal(3, 3, 5, 4), pads)
    assert not winograd.suits(normal(1, 8, 6, 5), normal(2, 2, 5, 4), ((0, 0), (0, 0)))
    assert not winograd.suits(normal(1, 1, 1, 5), normal(3, 3, 5, 4), ((0, 0), (0, 0)))


def test_bfloat16_is_summed_in_float32():
    x, kernel = normal(2, 7, 6, 8), normal(3, 3, 8, 5, seed=1)
    pads = ((1, 1), (1, 1))
    narrow = dots.convolve_dots(jnp.bfloat16(x), jnp.bfloat16(kernel), pads)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow, plain(x, kernel, pads), rtol=0.02, atol=0.05)


def test_inside_loops_on_cpus_a_network_has_no_convolutions():
    spec = ModelSpec("dc_conv3", 10, 16, 3, 4)
    model, images = models.create(spec), normal(2, 16, 16, 3)
    variables = model.init(jax.random.key(0), images, train=False)

    def logits(variables):
        return model.apply(variables, images, train=True)

    with forms.in_loops():
        inside = jax.jit(lambda v: logits(v)).lower(variables)
    assert "convolution" not in inside.as_text()
    outside = jax.jit(logits).lower(variables)
    assert outside.as_text().count("stablehlo.convolution") == 3
    np.testing.assert_allclose(
        inside.compile()(variables), outside.compile()(variables), rtol=1e-4, atol=1e-5
    )


def test_only_cpus_choose_products():
    assert forms.choose("cpu", jnp.float32, in_loops=True).dense == "products"
    assert forms.choose("cpu", jnp.float32) == Forms(pool="indexed", depthwise="shifted")
    for backend in ("gpu", "tpu"):
        there = forms.choose(backend, jnp.float32, in_loops=True)
        assert there == forms.choose(backend, jnp.float32)
