"""Runs compute alike whatever JAX's settings are."""

import chex
import jax
import numpy as np
import pytest
from tiny_run import read_json, tiny

from delt_jax import main
from delt_jax.core import keys
from delt_jax.formats import distilled
from delt_jax.runtime import numerics

ODD = {
    "jax_enable_x64": True,
    "jax_threefry_partitionable": False,
    "jax_default_prng_impl": "rbg",
    "jax_random_seed_offset": 7,
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
}


@pytest.fixture
def odd():
    """JAX as a user's environment variables could set it."""
    before = {name: jax.config.values[name] for name in ODD}
    for name, value in ODD.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def draws():
    key = keys.stream(3, "test")
    return jax.random.key_data(key), jax.random.normal(key, (5,)), jax.random.bits(key, (3,))


def test_random_numbers_are_ours_and_settings_come_back(odd):
    for name in ODD:
        jax.config.update(name, ODD[name])
    inside = None
    with numerics.fixed():
        inside = draws()
        assert jax.numpy.ones(1, float).dtype == np.float32
        assert jax.config.values["jax_random_seed_offset"] == 0
    assert {name: jax.config.values[name] for name in ODD} == ODD
    assert jax.random.key(0).dtype != keys.stream(0).dtype  # ours is threefry's whatever is set
    for name, value in {"jax_enable_x64": False, "jax_threefry_partitionable": True}.items():
        jax.config.update(name, value)
    jax.config.update("jax_random_seed_offset", 0)
    chex.assert_trees_all_equal(draws(), inside)


def test_a_run_makes_the_same_under_odd_settings(odd, tmp_path):
    stages = ["squeeze", "rank", "recover"]
    main.run(tiny(), str(tmp_path / "odd"), stages)
    jax.config.update("jax_enable_x64", False)
    for name, value in {
        "jax_threefry_partitionable": True,
        "jax_default_prng_impl": "threefry2x32",
        "jax_random_seed_offset": 0,
        "jax_numpy_rank_promotion": "allow",
        "jax_numpy_dtype_promotion": "standard",
    }.items():
        jax.config.update(name, value)
    main.run(tiny(), str(tmp_path / "plain"), stages)
    odd_images, images = (
        distilled.read(tmp_path / name / "distilled").images for name in ("odd", "plain")
    )
    chex.assert_trees_all_equal(odd_images, images)
    hashes = [
        read_json(folder / "teacher/manifest.json")["hash"]
        for folder in (tmp_path / "odd", tmp_path / "plain")
    ]
    assert len(set(hashes)) == 1
