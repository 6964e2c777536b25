"""Protocols: what the field published, what a recipe changes, and how both are said."""

import dataclasses

import pytest

from delt_jax.config import default_config, from_config
from delt_jax.recipe import choices
from delt_jax.training import protocols, state
from delt_jax.training.protocols import EvalSetting, resolve


def recipe(**changes):
    config = default_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return from_config(config)


def of(protocol, student="resnet18", classes=10, ipc=10, size=32, **changes):
    return resolve(
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


def test_flips_among_dsas_operations_go_with_them():
    """DC's students see every image as it is."""
    for name in ("dsa", "idc", "mtt", "ratbptt", "rcig"):
        assert of(name).views.flip
        assert not of(name, relabel__dsa="").views.flip
    assert of("delt", relabel__dsa="").views.flip
    assert of("delt", relabel__dsa="one-crop").views.flip


def test_a_rate_that_is_tried_is_named():
    tried = resolve(recipe(), EvalSetting("conv3", 10, 10, 28), 0.01)
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


@pytest.mark.parametrize(
    ("classes", "ipc", "batch"),
    [
        (10, 4, 40),
        (10, 5, 50),
        (10, 6, 50),
        (10, 29, 50),
        (99, 1, 10),
        (99, 30, 100),
        (100, 29, 100),
        (101, 30, 200),
        (199, 2, 40),
        (200, 1, 100),
        (201, 1, 20),
    ],
)
def test_batch_sizes_change_where_they_should(classes, ipc, batch):
    assert of("delt", "resnet18", classes, ipc, 64).batch_size == batch


@pytest.mark.parametrize("other", [("conv4", 100, 32), ("conv3", 10, 32), ("conv3", 100, 31)])
def test_what_is_special_is_conv3_of_cifar100_alone(other):
    student, classes, size = other
    protocol = of("delt", student, classes, 10, size)
    assert protocol.learning_rate == 1e-3
    assert protocol.batch_size != 25


@pytest.mark.parametrize(("size", "factor"), [(127, 1), (128, 2), (129, 2)])
def test_rded_shuffles_from_128_pixels_on(size, factor):
    rded = of("rded", size=size)
    views = protocols.ViewSpec("", factor, 1 / factor, True, "cutmix", 1.0)
    assert rded == dataclasses.replace(of("delt", size=size), name="rded", views=views)


def test_every_value_of_the_published_protocols():
    common = {
        "temperature": 20.0,
        "loss": "kl",
        "hard_weight": 0.0,
        "weight_decay": 0.01,
        "epochs": 300,
        "accumulate": 1,
        "ema": 0.0,
        "eval_every": 10,
        "changed": (),
    }
    delt_views = {
        "rand_augment": "rand-m6-n2-mstd1.0",
        "shuffle": 1,
        "min_scale": 0.25,
        "flip": True,
        "mix": "cutmix",
        "mix_alpha": 1.0,
    }
    own = {"learning_rate": 1e-3, "schedule": "half_cosine", "batch_size": 50}
    assert of("delt").as_dict() == {"name": "delt", "views": delt_views, **common, **own}
    sre2l = of("sre2l", classes=200, ipc=50, size=64).as_dict()
    assert sre2l == {
        "name": "sre2l",
        "views": delt_views | {"rand_augment": "", "min_scale": 0.08},
        **common,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "batch_size": 1024,
    }


def test_a_batch_is_at_most_the_set():
    assert of("sre2l", classes=3, ipc=7).batch_size == 21
    assert of("delt", classes=10, ipc=10, evaluate__batch_size=1000).batch_size == 100
    assert of("delt", classes=10, ipc=10, evaluate__batch_size=99).batch_size == 99


def test_the_whole_line_of_a_protocol():
    delt = of("delt")
    assert delt.text() == (
        "delt: 300 epochs, batch 50, AdamW 0.001 to half its peak, decay 0.01, "
        "rand-m6-n2-mstd1.0, crops 0.25-1, flips, cutmix 1, KL of soft labels at T 20"
    )
    views = protocols.ViewSpec("", 3, 0.5, False, "none", 1.0)
    other = dataclasses.replace(
        delt,
        name="own",
        views=views,
        accumulate=2,
        schedule="cosine",
        hard_weight=0.25,
        ema=0.99,
        loss="mse",
        changed=("ema 0.99", "loss mse"),
    )
    assert other.text() == (
        "own with ema 0.99, loss mse: 300 epochs, batch 50 x 2, AdamW 0.001 to zero, decay 0.01, "
        "3 x 3 patches shuffled, crops 0.5-1, no flips, no mixing, MSE of soft labels at T 20, "
        "0.25 x cross-entropy, weights averaged at 0.99"
    )
    two = dataclasses.replace(delt, views=dataclasses.replace(views, shuffle=2), accumulate=3)
    assert ", batch 50 x 3, " in two.text()
    assert ", 2 x 2 patches shuffled, " in two.text()


def test_settings_of_both_groups_replace_a_protocols_values():
    changed = of(
        "delt",
        relabel__temperature=4.0,
        relabel__mix="mixup",
        evaluate__weight_decay=0.5,
        evaluate__hard_weight=1.0,
        evaluate__ema=0.5,
    )
    assert (changed.temperature, changed.views.mix) == (4.0, "mixup")
    assert (changed.weight_decay, changed.hard_weight, changed.ema) == (0.5, 1.0, 0.5)
    assert set(changed.changed) == {
        "temperature 4.0",
        "mix mixup",
        "weight decay 0.5",
        "hard weight 1.0",
        "ema 0.5",
    }


def test_versions_are_one_until_results_change():
    assert {name: protocols.version(name) for name in protocols.NAMES} == dict.fromkeys(
        (
            *("delt", "sre2l", "rded", "delt_jax", "common", "dsa", "idc", "frepo"),
            *("mtt", "ratbptt"),
        ),
        1,
    ) | {"rcig": 2}


# Stored images, copies, channels; steps and batch by eval.py, with use_flip where there are copies.
@pytest.mark.parametrize(
    ("classes", "ipc", "copies", "channels", "steps", "batch"),
    [
        (10, 1, 1, 1, 1000, 10),
        (10, 1, 2, 3, 1000, 20),
        (10, 2, 1, 3, 2000, 20),
        (10, 10, 2, 3, 2000, 200),
        (100, 10, 2, 3, 2000, 256),
        (10, 50, 1, 1, 2000, 256),
    ],
)
def test_rcig_counts_stored_images(classes, ipc, copies, channels, steps, batch):
    setting = EvalSetting("conv3_wide", classes, ipc * copies, 32, channels, copies)
    protocol = protocols.resolve(recipe(evaluate__protocol="rcig"), setting)
    assert protocol.batch_size == batch
    of_an_epoch = -(-classes * ipc * copies // batch)
    assert steps <= protocol.epochs * of_an_epoch < steps + of_an_epoch
    in_colour = "flip_color_" if channels == 3 else ""
    assert protocol.views.dsa == f"rcig-{in_colour}crop_rotate_translate_cutout"
    assert (protocol.learning_rate, protocol.loss) == (1e-4, "squared")


@pytest.mark.parametrize(("asked", "kept"), [(0, 0), (1, 1), (9, 9), (10, 0), (11, 0)])
def test_stored_labels_keep_all_classes_or_fewer(asked, kept):
    setting = EvalSetting("conv3", 10, 4, 28)
    plan = protocols.label_plan(recipe(relabel__top_k=asked, seed=3), setting)
    assert plan.top_k == kept
    assert (plan.seed, plan.num_images, plan.num_classes) == (3, 40, 10)
    assert plan.epochs == plan.trained_epochs == of("delt_jax", "conv3", 10, 4).epochs


def test_stored_epochs_may_be_fewer_than_those_trained():
    setting = EvalSetting("conv3", 10, 4, 28)
    plan = protocols.label_plan(recipe(relabel__stored_epochs=7, evaluate__epochs=90), setting)
    assert (plan.epochs, plan.trained_epochs) == (7, 90)


def test_protocols_are_called_by_their_names():
    assert [of(name).name for name in protocols.NAMES] == list(protocols.NAMES)
    assert of("delt_jax").text().startswith("delt_jax: 300 epochs, ")


def test_the_common_protocol_has_the_rate_of_its_student():
    small, large = (of("common", size=size) for size in (64, 224))
    assert small.as_dict() == {
        **of("rded", size=64).as_dict(),
        "name": "common",
        "epochs": 400,
        "schedule": "cosine",
        "weight_decay": 0.0,
    }
    assert (large.views.shuffle, large.views.min_scale) == (1, 0.5)
    for student in ("conv3", "resnet50", "efficientnet_b0"):
        other = of("common", student, ipc=50)
        assert (other.schedule, other.learning_rate) == ("half_cosine", 1e-3)
        assert (other.batch_size, other.epochs) == (50, 400)


def test_every_value_of_the_protocols_of_hard_labels():
    dsa = {
        "name": "dsa",
        "views": {
            "rand_augment": "",
            "shuffle": 1,
            "min_scale": 1.0,
            "flip": True,
            "mix": "none",
            "mix_alpha": 1.0,
            "dsa": "one-color_crop_cutout_flip_scale_rotate",
        },
        "temperature": 1.0,
        "loss": "kl",
        "hard_weight": 0.0,
        "learning_rate": 0.01,
        "weight_decay": 5e-4,
        "schedule": "step",
        "epochs": 1001,
        "batch_size": 256,
        "accumulate": 1,
        "ema": 0.0,
        "eval_every": 1001,
        "changed": (),
        "optimiser": "sgd",
    }
    assert of("dsa", "dc_conv3", ipc=50).as_dict() == dsa
    views = {"mix": "cutmix", "dsa": "idc-color_crop_flip_scale_rotate", "mix_probability": 0.5}
    own = {"schedule": "two_steps", "epochs": 1000, "batch_size": 64, "eval_every": 250}
    idc = dsa | {"name": "idc", "views": dsa["views"] | views} | own
    assert of("idc", "dc_conv3", ipc=50).as_dict() == idc


def test_the_lines_of_the_protocols_of_hard_labels():
    assert of("dsa", ipc=50, data__flip=False).text() == (
        "dsa: 1001 epochs, batch 256, SGD 0.01 and a tenth of it from the middle on, decay 0.0005, "
        "DSA one-color_crop_cutout_scale_rotate, no mixing, KL of soft labels at T 1"
    )
    assert of("idc", relabel__min_scale=0.5).text() == (
        "idc with min scale 0.5: 1000 epochs, batch 64, SGD 0.01 and a fifth of it from 2/3 and "
        "again from 5/6 on, decay 0.0005, crops 0.5-1, DSA idc-color_crop_flip_scale_rotate, "
        "cutmix 1 of 0.5 of the batches, KL of soft labels at T 1"
    )
    other = of("delt", evaluate__optimiser="sgd", relabel__dsa="all-crop")
    assert other.changed == ("optimiser sgd", "dsa all-crop")


@pytest.mark.parametrize(
    ("schedule", "epochs", "rates"),
    [
        ("step", 1001, {0: 1.0, 501: 1.0, 502: 0.1, 1000: 0.1}),  # as the released code of DC
        ("step", 4, {2: 1.0, 3: 0.1}),
        ("two_steps", 1000, {0: 1.0, 665: 1.0, 666: 0.2, 832: 0.2, 833: 0.04, 999: 0.04}),
    ],
)
def test_rates_that_fall_in_steps(schedule, epochs, rates):
    values = getattr(state, schedule)(3.0, epochs, 2)
    for epoch, share in rates.items():
        for batch in (0, 1):
            assert float(values(2 * epoch + batch)) == pytest.approx(3 * share)
