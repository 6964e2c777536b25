"""Settings: the config's round trip, and a clear sentence for whatever is wrong with one."""

import copy
import dataclasses
import math
import re

import ml_collections
import pytest

from delt_jax.config import default_config, from_config
from delt_jax.errors import UserError
from delt_jax.recipe import (
    SETTINGS,
    DataRecipe,
    EvaluateRecipe,
    LearnRecipe,
    Recipe,
    RecoverRecipe,
    RelabelRecipe,
    ReportRecipe,
    SelectRecipe,
    TeacherRecipe,
    flatten,
)
from delt_jax.recipe.fields import OneOf, SomeOf

GROUPS = {
    "data": DataRecipe,
    "teacher": TeacherRecipe,
    "select": SelectRecipe,
    "recover": RecoverRecipe,
    "learn": LearnRecipe,
    "relabel": RelabelRecipe,
    "evaluate": EvaluateRecipe,
    "report": ReportRecipe,
}
DEFAULTS = flatten(Recipe())


def config_with(**changes):
    """The default config with settings, written group__name, set or added unchecked."""
    tree = copy.deepcopy(dataclasses.asdict(Recipe()))
    for name, value in changes.items():
        *groups, last = name.split("__")
        node = tree
        for group in groups:
            node = node[group]
        node[last] = value
    return ml_collections.ConfigDict(tree)


def changed(name, value):
    return config_with(**{name.replace(".", "__"): value})


def test_the_default_config_is_the_default_recipe():
    config = default_config()
    assert config.is_locked
    assert from_config(config) == Recipe()


def test_missing_settings_keep_their_defaults():
    config = ml_collections.ConfigDict({"ipc": 3, "recover": {"jitter": 2}})
    expected = dataclasses.replace(Recipe(), ipc=3, recover=RecoverRecipe(jitter=2))
    assert from_config(config) == expected
    assert from_config(ml_collections.ConfigDict()) == Recipe()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 7),
        ("writers", ("tensorboard",)),
        ("data.name", "tfds"),
        ("data.mean", (0.5, 0.25)),
        ("teacher.schedule", "one_cycle"),
        ("select.rule", "top"),
        ("recover.iterations", 2000),
        ("recover.round_iterations", 0),
        ("recover.min_iterations", 1000),
        ("recover.milestone", 0.0),
        ("recover.clock", "image"),
        ("relabel.min_scale", 1.0),
        ("evaluate.students", ("conv3", "resnet18")),
        ("evaluate.regimes", ("fixed",)),
        ("evaluate.epochs", 20),
        ("evaluate.learning_rates", (1e-3, 1e-2)),
        ("evaluate.smaller", (1, 5)),
        ("relabel.rand_augment", ""),
        ("report.nearest", False),
    ],
)
def test_a_changed_setting_arrives(name, value):
    config = changed(name, value)
    if name == "data.mean":
        config.data.std = (0.5, 0.25)
    flat = flatten(from_config(config))
    assert flat[name] == value
    rest = set(DEFAULTS) - {name, "data.std"}
    assert {k: flat[k] for k in rest} == {k: DEFAULTS[k] for k in rest}


