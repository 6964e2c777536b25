"""Mixes by hand, plans of an epoch, and views that depend on (epoch, image) alone."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from costly import costly

from delt_jax.augment import mix, shuffle, views
from delt_jax.augment.views import ViewSpec
from delt_jax.data import Normalisation

PLAIN = ViewSpec("", 1, 0.25, True, "cutmix", 1.0)
FULL = replace(PLAIN, rand_augment="rand-m6-n2-mstd1.0", shuffle=2)
WITH_DSA = replace(
    PLAIN,
    min_scale=1.0,
    dsa="one-color_flip_rotate",
    mix_probability=0.5,
)
NORMALISATION = Normalisation((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
plan_epoch = jax.jit(views.plan_epoch, static_argnums=(1, 2))
student_views = jax.jit(views.student_views, static_argnums=4)


def pixels(count: int, size: int = 10, channels: int = 3) -> jax.Array:
    draw = np.random.default_rng(count)
    return jnp.asarray(draw.integers(0, 256, (count, size, size, channels)), jnp.uint8)


def test_cutmix_by_hand():
    images = np.arange(32, dtype=np.float32).reshape(2, 4, 4, 1)
    rows, columns = jnp.array([1, 3]), jnp.array([0, 3])
    mixed, share = mix.cutmix(jnp.asarray(images), jnp.asarray(images[::-1]), rows, columns)
    expected = images.copy()
    expected[0, 1:3, 0:3] = images[1, 1:3, 0:3]
    expected[1, 1:3, 0:3] = images[0, 1:3, 0:3]
    chex.assert_trees_all_equal(np.asarray(mixed), expected)
    assert float(share) == 1 - 6 / 16


def test_cutmix_with_a_box_per_image():
    images, others = jnp.zeros((2, 4, 4, 1)), jnp.ones((2, 4, 4, 1))
    rows, columns = jnp.array([[1, 3], [0, 4]]), jnp.array([[0, 3], [2, 2]])
    mixed, share = mix.cutmix(images, others, rows, columns)
    expected = np.zeros((2, 4, 4, 1), np.float32)
    expected[0, 1:3, 0:3] = 1
    chex.assert_trees_all_equal(np.asarray(mixed), expected)
    assert share.tolist() == [1 - 6 / 16, 1]


def test_mixup_by_hand():
    images = jnp.array([1.0, 3.0, 5.0]).reshape(3, 1, 1, 1)
    others = images[jnp.array([2, 0, 1])]
    mixed, share = mix.mixup(images, others, 0.75)
    chex.assert_trees_all_close(np.asarray(mixed).ravel(), np.array([2.0, 2.5, 4.5], np.float32))
    assert float(share) == 0.75
    mixed, share = mix.mixup(images, others, jnp.array([1.0, 0.0, 0.5]))
    chex.assert_trees_all_close(np.asarray(mixed).ravel(), np.array([1.0, 1.0, 4.0], np.float32))
    assert share.tolist() == [1, 0, 0.5]


def boxes(alpha):
    keys = jax.random.split(jax.random.key(3), 8000)
    return jax.jit(jax.vmap(lambda k: mix.random_box(k, 32, alpha)))(keys)


def test_cutmix_boxes_are_clipped_to_the_image():
    size = 32
    rows, columns = map(np.asarray, boxes(1.0))
    for side in (rows, columns):
        assert (side >= 0).all()
        assert (side <= size).all()
        assert (side[:, 0] <= side[:, 1]).all()
    heights, widths = rows[:, 1] - rows[:, 0], columns[:, 1] - columns[:, 0]
    whole = (rows[:, 0] > 0) & (rows[:, 1] < size) & (columns[:, 0] > 0) & (columns[:, 1] < size)
    assert (heights[whole] == widths[whole]).all()
    assert (heights != widths).any()


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_cutmix_boxes_have_the_area_of_their_definition(alpha):
    size, count = 32, 8000
    draw = np.random.default_rng(2)
    half = (size * np.sqrt(1 - draw.beta(alpha, alpha, count))).astype(int) // 2
    sides = [
        np.clip(centre + half, 0, size) - np.clip(centre - half, 0, size)
        for centre in draw.integers(0, size, (2, count))
    ]
    theirs = sides[0] * sides[1] / size**2
    rows, columns = map(np.asarray, boxes(alpha))
    ours = (rows[:, 1] - rows[:, 0]) * (columns[:, 1] - columns[:, 0]) / size**2
    error = np.sqrt((ours.var() + theirs.var()) / count)
    assert abs(ours.mean() - theirs.mean()) < 4.5 * error
    chex.assert_trees_all_close(ours.std(), theirs.std(), rtol=0.05)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_mixup_weights_are_beta_distributed(alpha):
    keys = jax.random.split(jax.random.key(5), 4000)
    weights = jax.jit(jax.vmap(lambda k: mix.random_weight(k, alpha)))(keys)
    assert scipy.stats.kstest(np.asarray(weights), scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-4


def test_strips_change_places():
    order = shuffle.strip_order(jnp.array([2, 0, 1]), 8)
    assert order.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]  # strips of 2, 2 and 4 pixels
    image = jnp.arange(8 * 8).reshape(1, 8, 8, 1)
    shuffled = shuffle.shuffle(image, order[None], jnp.arange(8)[None, ::-1])
    chex.assert_trees_all_equal(shuffled[0], image[0][order][:, ::-1])
    keys = jax.random.split(jax.random.key(0), 600)
    rows, columns = jax.jit(jax.vmap(lambda k: shuffle.random_order(k, 7, 3)))(keys)
    assert (np.sort(rows, 1) == np.arange(7)).all()
    for drawn in (rows, columns):
        counts = np.unique(np.asarray(drawn), axis=0, return_counts=True)[1]
        assert len(counts) == 6
        assert scipy.stats.chisquare(counts).pvalue > 1e-4
    assert (rows != columns).any(1).mean() > 0.7


@pytest.mark.parametrize(("count", "size"), [(23, 10), (20, 10), (7, 10), (1, 3)])
def test_partners_are_permutations_within_groups(count, size):
    plans = [plan_epoch(jax.random.key(seed), count, size) for seed in range(4)]
    for plan in plans:
        chex.assert_shape(plan, (count,))
        assert sorted(plan.order.tolist()) == list(range(count))
        assert plan.group.tolist() == [i // size for i in range(count)]
        for first in range(0, count, size):
            group = range(first, min(first + size, count))
            assert sorted(plan.partner[first : first + size].tolist()) == list(group)
    if count > 1:
        assert len({tuple(p.order.tolist()) for p in plans}) == 4
        assert len({tuple(p.partner.tolist()) for p in plans}) == 4


def test_partners_are_drawn_evenly():
    keys = jax.random.split(jax.random.key(0), 3000)
    partners = np.asarray(jax.jit(jax.vmap(lambda k: views.plan_epoch(k, 5, 3).partner))(keys))
    for position, group in ((0, range(3)), (2, range(3)), (4, range(3, 5))):
        counts = [(partners[:, position] == other).sum() for other in group]
        assert sum(counts) == 3000
        assert scipy.stats.chisquare(counts).pvalue > 1e-4


def epoch(key, images, spec, batch, group=10, normalisation=NORMALISATION, aligned=False):
    """The mixed views of an epoch, in the order of positions, batch by batch."""
    count = len(images)
    plan = plan_epoch(key, count, group)
    program = views.ViewProgram(spec, normalisation, aligned)
    parts = [
        student_views(key, images, plan, np.arange(start, min(start + batch, count)), program)
        for start in range(0, count, batch)
    ]
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


@pytest.mark.parametrize("spec", [FULL, costly(WITH_DSA)], ids=["full", "dsa"])
def test_any_batch_size_sees_the_same_views(spec):
    images, key = pixels(70), jax.random.key(3)
    whole = epoch(key, images, spec, 70, aligned=True)
    chex.assert_trees_all_close(epoch(key, images, spec, 7), whole, atol=1e-5)
    other = epoch(jax.random.key(4), images, spec, 70, aligned=True)
    assert (np.abs(other.images - whole.images).max((1, 2, 3)) > 1e-3).all()


def test_a_group_goes_through_one_operation_of_dsa():
    """Each image by its own draw: flips only where the group is flipped, and then by halves."""
    images, key = pixels(60), jax.random.key(5)
    still = replace(WITH_DSA, mix="none", dsa="one-flip_cutout")
    seen = epoch(key, images, still, 60, group=10).images
    plan = plan_epoch(key, 60, 10)
    own = np.asarray(NORMALISATION(images[plan.order]))
    mirrored = np.isclose(seen, own[:, :, ::-1], atol=1e-5).all((1, 2, 3))
    same = np.isclose(seen, own, atol=1e-5).all((1, 2, 3))
    cut = np.isclose(seen, own, atol=1e-5).mean((1, 2, 3)) < 0.95
    flipped = []
    for first in range(0, 60, 10):
        group = slice(first, first + 10)
        flipped.append(bool((mirrored | same)[group].all()))
        assert flipped[-1] or (cut[group] & ~mirrored[group]).all()
    assert 0 < sum(flipped) < 6
    assert 0.2 < mirrored[np.repeat(flipped, 10)].mean() < 0.8


def test_some_groups_are_mixed():
    """Flat images stay flat where their group is not mixed, and their labels are their own."""
    levels = jnp.arange(200)[:, None, None, None]
    images = jnp.broadcast_to(levels, (200, 6, 6, 1)).astype(jnp.uint8)
    spec = replace(PLAIN, min_scale=1.0, mix="mixup", mix_probability=0.25)
    normalisation = Normalisation((0.0,), (1.0,))
    seen = epoch(jax.random.key(0), images, spec, 200, 5, normalisation, aligned=True)
    order = plan_epoch(jax.random.key(0), 200, 5).order
    own = np.isclose(255 * seen.images, levels[order], atol=1e-3).all((1, 2, 3)).reshape(40, 5)
    share = seen.share.reshape(40, 5)
    is_mixed = share[:, 0] < 1
    assert 2 <= is_mixed.sum() <= 20
    assert (share == share[:, :1]).all()
    assert own[~is_mixed].all()
    assert not own[is_mixed].all(1).any()


@pytest.mark.exhaustive  # any batch size sees the same views above
def test_several_seeds_at_once_and_batches_of_one_group():
    """By vmap, with a traced start: the views of the whole epoch again."""
    images = pixels(70)
    seeds = jax.vmap(jax.random.key)(jnp.arange(3))

    def batches(key):
        plan = views.plan_epoch(key, 70, 10)
        program = views.ViewProgram(FULL, NORMALISATION, True)

        def one_batch(carry, start):
            return carry, views.student_views(key, images, plan, start + jnp.arange(10), program)

        return jax.lax.scan(one_batch, None, jnp.array([40, 0]))[1]

    together = jax.jit(jax.vmap(batches))(seeds)
    chex.assert_shape(together.images, (3, 2, 10, 10, 10, 3))
    for seed in range(3):
        alone = epoch(seeds[seed], images, FULL, 70, aligned=True)
        for i, start in enumerate((40, 0)):
            ours = jax.tree.map(lambda x, at=(seed, i): np.asarray(x[at]), together)
            expected = jax.tree.map(lambda x, at=start: x[at : at + 10], alone)
            chex.assert_trees_all_close(ours, expected, atol=1e-6)


UNMIXED = replace(PLAIN, mix="none")


def test_a_view_before_mixing_depends_on_the_image_alone():
    """Another order of positions: the same image, the same view."""
    images, key = pixels(12), jax.random.key(7)
    plan = plan_epoch(key, 12, 4)
    turned = plan._replace(order=plan.order[::-1])
    program = views.ViewProgram(UNMIXED, NORMALISATION, False)
    seen = [student_views(key, images, p, np.arange(12), program).images for p in (plan, turned)]
    chex.assert_trees_all_close(seen[0], seen[1][::-1], atol=1e-6)


def test_views_differ_between_images():
    images = jnp.broadcast_to(pixels(1), (12, 10, 10, 3))
    seen = epoch(jax.random.key(0), images, UNMIXED, 12)
    assert len({x.tobytes() for x in seen.images}) >= 10
    assert (seen.share == 1).all()


def test_the_parts_of_a_view_are_there():
    images, key = pixels(12), jax.random.key(2)
    still = replace(UNMIXED, min_scale=1.0, flip=False)
    base = epoch(key, images, still, 12).images
    order = plan_epoch(key, 12, 10).order
    whole = np.abs(base - np.asarray(NORMALISATION(images[order]))).max((1, 2, 3)) < 1e-5
    assert whole.mean() > 0.9  # of all boxes of full area hardly any but the image fits
    shuffled = epoch(key, images, replace(still, shuffle=3), 12).images
    assert (np.abs(shuffled - base).max((1, 2, 3)) > 1e-2).mean() > 0.8
    assert np.allclose(np.sort(shuffled.ravel())[::100], np.sort(base.ravel())[::100], atol=0.05)
    flipped = epoch(key, images, replace(still, flip=True), 12).images
    mirrored = np.isclose(flipped, base[:, :, ::-1], atol=1e-5).all((1, 2, 3))
    same = np.isclose(flipped, base, atol=1e-5).all((1, 2, 3))
    assert (mirrored ^ same).all()
    assert 1 <= mirrored.sum() <= 11


@pytest.mark.parametrize(("kind", "alpha"), [("cutmix", 1.0), ("mixup", 0.8)])
def test_labels_are_mixed_as_images(kind, alpha):
    """Flat images of level c stay mixtures of c: their mean is the mixed label."""
    levels = jnp.arange(0, 250, 25)
    images = jnp.broadcast_to(levels[:, None, None, None], (10, 8, 8, 1)).astype(jnp.uint8)
    spec, key = replace(PLAIN, mix=kind, mix_alpha=alpha), jax.random.key(9)
    plan = plan_epoch(key, 10, 4)
    seen = epoch(key, images, spec, 10, group=4, normalisation=Normalisation((0.0,), (1 / 255,)))
    own = levels[plan.order][:, None].astype(jnp.float32)
    mixed = views.Mixed(*map(jnp.asarray, seen)).labels(own, own[plan.partner])
    chex.assert_trees_all_close(seen.images.mean((1, 2)), np.asarray(mixed), atol=1e-2)
    shares = [np.unique(seen.share[plan.group == g]) for g in range(3)]
    assert [len(s) for s in shares] == [1, 1, 1]  # one mix per group
    assert len({s.item() for s in shares}) == 3


def test_what_moves_into_a_grey_view_has_the_mean_level():
    images = jnp.full((40, 12, 12, 1), 255, jnp.uint8)
    spec = ViewSpec("rand-m10-n2-p1-w0", 1, 1.0, False, "none", 1.0)
    normalisation = Normalisation((0.4,), (0.25,))
    seen = epoch(jax.random.key(0), images, spec, 40, normalisation=normalisation).images
    corners = seen[:, [0, 0, -1, -1], [0, -1, 0, -1], 0]
    assert (np.abs(corners) < 0.02).any(1).mean() > 0.5  # the mean is zero once normalised


def test_cutmix_takes_pixels_and_mixup_blends_them():
    keys = jax.random.split(jax.random.key(3), 16)
    black, white = jnp.zeros((16, 8, 8, 1)), jnp.ones((16, 8, 8, 1))
    cut, share = (np.asarray(v) for v in mix.random_mix(keys, black, white, "cutmix", 1.0))
    assert set(np.unique(cut)) == {0.0, 1.0}
    np.testing.assert_allclose(1 - cut.mean((1, 2, 3)), share, atol=1e-6)
    blended, weight = (np.asarray(v) for v in mix.random_mix(keys, black, white, "mixup", 1.0))
    np.testing.assert_allclose(
        blended, np.broadcast_to(1 - weight[:, None, None, None], blended.shape)
    )
    assert len(np.unique(weight)) == 16
