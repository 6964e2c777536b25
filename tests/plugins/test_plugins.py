"""How plug-ins are looked up: what is imported, what is said, and what results know of them."""

import sys

import numpy as np
import pytest
from outside import declare, forget, installed

from delt_jax import config as config_lib
from delt_jax import terms
from delt_jax.config import methods
from delt_jax.core import plugins
from delt_jax.data import open_source
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec
from delt_jax.models import create as create_model
from delt_jax.recipe import DataRecipe, Recipe
from delt_jax.recovery import initial_images, selection
from delt_jax.store import part_sources
from delt_jax.store.identity import versions
from delt_jax.teachers import ensemble
from delt_jax.training import protocols


@pytest.fixture
def package(tmp_path):
    with installed(tmp_path):
        yield tmp_path


def recipe_of(**settings):
    config = config_lib.default_config()
    config.update_from_flattened_dict(settings)
    return config_lib.from_config(config)


SETTINGS = {
    "recover.terms": ("delt_example.terms:COLOURS=0.5",),
    "select.start": "delt_example.starts:BLENDED",
    "select.rule": "delt_example.rules:ends",
    "evaluate.protocol": "delt_example.protocols:brief",
    "teacher.model": "delt_example.nets:PlainNet",
    "recover.optimiser": "delt_example.optimisers:lion",
    "data.name": "delt_example.data:stripes",
}


def test_every_kind_is_named_by_its_module(package):
    recipe = recipe_of(**SETTINGS)
    assert recipe.recover.optimiser == SETTINGS["recover.optimiser"]
    assert "delt_example.optimisers" not in sys.modules  # until it is used
    for setting, value in SETTINGS.items():
        group = plugins.group_of(setting)
        name = value[0].partition("=")[0] if isinstance(value, tuple) else value
        assert plugins.named(group) == [name]
        found = plugins.find(group, name, {})
        (entry,) = plugins.names(group)
        plugins.allow(group, entry)
        assert plugins.find(group, entry, {}) is found


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere:X", r"there is no module nowhere; install its package"),
        ("delt_example.nowhere:X", r"no module delt_example\.nowhere"),
        ("delt_example.terms:COLOUR", r"has no COLOUR.*did you mean COLOURS\?"),
        ("delt_example.terms:prepare", r"must be a delt_jax\.terms\.Term, but is a function"),
        ("colour", r"no term 'colour'.*did you mean colours\?"),
    ],
)
def test_what_cannot_be_had_is_said(package, name, sentence):
    with pytest.raises(UserError, match=sentence):
        recipe_of(**{"recover.terms": (name,)})


