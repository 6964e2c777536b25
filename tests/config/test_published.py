"""Published settings by method and data set, and whose each setting of a run is."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from costly import costly

from delt_jax import data, main
from delt_jax.config import cli, derive, from_config, methods, origins
from delt_jax.config.methods import DataKind, for_data, ours, published
from delt_jax.data import describe_source
from delt_jax.errors import UserError
from delt_jax.learned import methods as learned_methods
from delt_jax.recipe import flatten
from delt_jax.recipe.known import KNOWN
from delt_jax.stages import plan
from delt_jax.teachers.cost import ModelCost

CONFIGS = Path(__file__).parents[2] / "configs"
# Those that recover images; of those that learn sets: test_learned_methods.py.
METHODS = sorted(
    {path.stem for path in CONFIGS.glob("methods/[!_]*.py")} - {*learned_methods.names()}
)
SETS = ("imagenet", "tiny_imagenet", "cifar10", "fashion_mnist")

# From papers and released scripts, as collected by hand, for each data set in its turn: start,
# what shares a batch, T, learning rate, weights, crops, flips, shift, batch size, students.
# "1-0.08" are crops that fall to 8 %, "+-4" shifts that go both ways.
TABLE = """
delt              | imagenet      | real medium | class | 4000 | 0.25 | 0.01        | 1-0.08 | yes | 0   | 100 | delt
delt_image_clock  | imagenet      | real medium | class | 4000 | 0.25 | 0.01        | 1-0.08 | yes | 0   | 100 | delt
delt_no_earlylate | imagenet      | real medium | class | 4000 | 0.25 | 0.01        | 1-0.08 | yes | 0   | 100 | delt
sre2l             | imagenet      | noise       | each  | 4000 | 0.25 | 0.01        | 0.08   | yes | 32  | 100 | sre2l
sre2l_real        | imagenet      | real medium | each  | 4000 | 0.25 | 0.01        | 0.08   | yes | 32  | 100 | delt
sre2l_earlylate   | imagenet      | noise       | each  | 4000 | 0.25 | 0.01        | 0.08   | yes | 32  | 100 | delt
cda               | imagenet      | noise       | each  | 4000 | 0.25 | 0.01        | 1-0.08 | yes | 32  | 100 | sre2l
cda_real          | imagenet      | real medium | each  | 4000 | 0.25 | 0.01        | 1-0.08 | yes | 32  | 100 | delt
cda_earlylate     | imagenet      | noise       | each  | 4000 | 0.25 | 0.01        | 1-0.08 | yes | 32  | 100 | delt
rded              | imagenet      | rded        | -     | 0    | -    | -           | -      | -   | -   | -   | rded
gvbsm             | imagenet      | noise       | class | 4000 | 0.1  | 0.01 + 1    | 0.08   | yes | 32  | 80  | sre2l
edc               | imagenet      | rded        | class | 1000 | 0.05 | 0.05 + 0.05 | 0.5    | yes | 0   | 80  | rded
wmdd              | imagenet      | noise       | whole | 2000 | 0.25 | 10 + 1      | 0.08   | yes | 32  | 100 | sre2l
dwa               | imagenet      | real random | each  | 2000 | 0.25 | 0.01        | 0.08   | yes | 32  | 100 | sre2l
fadrm             | imagenet      | rded        | each  | 2000 | 0.25 | 0.01        | 0.08   | yes | 32  | 100 | sre2l
delt              | tiny_imagenet | real medium | class | 4000 | 0.4  | 0.05        | 1-0.08 | yes | 0   | 100 | delt
delt_image_clock  | tiny_imagenet | real medium | class | 4000 | 0.4  | 0.05        | 1-0.08 | yes | 0   | 100 | delt
delt_no_earlylate | tiny_imagenet | real medium | class | 4000 | 0.4  | 0.05        | 1-0.08 | yes | 0   | 100 | delt
sre2l             | tiny_imagenet | noise       | each  | 4000 | 0.1  | 1           | 0.08   | yes | +-4 | 100 | sre2l
sre2l_real        | tiny_imagenet | real medium | each  | 4000 | 0.1  | 1           | 0.08   | yes | +-4 | 100 | delt
sre2l_earlylate   | tiny_imagenet | noise       | each  | 4000 | 0.1  | 1           | 0.08   | yes | +-4 | 100 | delt
cda               | tiny_imagenet | noise       | each  | 4000 | 0.4  | 0.05        | 1-0.08 | yes | 4   | 100 | sre2l
cda_real          | tiny_imagenet | real medium | each  | 4000 | 0.4  | 0.05        | 1-0.08 | yes | 4   | 100 | delt
cda_earlylate     | tiny_imagenet | noise       | each  | 4000 | 0.4  | 0.05        | 1-0.08 | yes | 4   | 100 | delt
rded              | tiny_imagenet | rded        | -     | 0    | -    | -           | -      | -   | -   | -   | rded
gvbsm             | tiny_imagenet | noise       | class | 4000 | 0.05 | 0.01 + 1    | pad 8  | yes | 32  | 100 | sre2l
edc               | tiny_imagenet | real random | class | 2000 | 0.05 | 0.005+0.005 | 0.5    | yes | 0   | 100 | rded
wmdd              | tiny_imagenet | noise       | whole | 2000 | 0.1  | 500 + 1     | 0.08   | yes | 9   | 100 | sre2l
dwa               | tiny_imagenet | real random | each  | 2000 | 0.1  | 0.01        | 0.08   | yes | 4   | 200 | sre2l
fadrm             | tiny_imagenet | rded        | each  | 1000 | 0.01 | 0.01        | 0.08   | yes | 4   | 100 | sre2l
delt              | cifar10       | real medium | class | 1000 | 0.25 | 0.01        | 1-0.08 | yes | 0   | 100 | delt
delt_image_clock  | cifar10       | real medium | class | 1000 | 0.25 | 0.01        | 1-0.08 | yes | 0   | 100 | delt
delt_no_earlylate | cifar10       | real medium | class | 1000 | 0.25 | 0.01        | 1-0.08 | yes | 0   | 100 | delt
sre2l             | cifar10       | noise       | each  | 1000 | 0.25 | 0.01        | 1      | no  | 4   | 100 | sre2l
sre2l_real        | cifar10       | real medium | each  | 1000 | 0.25 | 0.01        | 1      | no  | 4   | 100 | delt
sre2l_earlylate   | cifar10       | noise       | each  | 1000 | 0.25 | 0.01        | 1      | no  | 4   | 100 | delt
cda               | cifar10       | noise       | each  | 1000 | 0.25 | 0.01        | 1-0.08 | yes | 4   | 100 | delt
cda_real          | cifar10       | real medium | each  | 1000 | 0.25 | 0.01        | 1-0.08 | yes | 4   | 100 | delt
cda_earlylate     | cifar10       | noise       | each  | 1000 | 0.25 | 0.01        | 1-0.08 | yes | 4   | 100 | delt
rded              | cifar10       | rded        | -     | 0    | -    | -           | -      | -   | -   | -   | rded
gvbsm             | cifar10       | noise       | class | 4000 | 0.05 | 0.01 + 1    | pad 4  | yes | 32  | 100 | sre2l
edc               | cifar10       | real random | class | 75   | 0.05 | 0.005+0.005 | 0.08   | yes | 0   | 500 | rded
wmdd              | cifar10       | noise       | whole | 2000 | 0.25 | 10 + 1      | 1      | yes | 4   | 100 | delt
dwa               | cifar10       | real random | each  | 1000 | 0.25 | 0.01        | 1      | no  | 4   | 100 | sre2l
fadrm             | cifar10       | rded        | each  | 2000 | 0.25 | 0.01        | 0.08   | yes | 4   | 100 | sre2l
delt              | fashion_mnist | real medium | class | 400  | 0.01 | 0.01        | 1-0.08 | yes | 0   | 100 | delt_jax
delt_image_clock  | fashion_mnist | real medium | class | 400  | 0.01 | 0.01        | 1-0.08 | yes | 0   | 100 | delt_jax
delt_no_earlylate | fashion_mnist | real medium | class | 400  | 0.01 | 0.01        | 1-0.08 | yes | 0   | 100 | delt_jax
sre2l             | fashion_mnist | noise       | each  | 1000 | 0.25 | 0.01        | 1      | no  | 4   | 100 | delt_jax
sre2l_real        | fashion_mnist | real medium | each  | 1000 | 0.25 | 0.01        | 1      | no  | 4   | 100 | delt_jax
sre2l_earlylate   | fashion_mnist | noise       | each  | 400  | 0.25 | 0.01        | 1      | no  | 4   | 100 | delt_jax
cda               | fashion_mnist | noise       | each  | 1000 | 0.25 | 0.01        | 1-0.08 | yes | 4   | 100 | delt_jax
cda_real          | fashion_mnist | real medium | each  | 1000 | 0.25 | 0.01        | 1-0.08 | yes | 4   | 100 | delt_jax
cda_earlylate     | fashion_mnist | noise       | each  | 400  | 0.25 | 0.01        | 1-0.08 | yes | 4   | 100 | delt_jax
rded              | fashion_mnist | rded        | -     | 0    | -    | -           | -      | -   | -   | -   | delt_jax
gvbsm             | fashion_mnist | noise       | class | 4000 | 0.05 | 0.01 + 1    | pad 3  | yes | 4   | 100 | delt_jax
edc               | fashion_mnist | real random | class | 75   | 0.05 | 0.005+0.005 | 0.08   | yes | 0   | 500 | delt_jax
wmdd              | fashion_mnist | noise       | whole | 2000 | 0.25 | 10 + 1      | 1      | yes | 4   | 100 | delt_jax
dwa               | fashion_mnist | real random | each  | 1000 | 0.25 | 0.01        | 1      | no  | 4   | 100 | delt_jax
fadrm             | fashion_mnist | rded        | each  | 2000 | 0.25 | 0.01        | 0.08   | yes | 4   | 100 | delt_jax
"""  # noqa: E501 (a table)
ROWS = [
    tuple(cell.strip() for cell in line.split("|")) for line in TABLE.splitlines() if line.strip()
]
# Where a learning rate is published with the method; DELT's own ablations take it over.
PUBLISHED = {
    "delt": ("imagenet",),
    "sre2l": ("imagenet", "tiny_imagenet"),
    "cda": ("imagenet", "tiny_imagenet"),
    "gvbsm": ("imagenet", "tiny_imagenet", "cifar10"),
    "edc": ("imagenet", "tiny_imagenet", "cifar10"),
    "wmdd": ("imagenet", "tiny_imagenet"),
    "dwa": ("imagenet", "tiny_imagenet", "cifar10"),
    "fadrm": ("imagenet", "tiny_imagenet"),
}


def config_of(name, variants=""):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](variants)


def recipe_of(name, variants=""):
    return from_config(config_of(name, variants))


def base_of(method):
    """The published method of which one of DELT's ablations is made."""
    return re.sub("_(real|earlylate|image_clock|no_earlylate)$", "", method)


