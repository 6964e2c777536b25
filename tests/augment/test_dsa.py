"""DSA: recorded numbers of every operation, draws, modes, and what is shared or differentiated."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from delt_jax.augment import dsa
from delt_jax.augment.dsa import Parameters
from delt_jax.errors import UserError

RECORDED = np.load(Path(__file__).parents[1] / "golden/dc/augmentation.npz")
SETS = {"grey": (2, 1, 28), "colour": (3, 3, 12), "odd": (3, 1, 9)}  # images, channels, size
ONE = dsa.parse("one-color_crop_cutout_flip_scale_rotate")
augment = jax.jit(dsa.augment, static_argnums=3)


def given(name: str) -> tuple[jax.Array, jax.Array, Parameters]:
    """Images, weights of the results, and parameters, as tests/golden/dc/record.py has them."""
    count, channels, size = SETS[name]
    draw = np.random.default_rng([3, size])
    both = draw.standard_normal((2, count, channels, size, size)).astype(np.float32)
    images, weights = jnp.asarray(both.transpose(0, 1, 3, 4, 2))
    values = [jnp.asarray(RECORDED[f"{name}_given_{field}"]) for field in Parameters._fields]
    made = Parameters(*values)
    return images, weights, made._replace(shift=made.shift.astype(int), hole=made.hole.astype(int))


@pytest.mark.parametrize("name", SETS)
def test_recorded_numbers(name):
    images, weights, parameters = given(name)

    def total(images, operation):
        strategy = dsa.parse(f"all-{operation}")
        made = dsa.augment(images, jnp.zeros(1, int), parameters, strategy)
        return (weights * made).sum(), made

    @jax.jit
    def every(images):
        run = jax.value_and_grad(total, has_aux=True)
        return {operation: run(images, operation) for operation in dsa.OPERATIONS}

    for operation, ((_, made), gradient) in every(images).items():
        for ours, recorded in ((made, operation), (gradient, f"{operation}_gradient")):
            theirs = RECORDED[f"{name}_{recorded}"].transpose(0, 2, 3, 1)
            np.testing.assert_allclose(ours, theirs, atol=2e-5, err_msg=recorded)
        assert np.abs(made - images).max() > 0.1


def test_shared_draws_are_the_same_for_every_image():
    """Siamese: with shared parameters and choices, and with copies of them for each image."""
    images, _, parameters = given("colour")
    first = jax.tree.map(lambda x: x[0], parameters)
    copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (3, *x.shape)), first)
    for number in range(len(ONE.operations)):
        shared = augment(images, jnp.array([number]), first, ONE)
        own = augment(images, jnp.full((3, 1), number), copies, ONE)
        chex.assert_trees_all_close(shared, own, atol=1e-6)
        real = augment(images[:1], jnp.array([number]), first, ONE)  # a batch of another size
        chex.assert_trees_all_close(real, shared[:1], atol=1e-6)


def test_images_go_through_operations_of_their_own():
    images, _, parameters = given("colour")
    mixed = augment(images, jnp.array([[0], [3], [5]]), parameters, ONE)
    for i, number in enumerate((0, 3, 5)):
        alone = augment(images, jnp.array([number]), parameters, ONE)
        chex.assert_trees_all_close(mixed[i], alone[i], atol=1e-6)


def test_stages_of_the_modes():
    listed = "color_crop_cutout_flip_scale_rotate"
    every = tuple(listed.split("_"))
    assert ONE.stages == (every,)
    assert dsa.parse(f"all-{listed}").stages == tuple((name,) for name in every)
    idc = dsa.parse(f"idc-{listed}")
    assert idc.stages == (("flip",), ("color",), ("crop", "scale", "rotate"), ("cutout",))
    without = dsa.parse("idc-color_crop_flip_scale_rotate", flip=False)
    assert without.stages == (("color",), ("crop", "scale", "rotate"))
    assert str(without) == "idc-color_crop_scale_rotate"
    assert dsa.parse("one-flip", flip=False).stages == ()


def test_stages_follow_each_other():
    images, _, parameters = given("colour")
    idc = dsa.parse("idc-cutout_color_crop_flip")
    expected = images
    for name in ("flip", "color", "crop", "cutout"):
        expected = augment(expected, jnp.zeros(1, int), parameters, dsa.parse(f"all-{name}"))
    made = augment(images, jnp.zeros(4, int), parameters, idc)
    chex.assert_trees_all_close(made, expected, atol=1e-6)
    nothing = augment(images, jnp.zeros(0, int), parameters, dsa.parse("one-flip", flip=False))
    chex.assert_trees_all_equal(nothing, images)


def test_draws_have_the_released_ranges():
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.jit(jax.vmap(lambda key: dsa.draw(key, 28)))(keys)
    limits = {
        "brightness": (-0.5, 0.5),
        "saturation": (0, 2),
        "contrast": (0.5, 1.5),
        "scale": (1 / 1.2, 1.2),
        "angle": (-np.pi / 12, np.pi / 12),
    }
    for name, (low, high) in limits.items():
        values = np.asarray(getattr(drawn, name)).reshape(-1)
        assert scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-4
    assert abs(drawn.flip.mean() - 0.5) < 0.04
    for values, low, high in ((drawn.shift, -4, 4), (drawn.hole, 0, 28)):  # 3.5 rounds up
        assert (values.min(), values.max()) == (low, high)
        counts = np.unique(np.asarray(values), return_counts=True)[1]
        assert len(counts) == high - low + 1
        assert scipy.stats.chisquare(counts).pvalue > 1e-4
    columns = np.stack([np.asarray(x, float).reshape(4000, -1)[:, -1] for x in drawn], 1)
    assert np.abs(np.corrcoef(columns.T) - np.eye(len(columns[0]))).max() < 0.07
    odd = jax.vmap(lambda key: dsa.draw(key, 9).hole)(keys)  # whose hole has a middle
    assert (odd.min(), odd.max()) == (0, 8)


def test_operations_are_drawn_evenly():
    keys = jax.random.split(jax.random.key(1), 3000)
    idc = dsa.parse("idc-color_crop_flip_scale_rotate")
    choices = np.asarray(jax.jit(jax.vmap(lambda key: dsa.choose(key, idc)))(keys))
    assert choices.shape == (3000, 3)
    assert (choices[:, :2] == 0).all()
    assert scipy.stats.chisquare(np.unique(choices[:, 2], return_counts=True)[1]).pvalue > 1e-4


def test_second_derivatives_in_the_images():
    """Of the sum of cubes of all operations in turn, a linear map: its Hessian is known."""
    images, direction, parameters = given("odd")
    still = parameters._replace(brightness=jnp.zeros(3))  # then color is linear, too
    every = dsa.parse("all-color_crop_cutout_flip_scale_rotate")

    def linear(x):
        return dsa.augment(x, jnp.zeros(6, int), still, every)

    @jax.jit
    def products(images, direction):
        gradient = jax.grad(lambda x: (linear(x) ** 3).sum())
        ours = jax.jvp(gradient, (images,), (direction,))[1]
        made, back = jax.vjp(linear, images)
        return ours, back(6 * made * linear(direction))[0]

    ours, expected = products(images, direction)
    assert np.abs(expected).max() > 1
    chex.assert_trees_all_close(ours, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "relabel.dsa is ''; write one, all or idc, a dash and some of color_crop_cutout_"),
        ("color_crop", "write one, all or idc"),
        ("two-color", "write one, all or idc"),
        ("one-colour", "some of color_crop"),
        ("one-crop_crop", "only once"),
    ],
)
def test_other_strategies_are_refused(text, says):
    with pytest.raises(UserError, match=says):
        dsa.parse(text)
