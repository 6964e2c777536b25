"""Settings of the methods that learn sets: as published, by data set and images per class."""

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pytest

from delt_jax.config import derive, from_config, methods, origins
from delt_jax.config.methods import DataKind
from delt_jax.data import describe_source, open_source
from delt_jax.errors import UserError
from delt_jax.learned import methods as learned_methods
from delt_jax.learned import setups
from delt_jax.recipe.learn import LearnRecipe
from delt_jax.stages import checks, learn
from delt_jax.training.protocol import EvalSetting
from delt_jax.training.protocols import resolve

CONFIGS = Path(__file__).parents[2] / "configs"
METHODS = learned_methods.names()

# Read by hand from papers and released code: steps, real batch, rate of the images, what a network
# does between two steps, for how many it lives, space, start, protocol.
TABLE = """
dm    | cifar10       | ipc10  | 20000  | 256  | 1      | 0  | 1   | standardise | random | dsa
dm    | cifar10       | ipc100 | 20000  | 256  | 10     | 0  | 1   | standardise | random | dsa
dc    | mnist         | ipc1   | 1000   | 256  | 0.1    | 1  | 1   | standardise | noise  | dsa
dsa   | fashion_mnist | ipc10  | 10000  | 256  | 0.1    | 50 | 10  | standardise | random | dsa
dsa   | cifar10       | ipc50  | 50000  | 256  | 0.1    | 10 | 50  | standardise | random | dsa
idc   | cifar10       | ipc10  | 200000 | 64   | 0.005  | 32 | 100 | standardise | random | idc
idc   | mnist         | ipc1   | 200000 | 64   | 1e-05  | 8  | 100 | standardise | random | idc
frepo | cifar10       | ipc1   | 500000 | 1024 | 0.0003 | 1  | 102 | zca         | random | frepo
frepo | fashion_mnist | ipc10  | 500000 | 1024 | 0.0003 | 1  | 102 | standardise | random | frepo
mtt   | cifar10       | ipc10  | 5000   | 1    | 100    | 0  | 1   | kornia      | random | mtt
ftd   | cifar100      | ipc1   | 5000   | 1    | 1000   | 0  | 1   | kornia      | random | mtt
datm  | cifar10       | ipc50  | 10000  | 1    | 1000   | 0  | 1   | kornia      | random | mtt
att   | cifar10       | ipc1   | 6000   | 1    | 100    | 0  | 1   | kornia      | random | mtt
att   | cifar10       | ipc50  | 1000000 | 1   | 100    | 0  | 1   | standardise | random | mtt
att   | cifar100      | ipc10  | 200000 | 1    | 1000   | 0  | 1   | standardise | random | mtt
att   | cifar100      | ipc50  | 100000 | 1    | 1000   | 0  | 1   | kornia      | random | mtt
tesla | cifar10       | ipc1   | 10000  | 1    | 500    | 0  | 1   | kornia      | random | mtt
rcig  | cifar10       | ipc1   | 15000  | 1024 | 0.003  | 1  | 13  | zca         | random | rcig
rcig  | tiny_imagenet | ipc1   | 5000   | 1024 | 0.003  | 1  | 13  | zca         | random | rcig
rcig  | cifar100      | ipc50  | 10000  | 1024 | 0.003  | 1  | 13  | zca         | random | rcig
ratbptt | cifar10     | ipc10  | 12000  | 5000 | 0.001  | 0  | 1   | unit_zca    | noise  | ratbptt
ratbptt | cifar100    | ipc1   | 12000  | 5000 | 0.0003 | 0  | 1   | unit_zca    | noise  | ratbptt
ratbptt | cifar100    | ipc10  | 12000  | 5000 | 0.001  | 0  | 1   | unit_zca    | noise  | ratbptt
ratbptt | tiny_imagenet | ipc10 | 12000 | 1000 | 0.0003 | 0  | 1   | unit        | noise  | ratbptt
"""
SIDES = {"tiny_imagenet": 64, "imagenette": 128, "cifar100": 32, "clip_art": 64}
# Numbers that one method alone has, among those of its row.
OPTIONS = [
    ("mtt,ipc10", "student_steps=30 expert_epochs=2 last_start=20 rate_rate=1e-05"),
    ("ftd,ipc10", "student_steps=30 radius=0.01 surrogate=0.3 average_decay=0.9995"),
    ("ftd,ipc50", "student_steps=30 radius=0.01 surrogate=1 average_decay=0.999"),
    ("tesla,ipc1", "student_steps=50 expert_epochs=2 last_start=5 rate_rate=1e-07"),
    ("datm,ipc1", "student_steps=80 last_start=4 largest_loss=1.1"),
    (
        "datm,ipc10",
        "student_steps=80 last_start=10 grown_last_start=20 grown_at=1000 largest_loss=1",
    ),
    ("att,ipc10", "student_steps=30 last_start=20 rate_rate=0.0001 average_decay=0.9999"),
    ("att,ipc50", "student_steps=50 last_start=40 rate_rate=1e-05 average_decay=0.999"),
    ("ratbptt,ipc10", "window=60 unroll=200"),
    ("rcig,ipc10", "ridge=0.0005"),
]
ROWS = [tuple(c.strip() for c in line.split("|")) for line in TABLE.splitlines() if line]