def in_words(recipe):
    """A complete recipe as the table has it."""
    r, select = recipe.recover, recipe.select
    start = f"real {select.rule}" if select.start == "real" else select.start
    protocol = recipe.evaluate.protocol
    if not r.iterations:
        return (start, "-", "0", *"------", protocol)
    weights = [term.partition("=")[2] for term in r.terms] or [r.bn_weight]
    crops = f"1-{r.min_scale:g}" if r.milestone else f"{r.min_scale:g}"
    return (
        start,
        {"class_major": "class", "whole_classes": "whole", "one_per_class": "each"}[r.layout],
        str(r.iterations),
        f"{r.learning_rate:g}",
        "+".join(f"{float(weight):g}" for weight in weights),
        f"pad{r.crop_padding}" if r.crop_padding else crops,
        "yes" if r.flip and recipe.data.flip else "no",
        "+-" * r.jitter_both_ways + str(r.jitter),
        str(r.batch_size),
        protocol,
    )


def test_the_table_has_every_method_and_set():
    assert [(name, method) for method, name, *_ in ROWS] == [
        (name, method) for name in SETS for method in dict.fromkeys(row[0] for row in ROWS)
    ]
    assert sorted({row[0] for row in ROWS}) == METHODS


@pytest.mark.parametrize(("method", "name", "words"), [(m, n, w) for m, n, *w in ROWS])
def test_settings_are_those_of_the_table(method, name, words):
    recipe = recipe_of(name, method)
    complete, _ = derive.complete(recipe, describe_source(recipe.data))
    expected = [word.replace(" ", "") if "+" in word or "pad" in word else word for word in words]
    assert list(in_words(complete)) == expected


