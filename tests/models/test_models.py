"""The zoo's shapes, sizes and errors; BatchNorm and its moments against numpy."""

import copy

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from delt_jax import models
from delt_jax.core.losses import Moments
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec
from delt_jax.models.norm import BatchNorm
from delt_jax.models.resnet import ResNet
from delt_jax.models.tap import apply_tapped


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def shapes(spec):
    """Shapes of a model's variables and of its logits and features for two images."""
    model = models.create(spec)
    images = jnp.zeros((2, spec.image_size, spec.image_size, spec.channels))

    def run(key):
        variables = model.init(key, images, train=False)
        variables = {k: variables[k] for k in ("params", "batch_stats")}
        return variables, model.apply(variables, images, train=False, mutable=["features"])

    return jax.eval_shape(run, jax.random.key(0))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


SMALLEST = {
    "conv3": 8,
    "conv4": 16,
    "conv5": 32,
    "conv6": 64,
    "resnet18": 32,
    "resnet18_modified": 8,
}


@pytest.mark.parametrize("name", ["conv3", "conv6", "resnet18", "resnet18_modified"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shapes_and_types(name, dtype):
    spec = ModelSpec(name, 7, SMALLEST.get(name, 64), 1, width=8, dtype=dtype)
    variables, (logits, sown) = shapes(spec)
    (features,) = sown["features"]["pooled"]
    chex.assert_shape(logits, (2, 7))
    chex.assert_shape(features, (2, None))
    chex.assert_type([logits, features], jnp.float32)
    chex.assert_type(jax.tree.leaves([variables["params"], variables["batch_stats"]]), jnp.float32)


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [
        (ModelSpec("resnet18", 1000, 224, 3, width=64), 11_689_512),
        (ModelSpec("resnet18_modified", 10, 32, 3), 11_173_962),
        (ModelSpec("conv3", 10, 32, 3), 320_010),
    ],
)
def test_parameter_counts(spec, parameters):
    assert count(shapes(spec)[0]["params"]) == parameters


@pytest.mark.parametrize("name", SMALLEST)
def test_images_must_be_large_enough(name):
    smallest = SMALLEST[name]
    models.create(ModelSpec(name, 10, smallest, 3))
    with pytest.raises(UserError, match=f"{name} .*at least {smallest} px.*data.image_size"):
        models.create(ModelSpec(name, 10, smallest - 1, 3))


def test_an_unknown_model_is_refused_with_the_zoo():
    with pytest.raises(UserError, match=f"no model 'conv2'.*{', '.join(models.NAMES)}"):
        models.create(ModelSpec("conv2", 10, 32, 3))


def test_equal_specifications_build_equal_modules():
    spec = ModelSpec("conv3", 10, 8, 3, width=8)
    assert models.create(spec) == models.create(spec)
    assert hash(models.create(spec)) == hash(models.create(spec))


def torch_batch_norm(x, scale, bias, mean, var):
    return (x.astype(np.float64) - mean) / np.sqrt(var + 1e-5) * scale + bias


def test_batch_norm_trains_as_torch():
    x = 3 * normal(4, 5, 5, 6) + 2
    params = {"scale": normal(6, seed=1), "bias": normal(6, seed=2)}
    stats = {"mean": normal(6, seed=3), "var": 0.5 + normal(6, seed=4) ** 2}
    before = copy.deepcopy(stats)
    y, changed = BatchNorm().apply(
        {"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"]
    )
    chex.assert_trees_all_equal(stats, before)
    rows = x.reshape(-1, 6).astype(np.float64)
    expected = torch_batch_norm(x, **params, mean=rows.mean(0), var=rows.var(0))
    chex.assert_trees_all_close(np.asarray(y), expected.astype(np.float32), atol=1e-5)
    running = {
        "mean": 0.9 * stats["mean"] + 0.1 * rows.mean(0),
        "var": 0.9 * stats["var"] + 0.1 * rows.var(0, ddof=1),
    }
    chex.assert_trees_all_close(
        changed["batch_stats"], jax.tree.map(np.float32, running), rtol=1e-5, atol=1e-6
    )
    assert np.abs(rows.var(0, ddof=1) / rows.var(0) - 1).min() > 5e-3


def test_batch_norm_evaluates_by_its_running_statistics():
    x = normal(3, 2, 2, 4)
    params = {"scale": normal(4, seed=1), "bias": normal(4, seed=2)}
    stats = {"mean": normal(4, seed=3), "var": 0.5 + normal(4, seed=4) ** 2}
    variables = {"params": params, "batch_stats": stats}
    y, changed = BatchNorm().apply(variables, x, False, mutable=["batch_stats"])
    expected = torch_batch_norm(x, **params, **stats).astype(np.float32)
    chex.assert_trees_all_close(np.asarray(y), expected, atol=1e-5)
    chex.assert_trees_all_equal(changed["batch_stats"], stats)


def test_initialising_in_train_mode_leaves_the_running_statistics():
    variables = BatchNorm().init(jax.random.key(0), normal(4, 3) + 5, True)
    chex.assert_trees_all_equal(
        variables["batch_stats"], {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}
    )


MODELS = {
    "conv3": models.create(ModelSpec("conv3", 5, 8, 3, width=4)),
    "resnet": ResNet((2, 1), width=4, num_classes=5, small_stem=True),
}
# Every BatchNorm in forward order, with the convolution whose output it reads.
LAYERS = {
    "conv3": [("norm_0", "conv_0"), ("norm_1", "conv_1"), ("norm_2", "conv_2")],
    "resnet": [
        ("bn1", "conv1"),
        ("layer1_0/bn1", "layer1_0/conv1"),
        ("layer1_0/bn2", "layer1_0/conv2"),
        ("layer1_1/bn1", "layer1_1/conv1"),
        ("layer1_1/bn2", "layer1_1/conv2"),
        ("layer2_0/bn1", "layer2_0/conv1"),
        ("layer2_0/bn2", "layer2_0/conv2"),
        ("layer2_0/downsample_1", "layer2_0/downsample_0"),
    ],
}


def at(tree, path):
    for name in path.split("/"):
        tree = tree[name]
    return tree


def random_variables(model, images):
    """Variables of a model drawn by numpy: of the size of trained ones, all different."""
    shaped = jax.eval_shape(lambda k: model.init(k, images, train=False), jax.random.key(0))
    draw = np.random.default_rng(0)

    def kernel(leaf):
        fan_in = max(np.prod(leaf.shape[:-1]), 1)
        return draw.standard_normal(leaf.shape).astype(np.float32) / np.float32(np.sqrt(fan_in))

    def positive(leaf):
        return (0.5 + draw.random(leaf.shape)).astype(np.float32)

    return {
        "params": jax.tree.map(kernel, shaped["params"]),
        "batch_stats": jax.tree.map(positive, shaped["batch_stats"]),
    }


@pytest.mark.parametrize("name", MODELS)
def test_moments_are_those_of_every_layers_input(name):
    model, images = MODELS[name], normal(3, 8, 8, 3)
    variables = random_variables(model, images)

    @jax.jit
    def both(variables, images):
        tapped = apply_tapped(model, variables, images)
        plain = model.apply(
            variables,
            images,
            train=False,
            capture_intermediates=lambda module, _: isinstance(module, nn.Conv),
            mutable=["intermediates"],
        )
        return tapped[:3], plain

    (logits, batch, running), (expected_logits, captured) = both(variables, images)
    chex.assert_trees_all_close(logits, expected_logits, rtol=1e-5, atol=1e-6)
    assert len(batch) == len(running) == len(LAYERS[name])
    for (norm, conv), b, r in zip(LAYERS[name], batch, running, strict=True):
        (x,) = at(captured["intermediates"], conv)["__call__"]
        rows = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
        chex.assert_trees_all_close(np.asarray(b.mean), np.float32(rows.mean(0)), atol=1e-5)
        chex.assert_trees_all_close(np.asarray(b.variance), np.float32(rows.var(0)), atol=1e-5)
        recorded = at(variables["batch_stats"], norm)
        chex.assert_trees_all_equal(r, Moments(recorded["mean"], recorded["var"]))


class Norms(nn.Module):
    """BatchNorms in a row, each applied so many times; `idle` ones are only initialised."""

    times: tuple[int, ...]
    idle: int = 0

    @nn.compact
    def __call__(self, x, train):
        for i, times in enumerate(self.times):
            norm = BatchNorm(name=f"norm_{i}")
            for _ in range(times):
                x = norm(x, train)
        for i in range(self.idle):
            norm = BatchNorm(name=f"idle_{i}")
            if self.is_initializing():
                norm(x, train)
        return nn.Dense(2)(x.mean((1, 2)))


def init(model, x):
    return jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(x)


def test_moments_are_accurate_far_from_zero():
    x = np.float32(100 + 0.01 * normal(16, 8, 8, 3))
    variables = init(Norms((1,)), x)
    stats = {"norm_0": {"mean": jnp.full(3, 100.02), "var": jnp.full(3, 2e-4)}}
    (moments,) = apply_tapped(Norms((1,)), {**variables, "batch_stats": stats}, x).batch
    rows = x.reshape(-1, 3).astype(np.float64)
    chex.assert_trees_all_close(np.asarray(moments.mean), np.float32(rows.mean(0)), atol=2e-5)
    chex.assert_trees_all_close(np.asarray(moments.variance), np.float32(rows.var(0)), rtol=1e-3)


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2)(nn.LayerNorm()(x).mean((1, 2)))


def test_a_model_without_batch_norm_has_nothing_to_match():
    x = normal(2, 4, 4, 3)
    with pytest.raises(UserError, match="no BatchNorm layer"):
        apply_tapped(Plain(), init(Plain(), x), x)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Norms((1, 2)), r"ran 3 BatchNorm layers \(2 different\) but holds 2 pairs"),
        (Norms((1, 1), idle=1), r"ran 2 BatchNorm layers \(2 different\) but holds 3 pairs"),
    ],
)
def test_layers_and_statistics_must_be_one_to_one(model, sentence):
    x = normal(2, 4, 4, 3)
    with pytest.raises(UserError, match=sentence):
        apply_tapped(model, init(model, x), x)
