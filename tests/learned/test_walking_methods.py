"""Methods of part two on tiny networks: one step each, and where experts' pieces begin."""

import functools
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from costly import costly

from delt_jax.errors import UserError
from delt_jax.learned import expert_walk, methods, setups
from delt_jax.learned.expert_store import FLOAT32, ExpertStore
from delt_jax.learned.expert_walk import ExpertWalk
from delt_jax.learned.method import Learned, Network, Real, Setup
from delt_jax.models import ModelSpec, create

SPEC = ModelSpec("dc_conv3", 3, 8, 1, 2)
SMALL = {
    "student_steps": 2.0,
    "window": 2.0,
    "unroll": 4.0,
    "solver_steps": 5.0,
    "most_network_steps": 2.0,
    "student_rate": 0.01,
}


def setup_of(method, **options):
    known = dict(method.options)
    numbers = known | {k: v for k, v in (SMALL | options).items() if k in known}
    rates = (0.1, 0.1 if method.labels != "one_hot" else 0.0)
    return Setup(
        *(SPEC, 3, 2, 10, 4, 0, *rates, 1e-3, 1, 5, "", 1, False, (-2.0,), (2.0,)),
        options=tuple(numbers.items()),
    )


def problem(method, setup):
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.standard_normal((6, 8, 8, 1)), jnp.float32)
    labels = jnp.repeat(jnp.eye(3), 2, 0)
    extra = {name: jnp.float32(setup.option(option)) for name, option in method.extra}
    model = create(SPEC)
    variables = model.init(jax.random.key(0), images, train=False)["params"]
    if method.walks_on_experts:
        later = jax.tree.map(lambda w: w + 0.1, variables)
        network = Network({"params": variables, "target": later}, (), jnp.int32(0))
    else:
        opt_state = method.network_optimiser(setup).init(variables)
        network = Network({"params": variables}, opt_state, jnp.int32(0))
    real = Real(images[:4] + 0.1, jnp.array([0, 1, 2, 0]), None)
    return Learned(images, labels, extra), network, real


@pytest.mark.parametrize("name", [costly("datm"), "tesla", "att", "ratbptt", costly("rcig")])
def test_a_step_moves_images_and_what_else_is_learned(name):
    method = methods.find(name)
    setup = setup_of(method)
    learned, network, real = problem(method, setup)
    rule = method.optimiser(setup)

    # Most of the time goes into compiling, so it is done plainly.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(key, learned):
        loss, grads = method.gradient(key, learned, network, real, setup)
        updates, _ = rule.update(grads, rule.init(learned), learned)
        after = method.project(jax.tree.map(jnp.add, learned, updates), setup)
        return loss, grads, after, method.train(key, learned, network, real, setup)

    loss, grads, after, trained = step(jax.random.key(1), learned)
    chex.assert_tree_all_finite((loss, grads, after))
    chex.assert_trees_all_equal_shapes(learned, grads)
    assert jnp.abs(after.images - learned.images).max() > 0
    moves_labels = bool(jnp.abs(after.labels - learned.labels).max() > 0)
    assert moves_labels == (setup.label_rate > 0)
    for extra, value in learned.extra.items():
        assert after.extra[extra] != value
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), trained.variables, network.variables)
    assert (max(jax.tree.leaves(moved)) > 0) == (name == "rcig")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("datm", {"largest_loss": 1e-9}),
        ("datm", {"largest_loss": 1e9, "student_rate": 1e30}),
        costly("tesla", {"largest_loss": 1e-9}),
        costly("att", {"largest_loss": 1e-9}),
    ],
)
def test_a_step_of_too_large_a_loss_or_of_none_is_left_out(name, options):
    method = methods.find(name)
    setup = setup_of(method, **options)
    learned, network, real = problem(method, setup)
    value, grads = method.gradient(jax.random.key(1), learned, network, real, setup)
    assert not value <= setup.option("largest_loss")
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_array_equal(leaf, 0)
    assert method.skips(setup)
    assert not method.skips(setup_of(method))