@pytest.mark.parametrize("method", METHODS)
def test_what_nobody_has_published_is_ours(method):
    for name in (*SETS, "mnist", "digits"):
        config = config_of(name)
        _, settings = methods.chosen([method], str(CONFIGS / "x.py"), methods.kind_of(config))
        rate = settings.get("recover.learning_rate")
        is_published = rate is not None and not rate.is_ours
        assert is_published == (name in PUBLISHED.get(base_of(method), ()))


def test_students_train_as_the_authors_do_or_by_one_protocol():
    own = recipe_of("imagenet", "gvbsm").evaluate
    assert (own.protocol, own.loss, own.hard_weight) == ("sre2l", "mse", 0.1)
    cifar = recipe_of("cifar10", "dwa")
    assert (cifar.evaluate.epochs, cifar.evaluate.batch_size) == (400, 128)
    assert (cifar.relabel.mix, cifar.relabel.temperature) == ("mixup", 30)
    for method in METHODS:
        same = recipe_of("cifar10", f"{method},protocol=delt")
        assert same.evaluate == recipe_of("cifar10").evaluate
        assert same.relabel.temperature is None
        assert same.relabel.ensemble == bool(same.teacher.others)
        assert same.recover == recipe_of("cifar10", method).recover
    with pytest.raises(UserError, match=r"evaluate.protocol must be one of .* not 'mine'"):
        recipe_of("digits", "protocol=mine")
    folder = recipe_of("imagenet", "folder=/a,b,protocol=rded")
    assert (folder.data.path, folder.evaluate.protocol) == ("/a,b", "rded")


