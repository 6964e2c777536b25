"""The engine of learned sets: its steps, its pool, and that nothing depends on how it is run."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_method import METHOD, NORMALISATION, SETUP, gradient, key_of_step, task, train

from delt_jax.core import keys, progress, stopping
from delt_jax.errors import UserError
from delt_jax.learned import driver, pool, program
from delt_jax.learned.method import Pool, Real
from delt_jax.learned.real_batches import RealBatches, devices_for
from delt_jax.runtime import devices
from delt_jax.store.log import MetricsLog


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(devices, "device_count", lambda: 1)


def learn(asked):
    with progress.progress(asked.steps, "learn", "step") as bar, stopping.deferred():
        return driver.finish(asked, driver.begin(asked), bar)


def by_hand(asked):
    """The same steps written one after another, without pool, chunks or compiled programs."""
    setup, images = asked.program.setup, RealBatches(asked.examples, SETUP, 0, by_class=False)
    networks = [
        program.compile_fresh(asked.program)(keys.stream(0, "learn", "first network", i))
        for i in range(3)
    ]
    ages, learned, optimiser = [0, 1, 2], asked.start, METHOD.optimiser(setup)
    opt_state, losses = optimiser.init(learned), []
    for step in range(setup.steps):
        key, chosen = key_of_step(step), images.draw(step).chosen
        i = pool.turns(np.zeros(3, np.int32), 9, 0, range(step, step + 1)).drawn[0]
        real = Real(NORMALISATION(asked.examples.pixels[chosen]), None, None)
        one = jax.vmap(
            lambda real, key=key, i=i, learned=learned: gradient(
                keys.derive(key, "gradient"), learned, networks[i], real, setup
            ),
            axis_name=devices.AXIS,
        )(jax.tree.map(lambda x: x[None], real))
        loss, grads = jax.tree.map(lambda x: x[0], one)
        updates, opt_state = optimiser.update(grads, opt_state, learned)
        learned = optax.apply_updates(learned, updates)
        losses.append(float(loss))
        if ages[i] + 1 >= setup.lifetime:
            networks[i] = program.compile_fresh(asked.program)(keys.derive(key, "network"))
            ages[i] = 0
        else:
            networks[i] = train(keys.derive(key, "train"), learned, networks[i], real, setup)
            ages[i] += 1
    return learned, losses, ages


def test_steps_are_those_of_the_method(tmp_path):
    asked = task(tmp_path / "run")
    learned, losses, ages = by_hand(asked)
    done = learn(asked)
    np.testing.assert_allclose(done.losses, losses, rtol=1e-5)
    chex.assert_trees_all_close(done.state.learned, learned, rtol=1e-5, atol=1e-6)
    assert done.state.pool.age.tolist() == ages


def test_a_chunk_has_the_steps_of_single_calls(tmp_path):
    single, chunked = task(tmp_path / "single"), task(tmp_path / "chunk", chunk_steps=5)
    chex.assert_trees_all_close(learn(chunked).state, learn(single).state, rtol=1e-5, atol=1e-6)


def test_eight_devices_learn_what_one_does(tmp_path, monkeypatch):
    alone = learn(task(tmp_path / "one"))
    monkeypatch.setattr(devices, "device_count", lambda: 8)
    together = learn(task(tmp_path / "eight"))
    chex.assert_trees_all_close(together.state, alone.state, rtol=1e-4, atol=1e-5)
    assert [devices_for(batch, 8) for batch in (SETUP.real_batch, 9)] == [8, 3]


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    seen = []

    def validate(learned):
        seen.append(np.array(learned.images))
        return -float(np.abs(learned.images).mean()) % 1

    whole = learn(task(tmp_path / "whole", validate_every=4, validate=validate, chunk_steps=3))
    best = int(np.argmax([accuracy for _, accuracy in whole.validated]))
    assert [step for step, _ in whole.validated] == [4, 8, 12]
    np.testing.assert_array_equal(whole.best.images, seen[best])
    asked = task(tmp_path / "cut", validate_every=4, validate=validate, chunk_steps=3)
    stops = 0
    for _ in range(20):
        calls = iter([False, True])  # every second call stops
        monkeypatch.setattr(stopping, "requested", lambda calls=calls: next(calls, True))
        monkeypatch.setattr(stopping, "leave", raise_stopped)
        try:
            cut = learn(asked)
            break
        except stopping.Stopped:
            stops += 1
    assert stops > 1
    chex.assert_trees_all_equal(cut.state, whole.state)
    chex.assert_trees_all_equal(cut.best, whole.best)
    np.testing.assert_array_equal(cut.losses, whole.losses)
    assert cut.validated == whole.validated


def raise_stopped():
    raise stopping.Stopped(15)


def test_damaged_checkpoints_start_anew(tmp_path, capsys):
    asked = task(tmp_path / "run")
    whole = learn(asked)
    driver.checkpoint.save(asked.partial, whole)
    assert len(driver.begin(asked).losses) == SETUP.steps
    (asked.partial / "state/checkpoint.json").write_text("{}")
    assert len(driver.begin(asked).losses) == 0
    assert "the set starts anew" in capsys.readouterr().out


def test_a_fresh_network_for_every_step_is_never_trained(tmp_path):
    def fails(*_):
        raise AssertionError

    method = replace(METHOD, train=fails, pool=Pool(), keeps_bounds=True)
    setup = replace(SETUP, lifetime=1, steps=3, low=(-0.1,), high=(0.1,))
    done = learn(task(tmp_path / "run", method, setup))
    assert np.abs(done.state.learned.images).max() <= np.float32(0.1)
    first = driver.begin(task(tmp_path / "other", method, setup)).state.pool
    assert not np.array_equal(
        *(p.variables["params"]["features_0"]["kernel"] for p in (first, done.state.pool))
    )


def test_averages_are_of_the_parts_that_a_method_names(tmp_path):
    """Beside a plain run, whose sets after every step are averaged here."""
    seen = []

    def validate(learned):
        seen.append(learned)
        return 0.5

    plain = learn(task(tmp_path / "plain", validate_every=1, validate=validate))
    iterates, seen = seen, []
    method = replace(METHOD, average="memory", averaged=("images",))
    setup = replace(SETUP, options=(("memory", 0.75),))
    asked = task(tmp_path / "averaged", method, setup, validate_every=1, validate=validate)
    averaged = learn(asked)
    chex.assert_trees_all_equal(averaged.state.learned, plain.state.learned)
    for count in (1, 5, SETUP.steps):
        shares = 0.25 * 0.75 ** np.arange(count)[::-1]
        expected = sum(s * one.images for s, one in zip(shares, iterates, strict=False))
        found = seen[count - 1]
        np.testing.assert_allclose(found.images, expected / shares.sum(), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found.labels, iterates[count - 1].labels)
    without = replace(asked.program, setup=replace(setup, options=(("memory", 0.0),)))
    assert program.begin_average(without, asked.start) is None


def test_steps_that_a_method_skips_do_not_end_a_run(tmp_path):
    def skipping(share):
        def some(key, learned, network, real, setup):
            loss, grads = gradient(key, learned, network, real, setup)
            is_skipped = jax.random.uniform(jax.random.fold_in(key, 7)) < share
            grads = jax.tree.map(lambda g: jnp.where(is_skipped, 0, g), grads)
            return jnp.where(is_skipped, jnp.nan, loss), grads

        return replace(METHOD, gradient=some, skips=lambda setup: True)

    log = MetricsLog(tmp_path)
    done = learn(replace(task(tmp_path / "some", skipping(0.5)), log=log))
    log.close()
    assert 0 < np.isnan(done.losses).sum() < SETUP.steps
    chex.assert_tree_all_finite(done.state.learned)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    refusing = replace(skipping(0.5), skips=lambda setup: False)
    with pytest.raises(UserError, match="not finite any more after step"):
        learn(task(tmp_path / "refused", refusing))
    long = replace(SETUP, steps=150)
    with pytest.raises(UserError, match="not finite any more after step 0; lower"):
        learn(task(tmp_path / "all", skipping(1), long))


def test_divergence_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"not finite any more after step .*learn.image_rate"):
        learn(task(tmp_path / "run", setup=replace(SETUP, image_rate=1e30)))


def test_pool_draws_every_network_and_counts_ages():
    turns = pool.turns(pool.first_ages(Pool(4, True), 8), 8, 0, range(400))
    assert pool.first_ages(Pool(4, True), 8).tolist() == [0, 2, 4, 6]
    assert np.bincount(turns.drawn, minlength=4).min() > 70
    assert abs(int(turns.renews.sum()) - 400 / 8) <= 4
    half = pool.turns(pool.first_ages(Pool(4, True), 8), 8, 0, range(200))
    rest = pool.turns(half.ages, 8, 0, range(200, 400))
    np.testing.assert_array_equal(np.concatenate([half.drawn, rest.drawn]), turns.drawn)
    np.testing.assert_array_equal(rest.ages, turns.ages)


def test_real_images_by_class(tmp_path):
    asked = task(tmp_path / "run")
    setup = replace(SETUP, real_batch=4, more_real=5)
    real = RealBatches(asked.examples, setup, 0, by_class=True)
    read = real.read(range(7, 9), 2)
    assert read.images.shape == (2, 1, 2, 3, 2, 8, 8, 1)
    assert (np.asarray(read.labels) == np.arange(3)[:, None]).all()
    drawn = real.draw(8)
    assert len(np.unique(drawn.chosen)) == 12
    np.testing.assert_array_equal(
        np.concatenate([read.images[d, 0, 1] for d in range(2)], 1),
        asked.examples.pixels[drawn.chosen],
    )
    for device in range(2):
        np.testing.assert_array_equal(read.more[0][device, 0, 1], asked.examples.pixels[drawn.more])
    with pytest.raises(UserError, match=r"30 real images of each class .* lower learn.real_batch"):
        RealBatches(asked.examples, replace(setup, real_batch=30), 0, by_class=True)