def recipe_of(name, variants):
    return from_config(runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](variants))


def complete_of(name, variants):
    recipe = recipe_of(name, variants)
    return derive.complete(recipe, describe_source(recipe.data))[0]


def test_every_method_has_a_recipe_and_every_recipe_a_method():
    recipes = {path.stem: runpy.run_path(str(path)) for path in CONFIGS.glob("methods/[!_]*.py")}
    data = DataKind("", 32, "conv3", 3, 10)
    asked = {name: made["settings"](data).get("learn.method") for name, made in recipes.items()}
    assert {name: method.value for name, method in asked.items() if method} == {
        name: name for name in METHODS
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row[:3]))
def test_settings_are_those_of_the_table(row):
    method, name, ipc, *words = row
    recipe = complete_of(name, f"{ipc},{method}")
    one = recipe.learn
    numbers = (one.steps, one.real_batch, one.image_rate, one.network_steps, one.lifetime)
    assert numbers == pytest.approx([float(word) for word in words[:5]])
    assert [one.preprocessing, one.start, recipe.evaluate.protocol] == words[5:]
    assert recipe.ipc == int(ipc.removeprefix("ipc"))
    assert not recipe.needs_teacher
    # Plans ask no images.
    assert learn.work(recipe, describe_source(recipe.data))[1] > recipe.learn.steps


@pytest.mark.parametrize("method", METHODS)
def test_students_of_a_learned_set_see_no_crops_of_the_recipe(method):
    """MNIST's students of recovered sets see parts of the images."""
    recipe = complete_of("mnist", f"{method},ipc10")
    setting = EvalSetting(recipe.evaluate.students[0], 10, 10, 28, 1)
    assert resolve(recipe, setting).views.min_scale == 1


def test_dcs_students_train_on_images_as_they_are():
    recipe = complete_of("cifar10", "dc,ipc10")
    protocol = resolve(recipe, EvalSetting(recipe.evaluate.students[0], 10, 10, 32, 3))
    assert (protocol.epochs, protocol.views.flip, protocol.views.dsa) == (301, False, "")
    assert (protocol.views.min_scale, protocol.views.mix) == (1, "none")


@pytest.mark.parametrize(
    ("name", "ipc", "mirrored"),
    [
        *(("cifar10", 50, True), ("cifar100", 1, True), ("cifar100", 10, False)),
        *(("tiny_imagenet", 1, True), ("tiny_imagenet", 10, False), ("imagenette", 1, True)),
        ("fashion_mnist", 1, False),
    ],
)
def test_frepo_mirrors_all_but_large_and_grey_sets(name, ipc, mirrored):
    assert complete_of(name, f"frepo,ipc{ipc}").learn.mirrored == mirrored


def test_a_rate_of_idc_grows_with_images_and_area():
    def rate(name, ipc):
        return complete_of(name, f"idc,ipc{ipc}").learn.image_rate

    assert rate("cifar10", 50) == pytest.approx(5 * rate("cifar10", 10))
    # The released code has a side of 28 px for MNIST alone.
    assert rate("fashion_mnist", 10) == pytest.approx(rate("mnist", 10) * (28 / 32) ** 2)


@pytest.mark.parametrize(("variants", "words"), OPTIONS)
def test_options_are_published_and_ones_own_count(variants, words):
    config = runpy.run_path(str(CONFIGS / "cifar10.py"))["get_config"](variants)
    first = words.split()[0].partition("=")[0]
    recipe = from_config(config)
    assert set(words.split()) <= set(complete_of("cifar10", variants).learn.options)
    own = dataclasses.replace(recipe.learn, options=(f"{first}=3",))
    changed = dataclasses.replace(recipe, learn=own)
    one = derive.complete(changed, describe_source(recipe.data))[0].learn.options
    assert f"{first}=3" in one
    assert set(words.split()[1:]) <= set(one)