@pytest.mark.parametrize(
    ("method", "name", "more"),
    [
        ("fadrm", "tiny_imagenet", {"recover.residual_rounds": 2}),
        ("fadrm", "cifar100", {"recover.iterations": 2000, "evaluate.epochs": 1000}),
        ("fadrm", "imagenette", {"recover.learning_rate": 0.05, "recover.residual_rounds": 4}),
        ("fadrm", "imagewoof", {"recover.learning_rate": 0.25, "recover.jitter": -1}),
        ("fadrm", "imagewoof", {"evaluate.schedule": "cosine", "evaluate.batch_size": 10}),
        ("fadrm,ipc50", "imagewoof", {"evaluate.schedule": "half_cosine"}),
        ("fadrm", "imagenet", {"evaluate.schedule": "cosine", "evaluate.batch_size": 16}),
        ("fadrm,ipc10", "imagenet", {"evaluate.schedule": "half_cosine", "evaluate.epochs": 300}),
        ("fadrm,ipc50", "tiny_imagenet", {"evaluate.schedule": "cosine", "evaluate.epochs": 300}),
        ("fadrm,ipc1", "tiny_imagenet", {"evaluate.epochs": 1000}),
        ("fadrm,ipc1", "cifar100", {"evaluate.learning_rates": (0.0005,)}),
        ("wmdd", "imagenette", {"recover.terms": ("class_bn=10", "barycentre=1")}),
        ("edc", "imagewoof", {"recover.iterations": 50, "recover.statistics_momentum": 0.0}),
        ("edc", "imagenet", {"evaluate.ema": 0.99, "evaluate.batch_size": 100}),
        ("edc", "cifar100", {"recover.iterations": 2000, "relabel.min_scale": 0.5}),
        ("sre2l", "cifar100", {"recover.min_scale": 1.0, "recover.flip": False}),
        ("sre2l", "imagenet_conv4", {"recover.jitter": -1, "recover.learning_rate": 0.25}),
        ("cda", "imagenet", {"evaluate.batch_size": 128}),
        ("gvbsm", "cifar10", {"evaluate.hard_weight": 0.15, "evaluate.weight_decay": 0.0}),
        ("gvbsm", "tiny_imagenet", {"evaluate.optimiser": "sgd", "evaluate.epochs": 100}),
        ("gvbsm", "cifar100", {"evaluate.learning_rates": (0.1,), "evaluate.batch_size": 64}),
        ("gvbsm", "digits", {"recover.crop_padding": 1, "recover.jitter": -1}),
        ("rded", "imagenet", {"select.candidates": 300, "select.crops": 5, "select.mosaic": 2}),
        ("rded", "fashion_mnist", {"select.candidates": 300, "select.crops": 5}),
        ("rded", "tiny_imagenet", {"select.mosaic": 1, "evaluate.protocol": "rded"}),
        ("delt", "imagenet", {"recover.round_iterations": 500}),
    ],
)
def test_more_that_is_published(method, name, more):
    flat = flatten(recipe_of(name, method))
    assert {setting: flat[setting] for setting in more} == more


