"""Several batches on one device: each as it is alone, but for the last bits."""

import functools

import chex
import jax
import numpy as np
import pytest
from test_step import make_job, make_state, mapped_chunk, program, teachers

from delt_jax.runtime import devices

STEPS = 4


@functools.cache
def recovered(width, stack, seeds, lanes="vmap"):
    """Images and losses of some batches after a few iterations side by side."""
    run = devices.map_jobs(mapped_chunk(program(3)), width, stack, lanes)
    states = devices.stack_jobs([make_state(s) for s in seeds], width, stack)
    jobs = devices.stack_jobs([make_job(s) for s in seeds], width, stack)
    losses = []
    for _ in range(STEPS):
        states, terms = run(states, jobs, teachers())
        losses.append(terms.loss)
    images = [devices.job(states, i).images for i in range(len(seeds))]
    return images, [[float(devices.job(x, i)[0]) for x in losses] for i in range(len(seeds))]


@pytest.mark.parametrize(("stack", "lanes"), [(2, "vmap"), (3, "vmap"), (2, "in_turn")])
def test_stacked_batches_are_what_they_are_alone_up_to_rounding(stack, lanes):
    seeds = tuple(range(stack))
    images, losses = recovered(1, stack, seeds, lanes)
    for i in seeds:
        (alone,), (loss,) = recovered(1, 1, (i,))
        chex.assert_trees_all_close(losses[i], loss, rtol=1e-5)
        # Adam divides by the gradient's size, which makes rounding visible where it is tiny.
        chex.assert_trees_all_close(images[i], alone, atol=2e-4)


def test_a_stacked_batch_does_not_depend_on_its_place_its_neighbours_or_the_device():
    together, _ = recovered(1, 2, (0, 1))
    swapped, _ = recovered(1, 2, (1, 2))
    spread, _ = recovered(2, 2, (2, 0, 1))
    chex.assert_trees_all_equal(swapped[0], together[1])
    chex.assert_trees_all_equal(spread[1], together[0])
    chex.assert_trees_all_equal(spread[2], together[1])


def test_jobs_lie_device_by_device():
    rows = [{"x": np.full(2, i, np.float32)} for i in range(5)]
    stacked = devices.stack_jobs(rows, 2, 3)["x"]
    assert stacked.shape == (2, 3, 2)
    assert stacked[:, :, 0].tolist() == [[0, 1, 2], [3, 4, 4]]
    assert len(stacked.devices()) == 2
    assert [devices.job(stacked, i)[0] for i in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(IndexError):
        devices.job(stacked, 6)


def test_nothing_is_traced_again_across_calls_of_equal_size():
    traced = chex.assert_max_traces(mapped_chunk(program(2)), n=1)
    run = devices.map_jobs(traced, 2, 2)
    for first in (0, 4):  # two groups
        seeds = range(first, first + 4)
        states = devices.stack_jobs([make_state(s) for s in seeds], 2, 2)
        jobs = devices.stack_jobs([make_job(s) for s in seeds], 2, 2)
        for _ in range(3):
            states, _ = run(states, jobs, teachers())
    assert jax.tree.leaves(states)[0].shape[:2] == (2, 2)