def test_every_recipe_with_images_takes_every_method():
    for path in CONFIGS.glob("[!_]*.py"):
        plain = recipe_of(path.stem, "")
        for method in METHODS if plain.data.has_training_images else ():
            recipe = recipe_of(path.stem, method)
            assert (recipe.synthesis, recipe.learn.method) == ("learn", method)
            assert (recipe.data, recipe.recover, recipe.ipc) == (
                plain.data,
                plain.recover,
                plain.ipc,
            )
            data = DataKind("", 32, "", 3, 10)
            found = methods.of_learning(method, data)
            late = {f"learn.{n}" for n, v in vars(recipe.learn).items() if v is None}
            assert late - {"learn.options"} <= found.keys()  # nothing else is left open


def test_the_command_line_comes_last_and_its_ipc_counts():
    """What a method publishes for an IPC is looked up for the one that the run has in the end."""
    config = runpy.run_path(str(CONFIGS / "fashion_mnist.py"))["get_config"]("dsa")
    config.ipc = 50
    config.learn.image_rate = 0.5
    recipe = from_config(config)
    one, _ = derive.complete(recipe, describe_source(recipe.data))
    assert (one.learn.lifetime, one.learn.network_steps, one.learn.image_rate) == (50, 10, 0.5)
    command = "run --config=fashion_mnist:dsa --config.ipc=50 --config.learn.image_rate=0.5"
    whose = origins.of(command, one)
    assert whose["learn.lifetime"].startswith("dsa, published in VICO-UoE/DatasetCondensation")
    assert whose["learn.image_rate"] == "yours"
    assert not {n for n in whose if n.startswith(("recover", "select", "teacher"))}
    other, _ = derive.complete(complete_of("fashion_mnist", "dsa,ipc7"), describe_source(one.data))
    whose = origins.of("run --config=fashion_mnist:dsa,ipc7", other)
    assert "ours (loops as with 10 images per class" in whose["learn.lifetime"]


def test_options_of_walks_have_the_origin_of_their_rows():
    def said(name, variants):
        return origins.of(f"run --config={name}:{variants}", complete_of(name, variants))

    small = "ours (minutes of two CPU cores)"
    for method in ("mtt", "ftd", "tesla", "datm", "att"):
        assert said("digits", f"{method},ipc1")["learn.options"] == f"{method}, {small}"
    table = "published in AngusDujw/FTD-distillation, README"
    assert said("cifar10", "ftd,ipc1")["learn.options"] == f"ftd, {table}"
    taken = "ours (as MTT: AngusDujw/FTD-distillation, README)"
    assert said("cifar10", "tesla,ipc10")["learn.options"] == f"tesla, {taken}"
    assert "README" in said("cifar10", "att,ipc50")["learn.steps"]
    # The average is over a tenth of few steps.
    for method in ("ftd", "att"):
        one = complete_of("digits", f"{method},ipc1").learn
        assert one.steps == 300
        assert "average_decay=0.9667" in one.options


def test_a_small_class_limits_the_real_batch():
    recipe = dataclasses.replace(
        recipe_of("digits", "dm,ipc1"), learn=LearnRecipe("dm")
    )  # not small
    one, notes = derive.complete(recipe, open_source(recipe.data))
    assert f"learn.real_batch {one.learn.real_batch}: the smallest class has" in "".join(notes)
    assert "flip" not in learn.setup_of(one, open_source(recipe.data)).augment
    whole, _ = derive.complete(recipe_of("digits", "frepo"), open_source(recipe.data))
    assert whole.learn.real_batch == 256


def test_held_out_images_limit_the_real_batch_and_the_starts():
    """Of 122 images of the smallest class twelve are validated on."""
    config = recipe_of("digits", "dm,ipc1")
    learned = LearnRecipe("dm", start="random", validate_every=10)
    recipe, _ = derive.complete(
        dataclasses.replace(config, learn=learned), open_source(config.data)
    )
    source = open_source(recipe.data)
    smallest = np.bincount(setups.classes_learned_from(recipe, source)).min()
    assert recipe.learn.real_batch == smallest < np.bincount(source.train.labels).min()
    held_out = setups.learned_from(recipe, source)
    np.testing.assert_array_equal(
        np.bincount(held_out.train.labels),
        np.bincount(setups.classes_learned_from(recipe, source)),
    )
    select = dataclasses.replace(recipe.select, small_classes="stop")
    few = dataclasses.replace(recipe, ipc=int(smallest) + 1, select=select)
    says = f"start from {smallest + 1} real ones .* has only {smallest} that are not held out"
    with pytest.raises(UserError, match=says):
        checks.check(few, source)
    parted = dataclasses.replace(
        recipe, ipc=30, select=select, learn=dataclasses.replace(recipe.learn, factor=2)
    )
    with pytest.raises(UserError, match=r"ipc is 30, .* in each of which are 4, start from 120"):
        checks.check(parted, source)


