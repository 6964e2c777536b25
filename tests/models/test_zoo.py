"""Every architecture against the numbers recorded from torch, and what all must share."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recorded as recorded_lib
from conftest import golden_dir
from costly import costly
from flax import linen as nn
from seeded import seeded_state
from small_models import small

from delt_jax import models
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec, layers, torch_weights
from delt_jax.models.tap import apply_tapped
from delt_jax.training import state as state_lib

RECORDED = sorted((golden_dir() / "zoo").glob("*.npz"))
DC = ("dc_conv3", "dc_conv4", "dc_conv5", "dc_conv6")
WIDE = ("conv3_wide", "conv4_wide", "conv5_wide", "conv3_wide_softplus")
WITHOUT_BN = ("alexnet", *DC, *WIDE, "swin_v2_t", "vgg11", "vit_b_16")
# Like another one, only deeper, wider or without its BatchNorm.
ALIKE = (
    *("conv4", "conv5", "conv6", "resnet18", "resnet34", "resnet34_modified"),
    *("resnet101", "resnet101_modified", "shufflenet_v2_x0_5", "vgg11"),
)
# Recordings that take long; bottlenecks, depthwise layers and attention have others.
COSTLY = (*ALIKE, "alexnet", "efficientnet_b0", "swin_v2_t", "vgg11_bn")
WITH_DROPOUT = (
    "alexnet",
    "efficientnet_b0",
    "efficientnet_lite0",
    "mobilenet_v2",
    "swin_v2_t",
    "vgg11",
    "vgg11_bn",
)


def small_model(name):
    """A model of few channels in bfloat16, and two images for it."""
    size = small(name).image_size
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return models.create(small(name, "bfloat16")), images


def shapes(model, images):
    """Of the variables, nothing computed."""
    made = jax.eval_shape(lambda k, x: model.init(k, x, train=False), jax.random.key(0), images)
    return {k: v for k, v in made.items() if k != "features"}


@functools.cache
def small_shapes(name):
    """Of the variables of `small_model`, which two tests need."""
    return shapes(*small_model(name))


def architecture(stem: str) -> str:
    return max((name for name in models.NAMES if stem.startswith(name)), key=len)


def recording(path):
    """A test of it."""
    return costly(path, when=path.stem in COSTLY, id=path.stem)


@pytest.mark.parametrize("path", map(recording, RECORDED))
def test_recorded_numbers(path):
    recorded = np.load(path)
    size = int(recorded["input_size"])
    spec = ModelSpec(architecture(path.stem), recorded["logits"].shape[1], size, 3)
    state = seeded_state(path.with_suffix(".state_dict.json"), int(recorded["seed"]))
    variables = torch_weights.from_torch(state, spec)
    run = recorded_lib.network(spec, recorded["labels"])
    recorded_lib.check(recorded, run(recorded_lib.seeded_images(recorded), variables))


@pytest.mark.parametrize("name", [costly(n, when=n in ALIKE) for n in models.NAMES])
def test_contract_of_every_model(name):
    """Shapes, types, features, moments one to one with statistics; traced, never run."""
    (model, images), variables = small_model(name), small_shapes(name)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def train(variables, images):
        return model.apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats", "features"],
            rngs={"dropout": jax.random.key(0)},
        )

    logits, changed = jax.eval_shape(train, variables, images)
    assert (logits.shape, logits.dtype) == ((2, 5), jnp.float32)
    assert changed["features"]["pooled"][0].shape[0] == 2
    if name in WITHOUT_BN:
        assert "batch_stats" not in variables
    else:
        assert jax.tree.structure(changed["batch_stats"]) == jax.tree.structure(
            variables["batch_stats"]
        )
        _, batch, running = jax.eval_shape(
            lambda v, x: apply_tapped(model, v, x)[:3], variables, images
        )
        assert 2 * len(batch) == 2 * len(running) == len(jax.tree.leaves(variables["batch_stats"]))


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_models_with_dropout_ask_for_a_key_in_train_mode_only(name):
    (model, images), variables = small_model(name), small_shapes(name)

    def apply(variables, images, train):
        return model.apply(variables, images, train=train, mutable=["batch_stats"])

    jax.eval_shape(lambda v, x: apply(v, x, False), variables, images)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda v, x: apply(v, x, True), variables, images)


@pytest.mark.parametrize("name", [*WITH_DROPOUT, "resnet18", "shufflenet_v2_x1_0", "vit_b_16"])
def test_rates_of_dropout_and_stochastic_depth(name):
    """torchvision's rates, in order, and whether whole branches are dropped."""
    model = models.create(dataclasses.replace(small(name), width=0))
    images = jax.ShapeDtypeStruct((2, *[small(name).image_size] * 2, 3), jnp.float32)
    measured = []

    def tap(next_fun, args, kwargs, context):
        module = context.module
        if isinstance(module, nn.Dropout) and context.method_name == "__call__":
            measured.append((module.rate, bool(module.broadcast_dims), module.deterministic))
        return next_fun(*args, **kwargs)

    def train(variables, images):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)

    with nn.intercept_methods(tap):
        jax.eval_shape(train, shapes(model, images), images)
        measured = [(r, whole) for r, whole, deterministic in measured if not deterministic]
    # Of an EfficientNet's 16 blocks those with a shortcut drop; Swin's 12 drop both branches.
    drops = [0.2 * i / 16 for i in (2, 4, 6, 7, 9, 10, 12, 13, 14)]
    swin = [0.2 * i / 11 for i in range(12) for _ in range(2)]
    expected = {
        "alexnet": [(0.5, False)] * 2,
        "vgg11": [(0.5, False)] * 2,
        "vgg11_bn": [(0.5, False)] * 2,
        "mobilenet_v2": [(0.2, False)],
        "efficientnet_b0": [*((r, True) for r in drops), (0.2, False)],
        "efficientnet_lite0": [*((r, True) for r in drops), (0.2, False)],
        "swin_v2_t": [(r, True) for r in swin],
    }.get(name, [])
    assert [w for _, w in measured] == [w for _, w in expected]
    assert [r for r, _ in measured] == pytest.approx([r for r, _ in expected])