# --- settings of the data set that is most alike ---


def test_settings_of_another_data_set_are_ours():
    released = published("here", {"recover.learning_rate": 2.0, "evaluate.epochs": 3})
    by_name = {"cifar100": released, "": ours({"recover.jitter": -1})}
    assert for_data(DataKind("cifar100", 32, ""), by_name) == released
    for name in ("cifar10", "mnist"):
        taken = for_data(DataKind(name, 32, ""), by_name)
        assert str(taken["recover.learning_rate"]) == "ours (as for CIFAR-100: here)"
        assert ("evaluate.epochs" in taken) == (name == "cifar10")
    for name in ("imagenet", "tiny_imagenet", ""):
        assert for_data(DataKind(name, 32, ""), by_name) == by_name[""]
    assert for_data(DataKind("imagenet", 224, ""), {}) == {}


def test_pixels_are_scaled_to_the_size_of_the_images():
    released = published("here", {"recover.jitter": 32, "recover.crop_padding": 4})
    for side, shift, padding in ((32, 32, 4), (28, -1, 3), (8, -1, 1), (64, -1, 8)):
        scaled = for_data(DataKind("cifar10", side, ""), {"cifar10": released})
        assert (scaled["recover.jitter"].value, scaled["recover.crop_padding"].value) == (
            shift,
            padding,
        )
        assert scaled["recover.jitter"].is_ours == (side != 32)


def test_other_teachers_are_not_the_recipes_own():
    architectures = ("resnet18_modified", "conv3")
    for own, beside in (
        ("resnet18_modified", ("conv3",)),
        ("conv4", ("resnet18_modified",)),
        ("", ("resnet18_modified",)),
        ("vgg11_bn", architectures),
    ):
        kind = DataKind("", 32, own)
        expected = beside if own != "vgg11_bn" else architectures
        assert methods.others(architectures, kind)["teacher.others"].value == expected


# --- known data sets ---


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("[!_]*.py")), ids=lambda p: p.stem)
def test_recipes_of_known_data_can_be_planned_without_them(path):
    recipe = recipe_of(path.stem)
    described = describe_source(recipe.data)
    assert bool(described) == bool(recipe.data.known_as)
    assert bool(described) == (path.stem not in ("folder", "imagenet_lite0"))
    if described:
        known = KNOWN[recipe.data.known_as]
        assert (len(described.class_names), described.channels) == (
            known.num_classes,
            known.channels,
        )
        assert described.image_size == (recipe.data.image_size or known.image_size)
        assert (len(described.train), len(described.test)) == (
            known.train_images,
            known.test_images,
        )
        assert len(np.unique(described.train.labels)) == known.num_classes


def test_the_digits_are_as_known():
    known, source = KNOWN["digits"], data.open_source(recipe_of("digits").data)
    assert (known.num_classes, known.image_size, known.channels) == (10, 8, 1)
    assert (known.train_images, known.test_images) == (len(source.train), len(source.test))


def test_some_classes_have_as_many_images_as_on_average():
    config = config_of("imagenet")
    config.data.classes = "goldfish,hen"
    source = describe_source(from_config(config).data)
    assert (len(source.class_names), len(source.train), len(source.test)) == (2, 2562, 100)


# --- whose a setting is ---


@pytest.fixture
def without_data(monkeypatch):
    """No data anywhere, and plans that do not spend seconds on what networks cost."""

    def nowhere(*_):
        raise UserError("There are no data here.")

    monkeypatch.setattr(data, "open_source", nowhere)
    monkeypatch.setattr(plan, "model_cost", lambda spec: ModelCost(1, 1.0))
    monkeypatch.setattr(plan, "memory_line", lambda *_: "")