def test_a_strategy_of_which_nothing_is_left_is_none():
    learned = LearnRecipe("dm", augment="one-flip")
    recipe = dataclasses.replace(recipe_of("digits", "dm,ipc1"), learn=learned)
    source = open_source(recipe.data)
    assert learn.setup_of(derive.complete(recipe, source)[0], source).augment == ""


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"learn.keep": "best"}, r"learn\.validate_every is 0; set it"),
        ({"learn.method": "kip"}, r"learn\.method is 'kip', but sets are learned by att, .* tesla"),
        ({"learn.method": "frepro"}, r"did you mean frepo\?"),
        ({"learn.options": ("window=3",)}, r"dm has no number 'window'"),
        ({"learn.steps": 0}, r"learn\.steps must be at least 1"),
        ({"learn.augment": "one-colour"}, r"learn\.augment is 'one-colour'"),
        ({"learn.factor": 2, "learn.model": "dc_conv9"}, "dc_conv9"),
        ({"learn.keep": "best", "learn.validate_every": 5000}, "more than learn.steps"),
        ({"learn.method": "idc", "learn.network_steps": 100}, r"lower learn\.network_steps"),
        (
            {"learn.method": "mtt", "learn.options": ("expert_batch=2000",)},
            "expert_batch=2000 is more than the 1,258 training images, so experts would never",
        ),
        (
            {"learn.method": "idc", "learn.preprocessing": "unit", "learn.network_steps": 4},
            "idc keeps images between black and white, which learn.preprocessing 'unit'",
        ),
        *(
            ({"learn.method": name, "learn.factor": 2}, r"learn\.factor=2 must be 1")
            for name in ("frepo", "rcig", "ratbptt", "mtt", "datm")
        ),
        *(
            ({"learn.method": name, "learn.label_rate": 0.1}, r"learn\.label_rate=0.1 must be 0")
            for name in ("dm", "dc", "idc", "mtt", "att")
        ),
        ({"data.name": "classes", "data.classes": "imagenet10"}, "learns from training images"),
    ],
)
def test_wrong_settings_are_a_sentence(changes, sentence):
    config = runpy.run_path(str(CONFIGS / "digits.py"))["get_config"]("dm,ipc1")
    with config.unlocked():
        config.update_from_flattened_dict(changes)

    def check():
        recipe = from_config(config)
        source = open_source(recipe.data)
        learn.check(derive.complete(recipe, source)[0], source)

    with pytest.raises(UserError, match=sentence):
        check()


@pytest.mark.parametrize(
    ("method", "option", "sentence"),
    [
        ("mtt", "experts=0", "experts=0 must be a whole number of at least 1"),
        ("mtt", "student_steps=2.5", "student_steps=2.5 must be a whole number"),
        ("mtt", "last_start=1000", r"from the latest start, 999, ends after .* epochs=20"),
        ("datm", "grown_last_start=1", "grown_last_start=1 must grow"),
        ("att", "first_start=10", "first_start=10, last_start=10"),
        ("ftd", "radius=-1", "radius=-1 must be at least 0"),
        ("ftd", "surrogate=-50", "surrogate=-50 must be at least 0"),
        ("mtt", "float16=0.5", "float16=0.5 must be 0 or 1"),
        ("att", "average_decay=1", "average_decay=1 must be at least 0 and below 1"),
        ("ratbptt", "window=201", "window=201 after fewest_free=0 steps is more than unroll=200"),
        ("ratbptt", "window=0", "window=0 must be a whole number of at least 1"),
        ("rcig", "solver_steps=0", "solver_steps=0 must be a whole number"),
        ("rcig", "tolerance=-1", "tolerance=-1 must be at least 0"),
        ("rcig", "tolerance=2", "tolerance=2 must be at least 0 and below 1"),
        ("rcig", "ridge=-0.1", "ridge=-0.1 must be at least 0"),
    ],
)
def test_numbers_that_a_method_cannot_work_with_are_a_sentence(method, option, sentence):
    one = complete_of("digits", f"{method},ipc1")
    changed = dataclasses.replace(one.learn, options=(*one.learn.options, option))
    with pytest.raises(UserError, match=f"{method} cannot learn so: .*{sentence}"):
        learn.setup_of(dataclasses.replace(one, learn=changed), describe_source(one.data))


