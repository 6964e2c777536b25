"""Protocols: what the field published, what a recipe changes, and how both are said."""

import dataclasses

import pytest

from delt_jax.config import default_config, from_config
from delt_jax.recipe import choices
from delt_jax.training import protocols
from delt_jax.training.protocols import EvalSetting, settle


def recipe(**changes):
    config = default_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return from_config(config)


def of(protocol, student="resnet18", classes=10, ipc=10, size=32, **changes):
    return settle(
        recipe(evaluate__protocol=protocol, **changes), EvalSetting(student, classes, ipc, size)
    )


def test_the_settings_know_every_protocol():
    assert choices("evaluate.protocol") == protocols.NAMES


@pytest.mark.parametrize(
    ("student", "rate"),
    [
        ("conv3", 1e-3),
        ("resnet101_modified", 1e-3),
        ("efficientnet_b0", 2e-3),
        ("mobilenet_v2_modified", 2.5e-3),
        ("vgg11_bn", 5e-4),
        ("alexnet", 1e-4),
        ("vit_b_16", 1e-4),
        ("swin_v2_t", 1e-4),
        ("shufflenet_v2_x0_5", 1e-3),
    ],
)
@pytest.mark.parametrize("protocol", ["delt", "rded"])
def test_learning_rates_of_the_table(protocol, student, rate):
    assert of(protocol, student).learning_rate == rate
    assert of("sre2l", student).learning_rate == 1e-3


@pytest.mark.parametrize(
    ("classes", "ipc", "batch"),
    [
        (10, 1, 10),
        (10, 10, 50),
        (10, 20, 50),
        (10, 30, 100),
        (10, 50, 100),
        (100, 1, 20),
        (100, 10, 100),
        (1000, 50, 200),
        (1000, 100, 200),
        (200, 10, 100),
        (200, 50, 100),
        (7, 3, 21),  # published for no such set, and capped at its size
        (3, 1, 3),
    ],
)
def test_batch_sizes_of_the_table(classes, ipc, batch):
    assert of("delt", "resnet18", classes, ipc, 64).batch_size == batch


def test_conv3_of_cifar100_is_special():
    special = of("delt", "conv3", 100, 10, 32)
    assert (special.batch_size, special.learning_rate) == (25, 2e-3)
    assert of("delt", "conv3", 100, 10, 64).batch_size == 100


def test_sre2l_takes_large_batches_and_ends_at_zero():
    protocol = of("sre2l", classes=1000, ipc=10, size=224)
    assert (protocol.batch_size, protocol.schedule, protocol.views.min_scale) == (
        1024,
        "cosine",
        0.08,
    )
    assert protocol.views.rand_augment == ""


@pytest.mark.parametrize(("size", "factor"), [(32, 1), (64, 1), (128, 2), (224, 2)])
def test_rded_shuffles_patches_of_large_images(size, factor):
    views = of("rded", size=size).views
    assert (views.shuffle, views.min_scale) == (factor, 1 / factor)


def test_delt_is_the_published_recipe():
    protocol = of("delt")
    assert protocol.views == protocols.ViewSpec("rand-m6-n2-mstd1.0", 1, 0.25, True, "cutmix", 1.0)
    assert (protocol.epochs, protocol.temperature, protocol.loss) == (300, 20.0, "kl")
    assert (protocol.weight_decay, protocol.schedule, protocol.eval_every) == (
        0.01,
        "half_cosine",
        10,
    )
    assert protocol.text().startswith("delt: 300 epochs, batch 50, AdamW 0.001 to half its peak")
    assert "KL of soft labels at T 20" in protocol.text()


def test_what_a_recipe_changes_stands_beside_the_name():
    changed = of("delt", evaluate__epochs=20, relabel__rand_augment="", relabel__min_scale=0.5)
    assert (changed.epochs, changed.views.rand_augment, changed.views.min_scale) == (20, "", 0.5)
    assert changed.changed == ("epochs 20", "rand augment none", "min scale 0.5")
    assert changed.text().startswith("delt with epochs 20, rand augment none, min scale 0.5: 20 ")
    assert of("delt", evaluate__epochs=300).changed == ()


def test_data_that_must_not_be_mirrored_are_not():
    assert not of("delt", data__flip=False).views.flip


def test_a_rate_that_is_tried_is_named():
    tried = settle(recipe(), EvalSetting("conv3", 10, 10, 28), 0.01)
    assert tried.learning_rate == 0.01
    assert tried.changed == ("learning rate 0.01",)


def test_every_change_can_be_said():
    for field in dataclasses.fields(protocols.Protocol):
        assert field.name in protocols.Protocol.__doc__


def test_ours_is_delts_but_for_crops_and_the_rate_of_convnets():
    for student, times in (("conv3", 4), ("conv6", 4), ("resnet18", 1), ("mobilenet_v2", 1)):
        ours, delt = of("delt_jax", student), of("delt", student)
        assert ours.learning_rate == times * delt.learning_rate
        assert ours.views == dataclasses.replace(delt.views, min_scale=0.5)
        one = {"name": "", "views": None, "learning_rate": 0.0}
        assert dataclasses.replace(ours, **one) == dataclasses.replace(delt, **one)