def whose(printed):
    """Value and owner of each setting in the table that a dry run prints."""
    found = re.findall(r"^  ([a-z_]+(?:\.[a-z_]+)?) +(.*?)  +(\S.*)$", printed, re.MULTILINE)
    return {name: (value, owner) for name, value, owner in found}


SEVERAL = ("gvbsm", "edc")


def plans():
    """Methods of several teachers, whose networks take long to trace, on one data set."""
    for method, name, *words in ROWS:
        yield costly(method, name, words, when=method in SEVERAL and name != "imagenet")


@pytest.mark.parametrize(("method", "name", "words"), [*plans()])
def test_a_dry_run_says_whose_each_setting_is(without_data, tmp_path, capsys, method, name, words):
    file = f"--config={CONFIGS / name}.py:{method}"
    more = ["--config.ipc=2", "--config.evaluate.seeds=2", f"--workdir={tmp_path / 'run'}"]
    main.run(*cli.parse(["main", file, *more, "--dry_run"]))
    printed = capsys.readouterr().out
    title = KNOWN[name].title
    assert printed.startswith(f"settings, and whose they are, on {title}:\n")
    assert f"data: {title} as published" in printed
    assert "planned from published numbers: There are no data here." in printed
    table = whose(printed)
    assert table["ipc"] == ("2", "yours")
    assert table["evaluate.seeds"] == ("2", "yours")
    assert table["select.start"][1].startswith(f"{method}, ")
    assert table["teacher.model"][1] == f"recipe {name}"
    assert table["recover.iterations"][0] == words[2]
    assert table["evaluate.protocol"][0] == words[9]
    if "+" in words[4]:
        weights = re.findall(r"=([\d.]+)", table["recover.terms"][0])
        assert [f"{float(w):g}" for w in weights] == re.split(r" *\+ *", words[4])
    if words[8] != "-":
        assert table["recover.batch_size"][0] == words[8]
    if words[2] == "0":
        assert "recover.learning_rate" not in table
        assert (table["select.candidates"][0], table["select.crops"][0]) == ("300", "5")
        return
    value, owner = table["recover.learning_rate"]
    assert value == words[3]
    base = base_of(method)
    if name in PUBLISHED[base]:
        assert owner.startswith(f"{method}, published in ")
    else:
        assert owner.startswith(f"recipe {name}" if base == "delt" else f"{method}, ours (")


def test_without_a_method_settings_are_the_recipes_and_yours(tmp_path):
    def found(*arguments):
        parsed = cli.parse(["main", *arguments, f"--workdir={tmp_path}"])
        return origins.of(parsed.command, from_config(parsed.config))

    mine = ["--config.select.rule=top", "--config.report.nearest=False", "--config.seed", "3"]
    plain = found(f"--config={CONFIGS / 'digits.py'}", *mine)
    assert [plain.pop(name) for name in ("select.rule", "report.nearest", "seed")] == ["yours"] * 3
    assert set(plain.values()) == {"recipe digits"}
    one = found(f"--config={CONFIGS / 'digits.py'}:sre2l,protocol=rded")
    assert one["evaluate.protocol"] == "yours"
    assert one["recover.flip"].startswith("sre2l, ours (as for CIFAR-100")
    assert origins.lines("", recipe_of("digits")) == []


def test_what_is_derived_is_said_to_be(tmp_path):
    command = f"python -m delt_jax.main --config={CONFIGS / 'folder.py'}:sre2l --workdir=x"
    recipe, _ = derive.complete(
        recipe_of("folder", "sre2l"), describe_source(recipe_of("mnist").data)
    )
    found = origins.of(command, recipe)
    assert found["teacher.model"] == "recipe folder, derived from the images"
    assert found["recover.jitter"] == "sre2l, ours (a seventh of the side)"
    assert found["recover.learning_rate"] == "recipe folder"
    assert origins.lines(command, recipe)[0].endswith("on images of your own:")


def test_the_data_set_is_not_to_be_named_on_the_command_line(tmp_path):
    with pytest.raises(UserError, match=r"data\.known_as comes too late on the command line"):
        cli.parse(
            [
                "main",
                f"--config={CONFIGS / 'folder.py'}:sre2l",
                "--config.data.known_as=cifar10",
                f"--workdir={tmp_path}",
            ]
        )