def test_a_part_that_fails_is_named(package):
    (package / "delt_example/broken.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(UserError, match="cannot be imported: ModuleNotFoundError: No module named"):
        recipe_of(**{"recover.terms": ("delt_example.broken:X",)})


@pytest.mark.parametrize("name", ["delt_example.nets:PlainNet", "plain_net"])
def test_what_no_setting_names_is_not_imported(package, name):
    """As the manifest of a foreign teacher may have it."""
    with pytest.raises(UserError, match="is a plug-in that no setting of this run names"):
        create_model(ModelSpec(name, 3, 8, 1))
    versions({f"model.{name}": 1})
    assert "delt_example" not in sys.modules


def test_built_in_names_win_and_a_clash_is_said(package, capsys):
    (package / "more").mkdir()
    named = {"name": "another", "version": "2.0"}
    entries = {"delt_jax.terms": {"barycentre": "delt_example.terms:COLOURS"}}
    declare(package / "more", named | {"entry-points": entries})
    sys.path.insert(0, str(package / "more"))
    try:
        recipe = recipe_of(**{"recover.terms": ("barycentre",)})
        assert terms.find("barycentre").reads_images
        assert terms.find("barycentre") is not plugins.find(plugins.TERMS, "barycentre", {})
        assert terms.parts("barycentre", recipe) == {"term.barycentre": 1}
        assert versions({"term.barycentre": 1}) == {}
    finally:
        sys.path.remove(str(package / "more"))
    assert capsys.readouterr().out.count("'barycentre' is delt_jax's own; that of the package") == 1


def test_a_name_of_two_packages_is_no_name(package):
    (package / "more").mkdir()
    entries = {"delt_jax.terms": {"colours": "delt_example.other:COLOURS"}}
    named = {"name": "another", "version": "2.0", "entry-points": entries}
    declare(package / "more", named)
    sys.path.append(str(package / "more"))
    try:
        recipe_of(**{"recover.terms": ("barycentre",)})
        with pytest.raises(UserError, match=r"delt_example\.terms:COLOURS.*both have a term 'colo"):
            recipe_of(**{"recover.terms": ("colours",)})
    finally:
        sys.path.remove(str(package / "more"))


def test_sources_are_part_of_identities(package):
    name = "term.colours"
    recipe_of(**{"recover.terms": ("colours",)})
    (first,) = versions({name: 1}).values()
    assert part_sources.of_plugins() == {name: first}
    folder = package / "delt_example"
    text = (folder / "terms.py").read_text()
    edits = {
        "# A word.\n" + text: True,
        text.replace("off**2", "off**4"): False,
        text.replace("import Term\n", "import Term\nfrom delt_example import helpers\n"): False,
        text + "\nVERSION = 1\n": None,
    }
    (folder / "helpers.py").write_text("A = 1\n")
    for edited, is_same in edits.items():
        (folder / "terms.py").write_text(edited)
        forget()
        recipe = recipe_of(**{"recover.terms": ("colours",)})
        found = versions(terms.parts("colours", recipe))
        if is_same is None:
            assert found == {}
        else:
            assert (list(found.values()) == [first]) is is_same


def test_a_version_of_its_own_counts(package):
    with open(package / "delt_example/terms.py", "a") as f:
        f.write("\nVERSION = 3\n")
    recipe = recipe_of(**{"recover.terms": ("colours",)})
    assert versions(terms.parts("colours", recipe)) == {"version of term.colours": 3}


def test_what_is_imported_anew_is_refused(package):
    recipe_of(**{"recover.terms": ("colours",)})
    del sys.modules["delt_example.terms"]
    with pytest.raises(UserError, match="was imported anew"):
        terms.find("colours")


def test_rules_must_permute(package):
    (package / "delt_example/odd.py").write_text("def odd(p, draw):\n    return [0] * len(p)\n")
    recipe_of(**{"select.rule": "delt_example.odd:odd"})
    with pytest.raises(UserError, match="must return a permutation of the 4 images"):
        selection.order([0.1, 0.2, 0.3, 0.4], "delt_example.odd:odd", None)
    recipe_of(**{"select.rule": "ends"})
    order = selection.order(np.array([0.3, 0.1, 0.2, 0.5, 0.4]), "ends", None)
    assert order.tolist() == [1, 3, 2, 4, 0]


def test_protocols_must_be_known(package):
    setting = protocols.EvalSetting("conv3", 10, 1, 32)
    recipe_of(**{"evaluate.protocol": "brief"})
    assert protocols.named("brief", setting).epochs == 100
    (package / "delt_example/odd.py").write_text(
        "from dataclasses import replace\n"
        "from delt_jax.training.protocols import named\n"
        "def odd(s):\n    return replace(named('delt', s), schedule='linear')\n"
    )
    recipe_of(**{"evaluate.protocol": "delt_example.odd:odd"})
    with pytest.raises(UserError, match="has schedule 'linear', not one of half_cosine"):
        protocols.named("delt_example.odd:odd", setting)


def test_data_come_from_outside(package):
    recipe = recipe_of(**{"data.name": "stripes", "data.validation_share": 0.25}).data
    source = open_source(recipe)
    assert (source.name, len(source.train), len(source.test)) == ("stripes", 120, 40)
    with pytest.raises(UserError, match=r"has image_size 8, but data\.image_size is 16"):
        open_source(DataRecipe(name="stripes", image_size=16))


def test_starts_say_what_they_read(package):
    recipe = recipe_of(**{"select.start": "blended"})
    assert initial_images.reads_training_images("blended")
    assert list(initial_images.parts(recipe, None)) == ["start.blended"]
    assert isinstance(recipe, Recipe)


def test_further_teachers_come_from_outside(package):
    others = ("plain_net:12", "delt_example.nets:PlainNet", "conv3:8")
    alone = ensemble.recipes(recipe_of(**{"teacher.others": others}))
    models = [(name, one.teacher.model, one.teacher.width) for name, one in alone.items()]
    assert models == [
        ("plain_net_12", "plain_net", 12),
        ("delt_example.nets:PlainNet", "delt_example.nets:PlainNet", 0),
        ("conv3_8", "conv3", 8),
    ]
    with pytest.raises(UserError, match=r"nor an architecture; did you mean plain_net\?"):
        ensemble.recipes(recipe_of(**{"teacher.others": ("plain_nett",)}))


def test_methods_come_from_outside(package, tmp_path):
    found = methods.find(str(tmp_path / "recipe.py"))
    assert found["coloured"] == package / "delt_example/methods/coloured.py"
    config = config_lib.default_config()
    named = "delt_example.methods.coloured:settings"
    config_lib.vary(config, named, {}, str(tmp_path / "recipe.py"))
    assert config.evaluate.protocol == "brief"
    with pytest.raises(UserError, match="is no variant of this recipe; did you mean coloured"):
        config_lib.vary(config, "colourd", {}, str(tmp_path / "recipe.py"))
    found["coloured"].unlink()
    plugins.forget()
    assert "coloured" not in methods.find(str(tmp_path / "recipe.py"))
    with pytest.raises(UserError, match=r"no module delt_example\.methods\.coloured"):
        config_lib.vary(config, "coloured", {}, str(tmp_path / "recipe.py"))