@pytest.mark.parametrize("name", ["mtt", costly("datm")])
def test_labels_are_read_as_students_read_them(name):
    """Logits of DATM, learned or not, and probabilities of the others."""
    method = methods.find(name)
    setup = replace(setup_of(method), label_rate=0.0)
    learned, network, real = problem(method, setup)
    spread = jax.nn.log_softmax(learned.labels) if name == "datm" else learned.labels
    shifted = learned._replace(labels=spread + (3.0 if name == "datm" else 0.0))

    def loss(learned):
        return method.gradient(jax.random.key(1), learned, network, real, setup)[0]

    np.testing.assert_allclose(loss(shifted), loss(learned), rtol=1e-5)
    if name == "mtt":
        soft = learned._replace(labels=jax.nn.softmax(learned.labels))
        assert abs(loss(soft) - loss(learned)) > 1e-6


def test_labels_begin_as_the_logits_of_experts_that_are_right(tmp_path):
    setup = setup_of(methods.find("datm"), experts=3, epochs=2)
    images = np.random.default_rng(0).standard_normal((8, 8, 8, 1)).astype(np.float32)
    model = create(SPEC)
    keys = (0, 3, 7)  # of experts that differ
    made = [model.init(jax.random.key(i), images, train=False)["params"] for i in keys]
    store = ExpertStore(tmp_path, FLOAT32, jax.tree.map(np.asarray, made[0]))
    for expert, params in enumerate(made):
        for epoch in range(3):  # the last epoch counts
            scale = 1 if epoch == 2 else -7
            store.write(expert, epoch, jax.tree.map(lambda w, s=scale: s * np.asarray(w), params))
    logits = np.stack([model.apply({"params": p}, images, train=False) for p in made])
    classes = np.array([0, 0, 0, 2, 2, 1, 1, 2])
    rows = []
    for image, label in enumerate(classes):
        right = [row for row in logits[:, image] if row.argmax() == label]
        rows.append(np.mean(right or logits[:, image], axis=0))
    numbers = {(logits[:, i].argmax(-1) == label).sum() for i, label in enumerate(classes)}
    assert numbers == {0, 1, 2}
    found = setups.expert_logits(store, setup, images, classes)
    np.testing.assert_allclose(found, rows, rtol=1e-5, atol=1e-6)


def test_pieces_of_experts_are_drawn_by_the_number_of_the_step(tmp_path):
    method = methods.find("mtt")
    setup = setup_of(
        method, experts=3, expert_epochs=2, first_start=1, last_start=2, grown_last_start=4,
        grown_at=100,
    )  # fmt: skip
    store = ExpertStore(tmp_path, FLOAT32, {"w": np.zeros(2, np.float32)})
    for expert in range(3):
        for epoch in range(7):
            store.write(expert, epoch, {"w": np.float32([expert, epoch])})
    walk = ExpertWalk(store, setup, seed=1)
    drawn = [walk.draw(step) for step in range(300)]
    assert {expert for expert, _ in drawn} == {0, 1, 2}
    assert {start for _, start in drawn[:40]} == {1}
    assert {start for _, start in drawn[100:]} == {1, 2, 3}
    assert drawn[7] == ExpertWalk(store, setup, seed=1).draw(7)
    assert drawn != [ExpertWalk(store, setup, seed=2).draw(step) for step in range(300)]
    expert, start = drawn[250]
    segment = walk.segment(250)
    np.testing.assert_array_equal(segment["params"]["w"], [expert, start])
    np.testing.assert_array_equal(segment["target"]["w"], [expert, start + 2])


def test_options_are_the_methods_own_numbers():
    mtt = methods.find("mtt")
    found = dict(setups.options_of(mtt, ("student_steps=7", "rate_rate=1e-6")))
    assert (found["student_steps"], found["rate_rate"]) == (7, 1e-6)
    assert found["experts"] == dict(expert_walk.OPTIONS)["experts"]
    with pytest.raises(UserError, match=r"no number 'student_step'.*did you mean"):
        setups.options_of(mtt, ("student_step=7",))
    with pytest.raises(UserError, match="write a number"):
        setups.options_of(mtt, ("student_steps=many",))
    with pytest.raises(UserError, match="It has: none"):
        setups.options_of(methods.find("dm"), ("window=3",))