# As published with torchvision's weights of the 1000 classes of ImageNet.
PARAMETERS = {
    "alexnet": 61_100_840,
    "efficientnet_b0": 5_288_548,
    "efficientnet_lite0": 4_652_008,
    "mobilenet_v2": 3_504_872,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "shufflenet_v2_x0_5": 1_366_792,
    "shufflenet_v2_x1_0": 2_278_604,
    "swin_v2_t": 28_351_570,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vit_b_16": 86_567_656,
}
# The small stem is a 3x3 convolution where the paper's is 7x7.
PARAMETERS |= {
    f"{name}_modified": count - 64 * 3 * (7 * 7 - 3 * 3)
    for name, count in PARAMETERS.items()
    if name in ("resnet34", "resnet50")
}


@pytest.mark.parametrize("name", [costly(n, when=n in ALIKE) for n in PARAMETERS])
def test_parameter_counts_are_the_published_ones(name):
    made = shapes(
        models.create(ModelSpec(name, 1000, 224, 3)),
        jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32),
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(made["params"])) == PARAMETERS[name]


def test_a_training_step_depends_on_the_dropout_key_alone():
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.Dropout(0.5, deterministic=not train)(x.reshape(len(x), -1))
            return nn.Dense(5)(x)

    model, optimiser = Dropped(), optax.sgd(0.1)
    state = state_lib.init_state(model, optimiser, jax.random.key(0), (4, 4, 3))
    images = jax.random.normal(jax.random.key(1), (4, 4, 4, 3))

    @jax.jit
    def loss_with(key):
        trainer = state_lib.Trainer(model, optimiser)
        return state_lib.update(trainer, state, images, lambda z: (z**2).sum(), key)[1]

    first, again, other = (float(loss_with(jax.random.key(k))) for k in (2, 2, 3))
    assert first == again != other


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean():
    class Branch(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return layers.stochastic_depth(x, 0.25, train)

    x = jnp.ones((4000, 2, 2, 1))
    y = Branch().apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    per_image = np.asarray(y).reshape(4000, 4)
    assert (per_image == per_image[:, :1]).all()
    assert set(np.unique(per_image)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(per_image.mean() - 1) < 0.05
    np.testing.assert_array_equal(Branch().apply({}, x, False), x)


@pytest.mark.parametrize(("length", "size"), [(1, 7), (4, 7), (7, 7), (10, 7), (13, 6), (14, 7)])
def test_adaptive_average_pool_takes_torchs_bins(length, size):
    x = np.random.default_rng(0).standard_normal((2, length, length, 3)).astype(np.float32)

    def bounds(i):
        return slice(i * length // size, -(-(i + 1) * length // size))

    expected = np.stack(
        [
            np.stack([x[:, bounds(i), bounds(j)].mean((1, 2)) for j in range(size)], axis=1)
            for i in range(size)
        ],
        axis=1,
    )
    np.testing.assert_allclose(layers.adaptive_average_pool(x, size), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "image_size", "width", "says"),
    [
        ("resnet50", 28, 0, "resnet50_modified"),
        ("resnet101_modified", 7, 0, "at least 8 px"),
        ("vgg11", 31, 0, "at least 32 px"),
        ("alexnet", 62, 0, "at least 63 px"),
        ("mobilenet_v2", 28, 0, "mobilenet_v2_modified"),
        ("vit_b_16", 40, 0, "multiple of 16"),
        ("vit_b_16", 32, 100, "multiple of 64"),
        ("swin_v2_t", 32, 48, "multiple of 32"),
        ("resnet19", 32, 0, "no model 'resnet19'"),
    ],
)
def test_impossible_models_are_refused(name, image_size, width, says):
    with pytest.raises(UserError, match=says):
        models.create(ModelSpec(name, 10, image_size, 3, width))


def test_the_smallest_alexnet_image_works():
    spec = ModelSpec("alexnet", 10, 63, 1, 8)
    model = models.create(spec)
    logits, _ = jax.eval_shape(
        lambda k: model.init_with_output(k, jnp.zeros((1, 63, 63, 1)), train=False),
        jax.random.key(0),
    )
    assert logits.shape == (1, 10)
