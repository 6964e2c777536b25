"""FRePo's augmentation: draws, every operation beside SciPy or by hand, and what is shared."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from delt_jax.augment import frepo
from delt_jax.augment.views import ViewProgram, plan_epoch, student_views
from delt_jax.core.normalisation import Normalisation
from delt_jax.errors import UserError
from delt_jax.training import protocols
from delt_jax.training.protocols import EvalSetting

EVERY = frepo.parse("frepo-flip_color_crop_rotate_translate_cutout")
SIZE = 12


def given():
    images = jax.random.normal(jax.random.key(0), (3, SIZE, SIZE, 2))
    keys = jax.random.split(jax.random.key(1), 3)
    return images, jax.vmap(lambda key: frepo.draw(key, SIZE))(keys)


def made(name, images, drawn):
    return frepo.augment(images, jnp.array([EVERY.operations.index(name)]), drawn, EVERY)


def test_moves_are_scipys():
    images, drawn = given()
    middle = (SIZE - 1) / 2
    for i, image in enumerate(np.asarray(images)):
        angle, zoom, centre, shift = (
            np.asarray(x[i]) for x in (drawn.angle, drawn.zoom, drawn.centre, drawn.shift)
        )
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        for name, matrix, offset in (
            ("rotate", turn, np.zeros(2)),
            ("crop", np.eye(2) / zoom, centre / zoom),
            ("translate", np.eye(2), -shift),
        ):
            start = middle - matrix @ np.full(2, middle) + offset
            expected = np.stack(
                [
                    scipy.ndimage.affine_transform(c, matrix, start, order=1, mode="nearest")
                    for c in np.moveaxis(image, -1, 0)
                ],
                -1,
            )
            ours = made(name, images, drawn)[i]
            np.testing.assert_allclose(ours, expected, atol=2e-5, err_msg=name)


def test_colours_holes_and_mirrors():
    images, drawn = given()
    drawn = drawn._replace(
        flip=jnp.array([True, False, True]), hole=jnp.array([[0, 0], [9, 9], [2, 5]])
    )
    mirrored = made("flip", images, drawn)
    chex.assert_trees_all_equal(mirrored[0], images[0, :, ::-1])
    chex.assert_trees_all_equal(mirrored[1], images[1])
    cut = np.array(images)
    for image, (row, column) in zip(cut, drawn.hole, strict=True):
        image[row : row + 3, column : column + 3] = 0
    chex.assert_trees_all_equal(made("cutout", images, drawn), cut)
    x = np.asarray(images[0] + drawn.brightness[0])
    x = x.mean() + float(drawn.contrast[0]) * (x - x.mean())
    grey = x.mean(-1, keepdims=True)
    expected = grey + float(drawn.saturation[0]) * (x - grey)
    np.testing.assert_allclose(made("color", images, drawn)[0], expected, atol=1e-5)


def test_ranges_of_draws():
    keys = jax.random.split(jax.random.key(2), 3000)
    drawn = jax.jit(jax.vmap(lambda key: frepo.draw(key, 28)))(keys)
    limits = {
        "brightness": (-0.25, 0.25),
        "contrast": (np.exp(-0.25), np.exp(0.25)),
        "saturation": (np.exp(-0.25), np.exp(0.25)),
        "zoom": (0.8, 1.25),
        "angle": (-np.pi / 12, np.pi / 12),
        "shift": (-3.5, 3.5),
        "hole": (0, 21),
    }
    for name, (low, high) in limits.items():
        values = np.asarray(getattr(drawn, name))
        assert low - 1e-5 <= values.min() < low + 0.02 * (high - low), name
        assert high - 0.02 * (high - low) < values.max() <= high + 1e-5, name
    assert (np.abs(drawn.centre) <= 14 * np.abs(drawn.zoom - 1)[:, None] + 1e-5).all()
    assert abs(drawn.flip.mean() - 0.5) < 0.05


def test_operations_are_drawn_for_the_batch_or_for_each_image():
    images, drawn = given()
    own = frepo.augment(images, jnp.array([[0], [3], [5]]), drawn, EVERY)
    for i, name in enumerate(("flip", "rotate", "cutout")):
        chex.assert_trees_all_close(own[i], made(name, images, drawn)[i], atol=1e-5)
    keys = jax.random.split(jax.random.key(3), 600)
    counts = np.unique(jax.vmap(lambda k: frepo.choose(k, EVERY))(keys), return_counts=True)[1]
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    assert (len(counts), EVERY.is_of_each, frepo.parse("rcig-crop").is_of_each) == (6, False, True)
    nothing = frepo.parse("frepo-flip", flip=False)
    assert frepo.augment(images, frepo.choose(keys[0], nothing), drawn, nothing) is images


def test_every_view_of_rcigs_protocol_has_its_own_operation():
    """Of images of ones all operations but cut-outs, one of four, leave ones."""
    spec = protocols.named("rcig", EvalSetting("conv3_wide", 10, 4, 8, 1)).views
    program = ViewProgram(spec, Normalisation((0.0,), (1.0,)), True)
    key, images = jax.random.key(0), jnp.ones((40, 8, 8, 1))
    plan = plan_epoch(key, 40, 40)
    views = student_views(key, images, plan, jnp.arange(40), program).images
    assert 3 <= np.asarray((views == 0).any((1, 2, 3))).sum() <= 20


@pytest.mark.parametrize("text", ["one-crop", "frepo-scale", "rcig", "frepo-crop_crop"])
def test_other_strategies_are_refused(text):
    with pytest.raises(UserError, match=r"write frepo or rcig|only once"):
        frepo.parse(text)
