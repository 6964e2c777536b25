"""RaT-BPTT's parts by hand: what limits its gradients and labels, and whom its students see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import steps

from delt_jax.learned import methods, setups, students
from delt_jax.learned.method import Learned
from delt_jax.learned.methods import ratbptt


def test_gradients_are_clipped_to_twice_an_average_that_starts_at_the_first():
    rule = ratbptt.clip_by_average_length()
    gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}  # of length 5
    state, lengths = rule.init(gradient), []
    for times in (1.0, 1.9, 10.0, 0.1):
        given = jax.tree.map(lambda g, times=times: times * g, gradient)
        clipped, state = rule.update(given, state)
        lengths.append(float(np.hypot(clipped["a"][0], clipped["b"][0, 0])))
        np.testing.assert_allclose(clipped["a"] * 4, [3 * clipped["b"][0, 0], 0], rtol=1e-6)
    # Averages: 5, 0.9 * 5 + 0.1 * 9.5 = 5.45, 0.9 * 5.45 + 0.1 * 50 = 9.905, and less than that.
    np.testing.assert_allclose(lengths, [5, 9.5, 2 * 9.905, 0.5], rtol=1e-5)
    np.testing.assert_allclose(state.average, 0.9 * 9.905 + 0.1 * 0.5, rtol=1e-5)


def test_an_average_waits_for_a_gradient_that_is_not_zero():
    rule = ratbptt.clip_by_average_length()
    state = rule.init(jnp.zeros(2))
    for given in (jnp.zeros(2), jnp.array([0.0, 7.0])):
        clipped, state = rule.update(given, state)
        np.testing.assert_array_equal(clipped, given)
    assert state.average == 7


def test_images_are_clipped_and_labels_are_not():
    """Adam forgets a gradient's scale, so the second step tells: of 1 and then 100."""
    setup = steps.setup(label_rate=0.1)
    learned = Learned(jnp.zeros((2, 1, 1, 1)), jnp.zeros((2, 3)), {})
    rule = ratbptt.optimiser(setup)
    state = rule.init(learned)
    for size in (1.0, 100.0):
        moved, state = rule.update(jax.tree.map(lambda x, s=size: x + s, learned), state, learned)

    def second(first, later):
        mean, square = 0.09 * first + 0.1 * later, 0.000999 * first**2 + 0.001 * later**2
        return -0.1 * (mean / 0.19) / np.sqrt(square / (1 - 0.999**2))

    np.testing.assert_allclose(moved.images, second(1, 2 * (0.9 + 10)), rtol=1e-4)
    np.testing.assert_allclose(moved.labels, second(1, 100), rtol=1e-4)


def test_labels_stay_at_zero_or_above_and_keep_their_sum_otherwise():
    images = jnp.array([[[[-2.0]]]])
    labels = jnp.array([[-0.5, 0.0, 3.0]])
    kept = ratbptt.not_negative(Learned(images, labels, {}), steps.setup())
    np.testing.assert_array_equal(kept.labels, [[0.0, 0.0, 3.0]])
    np.testing.assert_array_equal(kept.images, images)


@pytest.mark.parametrize("batch", [3, 5, 10, 13, 19])
def test_batches_are_as_equal_by_class_as_can_be(batch):
    """Of five classes of four images, over steps of all numbers and keys of outer steps."""
    draw = jax.jit(functools.partial(students.draw_balanced, classes=5, per_class=4, batch=batch))
    drawn = np.stack(
        [draw(jax.random.key(outer), jnp.int32(n)).indices for outer in (0, 1) for n in range(200)]
    )
    assert drawn.shape == (400, batch)
    assert all(len(set(row)) == batch for row in drawn)
    per_class = np.stack([(drawn // 4 == c).sum(1) for c in range(5)], 1)
    assert set(per_class.ravel()) == {batch // 5} | {-(-batch // 5)}
    # Every image has its turn: about batch / 20 of all, five standard deviations wide.
    share = np.bincount(drawn.ravel(), minlength=20) / 400
    expected = batch / 20
    assert np.abs(share - expected).max() < 5 * np.sqrt(expected * (1 - expected) / 400)


def test_a_batch_of_all_takes_them_as_they_lie():
    for batch in (0, 20, 50):
        drawn = students.draw_balanced(jax.random.key(0), jnp.int32(3), 5, 4, batch)
        assert drawn.indices.tolist() == list(range(20))
    other = students.draw_balanced(jax.random.key(0), jnp.int32(4), 5, 4, 0)
    assert jax.random.key_data(drawn.key).tolist() != jax.random.key_data(other.key).tolist()


def test_a_students_step_moves_one_image_of_every_class():
    """A window of one step: images that it does not see have no gradient."""
    method = methods.find("ratbptt")
    given = (f"student_batch={steps.CLASSES}", "window=1", "unroll=3")
    setup = steps.setup(options=setups.options_of(method, given))
    network, real = steps.network(method, setup, "dc"), steps.real(False)

    @jax.jit
    def gradient(key):
        return method.gradient(key, steps.learned(), network, real, setup)[1].images

    seen = set()
    for number in range(6):
        moved = np.abs(gradient(jax.random.key(number))).max((1, 2, 3)) > 0
        assert moved.reshape(steps.CLASSES, steps.IPC).sum(1).tolist() == [1] * steps.CLASSES
        seen.add(tuple(moved))
    assert len(seen) > 1