def test_recipes_are_frozen_and_hashable():
    assert hash(Recipe()) == hash(from_config(default_config()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().ipc = 3


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ipcs", "ipc"),
        ("sed", "seed"),
        ("recover.iteration", "recover.iterations"),
        ("recover.ierations", "recover.iterations"),
        ("recover.bn_wieght", "recover.bn_weight"),
        ("teacher.learning_rat", "teacher.learning_rate"),
        ("evaluate.student", "evaluate.students"),
        ("relabel.temprature", "relabel.temperature"),
        ("jitter", "recover.jitter"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_name(name, meant):
    with pytest.raises(UserError) as caught:
        from_config(changed(name, 1))
    assert str(caught.value) == f"There is no setting {name}; did you mean {meant}?"


def test_an_unknown_setting_like_no_other_is_refused():
    with pytest.raises(UserError) as caught:
        from_config(changed("xyzzy", 1))
    assert str(caught.value) == "There is no setting xyzzy."


TYPES = {name: setting.kind for name, setting in SETTINGS.items()}
WRONG = {str: 3, int: 1.5, float: "0.1", bool: 1, tuple: 7}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_value_of_another_type_is_refused(name):
    with pytest.raises(UserError, match=rf"^{re.escape(name)} must be (of type|a tuple)"):
        from_config(changed(name, WRONG[TYPES[name]]))


@pytest.mark.parametrize("name", [k for k, t in TYPES.items() if t in (int, float)])
def test_a_bool_is_no_number(name):
    with pytest.raises(UserError, match=f"^{re.escape(name)} must be of type"):
        from_config(changed(name, True))


@pytest.mark.parametrize("name", [k for k, v in DEFAULTS.items() if v is None])
def test_what_the_protocol_says_is_none_and_keeps_its_type(name):
    config = default_config()
    value = {str: "x", int: 2, float: 0.5, bool: True, tuple: ("x",)}[TYPES[name]]
    config.update_from_flattened_dict({name: value})
    with pytest.raises(TypeError):
        config.update_from_flattened_dict({name: {"x": value}})


def test_a_whole_number_may_stand_for_a_float():
    recipe = from_config(changed("recover.learning_rate", 1))
    assert recipe.recover.learning_rate == 1.0
    assert type(recipe.recover.learning_rate) is float


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_is_no_value(name):
    with pytest.raises(UserError, match=f"^{name} is a group of settings"):
        from_config(changed(name, 3))


def test_a_config_must_be_a_config_dict():
    with pytest.raises(UserError, match=r"must return a ConfigDict .* not dict"):
        from_config(dataclasses.asdict(Recipe()))


@pytest.mark.parametrize(
    ("name", "value", "becomes"),
    [
        ("data.mean", [0, 0.5], (0.0, 0.5)),
        ("data.class_names", ["cat", "dog"], ("cat", "dog")),
        ("evaluate.students", ["conv3"], ("conv3",)),
    ],
)
def test_lists_become_tuples(name, value, becomes):
    config = changed(name, value)
    if name == "data.mean":
        config.data.std = [1, 1]
    assert flatten(from_config(config))[name] == becomes


def test_names_of_a_flag_are_split_at_commas():
    """`--config.evaluate.students=conv3,conv4` arrives as one string in a tuple."""
    recipe = from_config(changed("evaluate.students", ("conv3, conv4", "resnet18")))
    assert recipe.evaluate.students == ("conv3", "conv4", "resnet18")


def test_class_names_may_hold_commas():
    names = ("ibex, Capra ibex", "ram, tup")
    assert from_config(changed("data.class_names", names)).data.class_names == names


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.mean", ("a",)),
        ("data.std", (True,)),
        ("data.mean", "0.5"),
        ("data.class_names", (1, 2)),
        ("evaluate.students", "conv3"),
        ("evaluate.regimes", ("online", 3)),
    ],
)
def test_tuples_of_something_else_are_refused(name, value):
    with pytest.raises(UserError, match=f"^{re.escape(name)} must be a tuple of"):
        from_config(changed(name, value))


def refused(setting):
    """Values that are just not allowed, of an allowed type."""
    allowed = setting.allowed
    if isinstance(allowed, OneOf):
        return ["no such"] if setting.kind is str else [max(allowed.choices) + 1]
    if isinstance(allowed, SomeOf):
        return [(), (allowed.choices[0], "no such")]
    values = [allowed.low - 1 if allowed.with_low else allowed.low]
    if not math.isinf(allowed.high):
        values.append(allowed.high + 1 if allowed.with_high else allowed.high)
    return [(value,) for value in values] if setting.kind is tuple else values


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, v) for name, s in SETTINGS.items() if s.allowed is not None for v in refused(s)],
)
def test_what_is_not_allowed_is_refused(name, value):
    with pytest.raises(UserError, match=f"^{re.escape(name)} must "):
        from_config(changed(name, value))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "data.name",
            "imagenet",
            "one of 'digits', 'folder', 'npz', 'idx', 'tfds', 'parquet', 'webdataset', 'classes', "
            "or a plug-in as package.module:name, not 'imagenet'",
        ),
        ("data.channels", 2, "one of 0, 1, 3, not 2"),
        ("teacher.schedule", "linear", "one of 'cosine', 'one_cycle', not 'linear'"),
        (
            "select.rule",
            "best",
            "one of 'medium', 'top', 'min', 'random', or a plug-in as package.module:name, "
            "not 'best'",
        ),
        ("evaluate.dtype", "float16", "one of 'float32', 'bfloat16', not 'float16'"),
        ("relabel.mix", "", "one of 'cutmix', 'mixup', 'none', not ''"),
        ("recover.iterations", -1, "at least 0, not -1"),
        ("recover.batch_size", 0, "at least 1, not 0"),
        ("recover.jitter", -2, "at least -1, not -2"),
        ("recover.perturbation_steps", 0, "at least 1, not 0"),
        ("teacher.batch_size", 1, "at least 2, not 1"),
        ("evaluate.batch_size", 1, "at least 2, not 1"),
        ("evaluate.hard_weight", -0.5, "at least 0, not -0.5"),
        ("relabel.temperature", 0.0, "above 0, not 0.0"),
        ("evaluate.save_minutes", 0, "above 0, not 0.0"),
        ("evaluate.learning_rates", (0.1, 0.0), "above 0, not 0.0"),
        ("evaluate.smaller", (1, 0), "above 0, not 0"),
        ("teacher.head_classes", (3, -1), "at least 0, not -1"),
        ("recover.conv_drop", 1.0, "in [0, 1), not 1.0"),
        ("recover.conv_drop", -0.1, "in [0, 1), not -0.1"),
        ("data.validation_share", 1.0, "in [0, 1), not 1.0"),
        ("data.test_share", 0, "in (0, 1), not 0.0"),
        ("data.test_share", 1, "in (0, 1), not 1.0"),
        ("relabel.min_scale", 0, "in (0, 1], not 0.0"),
        ("relabel.min_scale", 1.01, "in (0, 1], not 1.01"),
    ],
)
def test_sentences_about_values(name, value, sentence):
    with pytest.raises(UserError) as caught:
        from_config(changed(name, value))
    assert str(caught.value) == f"{name} must be {sentence}."


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("evaluate.regimes", (), "'online', 'stored', 'fixed', 'learned', 'hard'; got ()"),
        (
            "evaluate.images",
            ("recovered", "real"),
            "'recovered', 'random', 'selected', 'herding', 'kmeans', 'full'; "
            "got ('recovered', 'real')",
        ),
    ],
)
def test_sentences_about_several_choices(name, value, sentence):
    with pytest.raises(UserError) as caught:
        from_config(changed(name, value))
    assert str(caught.value) == f"{name} must hold some of {sentence}."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("recover.min_scale", 1.0),
        ("recover.statistics_momentum", 0.0),
        ("recover.residual", 0.0),
        ("evaluate.ema", 0.999),
        ("teacher.batch_size", 2),
        ("data.workers", -1),
        ("recover.jitter", -1),
        ("data.channels", 3),
    ],
)
def test_limits_are_allowed(name, value):
    assert flatten(from_config(changed(name, value)))[name] == value


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"recover__round_iterations": 300}, "recover.round_iterations .300. must divide"),
        (
            {"recover__round_iterations": 0, "recover__min_iterations": 10},
            "needs recover.round_iterations above 0",
        ),
        ({"recover__min_iterations": 400}, r"recover.min_iterations \(400\) must lie between"),
        ({"recover__min_iterations": 4500}, r"recover.min_iterations \(4500\) must lie between"),
        ({"data__mean": (0.5,)}, "one value per channel each, but have 1 and 0"),
        ({"data__mean": (0.5,), "data__std": (0.0,)}, "data.std must be above 0"),
        ({"recover__min_iterations": 750}, "must be a multiple of recover.round_iterations"),
        ({"recover__milestone": 1.5}, "recover.milestone is a share"),
        ({"recover__learning_rate": float("nan")}, "recover.learning_rate must be finite"),
        ({"data__mean": (float("inf"),), "data__std": (1.0,)}, "data.mean must be finite"),
        ({"evaluate__students": ()}, "evaluate.students is empty"),
        (
            {"recover__residual": 0.5, "select__start": "noise"},
            r"recover.residual \(0.5\) mixes real pixels .*, but select.start is 'noise'",
        ),
    ],
)
def test_combinations(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        from_config(config_with(**changes))


def test_flatten_covers_every_field_once():
    expected = {f.name for f in dataclasses.fields(Recipe)} - set(GROUPS)
    for group, cls in GROUPS.items():
        expected |= {f"{group}.{f.name}" for f in dataclasses.fields(cls)}
    assert set(DEFAULTS) == expected
    for name, value in DEFAULTS.items():
        node = Recipe()
        for part in name.split("."):
            node = getattr(node, part)
        assert node == value


# --- units and precision ---


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"data__mean": (77.97,), "data__std": (95.9,)},
            r"data.mean .* pixels in \[0, 1\], but hol",
        ),
        ({"data__mean": (0.3,), "data__std": (95.9,)}, "data.std .* holds 95.9; divide .* by 255"),
        (
            {"data__mean": (0.4, 123.675), "data__std": (0.2, 0.2)},
            "data.mean .* holds 123.675; div",
        ),
        ({"data__mean": (-0.1,), "data__std": (0.5,)}, r"data.mean must be in \[0, 1\], not -0.1"),
        ({"data__mean": (0.1,), "data__std": (-0.5,)}, "data.std must be above 0, not -0.5"),
        (
            {"data__mean": (0.1,), "data__std": (1e-7,)},
            "data.std must be at least 1e-06, not 1e-07",
        ),
        (
            {"relabel__temperature": 1e-300},
            "relabel.temperature must be at least 0.001, not 1e-300",
        ),
        ({"relabel__temperature": 1e300}, "must be a number that float32 can hold"),
        ({"evaluate__weight_decay": 1e308}, "evaluate.weight_decay must be a number that float32"),
        ({"evaluate__learning_rates": (1e-45,)}, "must be 0 or at least 1.175e-38, which float32"),
        ({"seed": 2**32}, "seed must be at most 4294967295, not 4294967296"),
        ({"evaluate__batch_size": 2**31}, "evaluate.batch_size must be at most 2147483647"),
        ({"evaluate__students": ("conv3", "conv3")}, "lists 'conv3' more than once; list it once"),
        ({"evaluate__learning_rates": (0.1, 0.1)}, "lists 0.1 more than once"),
        ({"evaluate__images": ("random", "random")}, "lists 'random' more than once"),
        ({"data__dataset": "a\0b"}, r"data.dataset holds a control character: 'a\\x00b'"),
        ({"data__dataset": "\udcff"}, "which UTF-8 cannot write"),
        ({"data__class_names": ("x" * 4001,)}, "has 4,001 characters; at most 4,000"),
        ({"recover__terms": ("class_bn=1e308",)}, "whose weight must be a finite number above 0"),
    ],
)
def test_values_that_would_be_computed_wrongly(changes, sentence):
    config = default_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    with pytest.raises(UserError, match=sentence):
        from_config(config)


def test_values_at_the_limits_are_taken():
    config = default_config()
    limits = {
        "seed": 2**32 - 1,
        "data.mean": (0.0, 1.0),
        "data.std": (1e-6, 1.0),
        "evaluate.weight_decay": 3e38,
        "data.class_names": ("two\nlines", "tab\t"),
    }
    config.update_from_flattened_dict(limits)
    flat = flatten(from_config(config))
    assert {name: flat[name] for name in limits} == limits
