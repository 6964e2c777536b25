"""RandAugment's strings and draws, against timm's definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from delt_jax.augment import chosen, rand_augment
from delt_jax.augment.rand_augment import NOTHING, OPERATIONS, Policy
from delt_jax.errors import UserError

COUNT = 6000


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("rand-m6-n2-mstd1.0", Policy(6, 2, 1.0)),
        ("rand", Policy(10, 2, 0.0)),
        ("rand-mstd0.5-n3-m9", Policy(9, 3, 0.5)),
        ("rand-m9-mstd0.5-inc1", Policy(9, 2, 0.5, increasing=True)),
        ("rand-m9-inc0", Policy(9)),
        ("rand-m15-mmax20-mstd101", Policy(15, 2, float("inf"), 20.0)),
        ("rand-mstdinf-p0.9", Policy(10, 2, float("inf"), probability=0.9)),
        ("rand-m4-w0", Policy(4, weighted=True)),
    ],
)
def test_strings(text, policy):
    assert rand_augment.parse(text) == policy


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("augmix-m5", "the beginning 'augmix'"),
        ("", "the beginning ''"),
        ("rand-m6-q2", "the section 'q2'"),
        ("rand-m6.5", "the section 'm6.5'"),
        ("rand-n0", "the section 'n0'"),
        ("rand-n16-w0", "the section 'n16'"),
        ("rand-w1", "the section 'w1'"),
        ("rand-inc2", "the section 'inc2'"),
        ("rand-p1.5", "the section 'p1.5'"),
        ("rand-m-6", "the section 'm'"),
        ("rand-minf", "the section 'minf'"),
        ("rand-mmax0", "the section 'mmax0'"),
        ("rand--m6", "the section ''"),
        ("rand-m6-", "the section ''"),
    ],
)
def test_what_is_not_understood_is_told(text, told):
    with pytest.raises(UserError, match=told) as caught:
        rand_augment.parse(text)
    assert "rand-m6-n2-mstd1.0" in str(caught.value)


def drawn(text: str, count: int = COUNT) -> rand_augment.Operations:
    policy = rand_augment.parse(text)
    keys = jax.random.split(jax.random.key(1), count)
    operations = jax.jit(jax.vmap(lambda k: rand_augment.draw(k, policy)))(keys)
    return rand_augment.Operations(*map(np.asarray, operations))


def test_operations_are_drawn_evenly_and_half_of_them_applied():
    operations = drawn("rand-m6-n2-mstd1.0")
    assert operations.operation.shape == (COUNT, 2)
    counts = np.bincount(operations.operation.ravel(), minlength=NOTHING + 1)
    expected = [2 * COUNT / 30] * NOTHING + [COUNT]
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-4
    first, second = operations.operation.T
    assert abs((first == second).mean() - (1 / 4 + 1 / 60)) < 0.03  # drawn one by one
    assert abs(operations.bicubic.mean() - 0.5) < 0.02


def magnitudes(text: str, name: str) -> np.ndarray:
    """Magnitudes 0..10 read back from the arguments of an operation."""
    operations = drawn(text)
    arguments = operations.argument[operations.operation == OPERATIONS.index(name)]
    return np.abs(arguments) / {"rotate": 3.0, "shear_x": 0.03, "translate_y": 0.045}[name]


@pytest.mark.parametrize("name", ["rotate", "shear_x", "translate_y"])
def test_magnitudes_are_normal_and_cut(name):
    values = magnitudes("rand-m9-mstd1.5", name)
    assert values.max() == pytest.approx(10)
    cut = np.isclose(values, 10)
    assert abs(cut.mean() - scipy.stats.norm(9, 1.5).sf(10)) < 0.1
    kept = scipy.stats.truncnorm(-6, 1 / 1.5, 9, 1.5)
    assert scipy.stats.kstest(values[~cut], kept.cdf).pvalue > 1e-4


def test_magnitudes_are_uniform_or_beyond_ten_when_asked():
    values = magnitudes("rand-m8-mstdinf", "rotate")
    assert scipy.stats.kstest(values, scipy.stats.uniform(0, 8).cdf).pvalue > 1e-4
    np.testing.assert_allclose(magnitudes("rand-m15-mmax20", "rotate"), 15, rtol=1e-6)
    np.testing.assert_allclose(magnitudes("rand-m15", "rotate"), 10, rtol=1e-6)


def signed(value: float) -> set[float]:
    return {value, -value}


@pytest.mark.parametrize("magnitude", [0, 3, 5, 7, 10])
@pytest.mark.parametrize("increasing", [0, 1])
def test_arguments_are_timms(magnitude, increasing):
    """The level functions of timm, in Python's float64."""
    operations = drawn(f"rand-m{magnitude}-inc{increasing}", 1000)
    level = magnitude / 10
    bits, threshold = int(level * 4), int(level * 256)
    factors = {level * 1.8 + 0.1}
    if increasing:
        bits, threshold = 4 - bits, 256 - threshold
        factors = {max(0.1, 1 + s) for s in signed(level * 0.9)}
    expected = {
        "rotate": signed(level * 30),
        "posterize": {bits},
        "solarize": {threshold},
        "solarize_add": {int(level * 110)},
        **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), factors),
        **dict.fromkeys(("shear_x", "shear_y"), signed(level * 0.3)),
        **dict.fromkeys(("translate_x", "translate_y"), signed(level * 0.45)),
    }
    for name, values in expected.items():
        found = np.unique(operations.argument[operations.operation == OPERATIONS.index(name)])
        np.testing.assert_allclose(found, sorted(values), atol=4e-5, err_msg=name)


def test_weighted_draws_are_timms_and_without_replacement():
    operations = drawn("rand-n2-p1-w0").operation
    assert (operations[:, 0] != operations[:, 1]).all()
    weights = np.array([25, 5, 0, 300, 0, 5, 5, 25, 5, 5, 25, 200, 200, 100, 100]) / 1000
    counts = np.bincount(operations[:, 0], minlength=NOTHING)
    assert (counts[weights == 0] == 0).all()
    likely = weights > 0
    assert scipy.stats.chisquare(counts[likely], COUNT * weights[likely]).pvalue > 1e-4


def test_a_few_images_at_a_time_are_done_as_all_at_once():
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.integers(0, 200, (19, 3, 3)), jnp.int32)
    addends = jnp.arange(19)

    def add(some, addend):
        return some + addend[:, None, None]

    for share in (0.0, 0.1, 0.5, 1.0):
        wanted = jnp.asarray(draw.random(19) < share)
        expected = np.where(wanted[:, None, None], add(images, addends), images)
        for way in (chosen.all_at_once, chosen.in_chunks, chosen.apply):
            made = jax.jit(way, static_argnums=0)(add, images, addends, wanted)
            np.testing.assert_array_equal(made, expected)


def test_images_are_augmented_one_by_one():
    """Twelve together, and two batches of six under vmap: the same pixels; most images change."""
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.integers(0, 256, (12, 16, 16, 3)), jnp.uint8)
    operations = jax.tree.map(lambda x: jnp.asarray(x[:12]), drawn("rand-m6-n2-mstd1.0-p1"))
    augment = jax.jit(lambda i, o: rand_augment.augment(i, o, (128, 0, 255)))
    together = np.asarray(augment(images, operations))
    order = draw.permutation(12).reshape(2, 6)
    shuffled = jax.tree.map(lambda x: x[order], (images, operations))
    np.testing.assert_array_equal(jax.jit(jax.vmap(augment))(*shuffled), together[order])
    assert (together != np.asarray(images)).any((1, 2, 3)).mean() > 0.8