# By data and images per class: numbers, and rate of the labels, which is the images' or none.
RATBPTT = [
    ("cifar10", 10, "window=60 unroll=200 fewest_free=0 student_batch=0", 0),
    ("cifar100", 10, "window=100 unroll=300 fewest_free=0 student_batch=100", 1e-3),
    ("tiny_imagenet", 10, "window=100 unroll=300 fewest_free=0 student_batch=50", 3e-4),
    ("cifar100", 1, "window=90 unroll=130 fewest_free=40 student_batch=0", 3e-4),
]


@pytest.mark.parametrize(("name", "ipc", "numbers", "label_rate"), RATBPTT)
def test_rows_of_ratbptt_are_those_of_its_readme(name, ipc, numbers, label_rate):
    recipe = complete_of(name, f"ratbptt,ipc{ipc}")
    one = recipe.learn
    assert one.options == tuple(numbers.split())
    assert one.label_rate == label_rate
    assert recipe.evaluate.regimes == (("learned",) if label_rate else ("hard",))
    whose = origins.of(f"run --config={name}:ratbptt,ipc{ipc}", recipe)
    for setting in ("options", "image_rate", "label_rate", "real_batch"):
        assert "published in fengyzpku" in whose[f"learn.{setting}"]
    # The README's 60,000 passes over the data are not what a run takes.
    assert "60,000 passes" in whose["learn.steps"]
    assert "ours" in whose["learn.steps"]
    other = complete_of(name, f"ratbptt,ipc{ipc + 1}")
    whose = origins.of(f"run --config={name}:ratbptt,ipc{ipc + 1}", other)
    assert "ours (as for CIFAR-10)" in whose["learn.image_rate"]


@pytest.mark.parametrize("ipc", ["ipc1", "ipc10", "ipc50"])
def test_every_recipe_is_within_the_limits_of_its_method(ipc):
    for name in ("digits", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet"):
        for method in METHODS:
            for small in ("", "small,") if name == "fashion_mnist" else ("",):
                one = complete_of(name, f"{small}{method},{ipc}")
                setup = learn.setup_of(one, describe_source(one.data))
                assert setup.ipc == int(ipc.removeprefix("ipc"))


@pytest.mark.parametrize(
    ("name", "ipc", "mirrored"),
    [
        *[("cifar10", 50, True), ("cifar100", 10, True), ("tiny_imagenet", 1, True)],
        *[("cifar100", 50, False), ("tiny_imagenet", 10, False), ("fashion_mnist", 10, False)],
    ],
)
def test_rcig_mirrors_all_but_large_and_grey_sets(name, ipc, mirrored):
    assert complete_of(name, f"rcig,ipc{ipc}").learn.mirrored == mirrored


def test_rcig_says_what_is_published():
    def sources(name, ipc):
        found = methods.of_learning("rcig", DataKind(name, SIDES[name], "", 3, ipc))
        return {
            n: found[f"learn.{n}"].is_ours for n in ("steps", "mirrored", "real_batch", "lifetime")
        }

    released = {"steps": False, "mirrored": False, "real_batch": False, "lifetime": True}
    assert sources("tiny_imagenet", 1) == released
    assert sources("imagenette", 1) == released | {"steps": True}
    assert sources("cifar100", 50) == released | {"steps": True}
    assert sources("clip_art", 1) == dict.fromkeys(released, True) | {"real_batch": False}


@pytest.mark.parametrize("method", ["frepo", "rcig"])
@pytest.mark.parametrize("protocol", ["dsa", "delt"])
def test_label_values_keep_their_loss_under_any_protocol(method, protocol):
    one = complete_of("fashion_mnist", f"{method},ipc1,protocol={protocol}")
    one = dataclasses.replace(one, relabel=dataclasses.replace(one.relabel, rand_augment=""))
    source = describe_source(one.data)
    assert (one.evaluate.protocol, one.evaluate.loss) == (protocol, "squared")
    assert one.evaluate.regimes == ("learned",)
    checks.check(one, source, ["learn", "evaluate"])
    # Refused before anything is learned where a loss takes probabilities.
    other = dataclasses.replace(one, evaluate=dataclasses.replace(one.evaluate, loss="kl"))
    with pytest.raises(UserError, match="values for a squared error"):
        checks.check(other, source, ["learn", "evaluate"])
    hard = dataclasses.replace(other.evaluate, regimes=("hard",))
    checks.check(dataclasses.replace(other, evaluate=hard), source, ["learn", "evaluate"])


def test_losses_of_teachers_labels_are_the_protocols():
    assert recipe_of("cifar10", "edc").evaluate.loss == "mse"
    assert recipe_of("cifar10", "edc,protocol=common").evaluate.loss is None
