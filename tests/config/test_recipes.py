"""Recipes by name and by path, methods beside either, and the two commands about them."""

import os
import runpy
from pathlib import Path

import pytest

from delt_jax.config import cli, from_config, listing, methods, new, origins, paths, recipes
from delt_jax.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder outside the checkout, in which the test is."""
    recipes.tell_of.cache_clear()  # what is said once is said here again
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parsed(*arguments):
    return cli.parse(["delt_jax run", *arguments, "--workdir=runs/x"])


def test_a_name_is_a_packaged_recipe_wherever_one_is(elsewhere, capsys):
    asked = parsed("--config", "imagenet:cda,ipc10")
    assert from_config(asked.config).ipc == 10
    assert asked.command == (
        "python -m delt_jax.main --config=imagenet:cda,ipc10 --workdir=runs/x"
    )  # which runs anywhere again
    found = origins.of(asked.command, from_config(asked.config))
    assert found["recover.layout"].startswith("cda, published")
    assert found["teacher.model"] == "recipe imagenet"
    assert capsys.readouterr().out == ""


def test_a_file_wins_only_if_it_is_written_as_a_path(elsewhere, capsys):
    (elsewhere / "digits.py").write_text((ROOT / "configs/mnist.py").read_text())
    (elsewhere / "plain").write_text((ROOT / "configs/mnist.py").read_text())
    assert from_config(parsed("--config=digits").config).data.name == "digits"
    assert "the file here is --config=digits.py" in capsys.readouterr().out
    parsed("--config=digits")  # said once
    for written in ("digits.py", "./digits.py", "./plain"):
        assert from_config(parsed(f"--config={written}").config).data.known_as == "mnist"
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match=r"no recipe of this name; the file here is --config=./pl"):
        recipes.find("plain")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("imagnet", "no such recipe; did you mean imagenet? `delt_jax configs` lists the recipes."),
        ("xyzzy", "no such recipe. `delt_jax configs` lists the recipes."),
        ("methods/cda.py", "no such file; `delt_jax configs` lists the recipes."),
        ("configs/digits.py", "no such file; did you mean --config=digits?"),
    ],
)
def test_a_recipe_that_is_not_there(elsewhere, text, sentence):
    with pytest.raises(UserError) as e:
        recipes.find(text)
    assert str(e.value) == f"--config={text}: there is {sentence}"


def test_installed_recipes_come_before_those_of_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr("delt_jax.__file__", str(tmp_path / "delt_jax/__init__.py"))
    assert paths.packaged_recipes() == tmp_path / "configs"
    (tmp_path / "delt_jax/configs").mkdir(parents=True)
    assert paths.packaged_recipes() == tmp_path / "delt_jax/configs"


def test_methods_beside_a_recipe_come_before_delt_jaxs(tmp_path):
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods/cda.py").write_text(
        "from delt_jax.config.methods import ours, sibling\n\n\ndef settings(data):\n"
        "    return sibling(__file__, 'sre2l', data) | ours({'recover.jitter': 3})\n"
    )
    found = methods.find(str(tmp_path / "mine.py"))
    assert found.keys() == methods.find(str(ROOT / "configs/x.py")).keys()
    assert found["cda"] == tmp_path / "methods/cda.py"
    settings = methods.read(found["cda"], methods.DataKind("imagenet", 224, "resnet18"))
    assert settings["recover.jitter"].value == 3
    assert "SRe2L" in settings["recover.learning_rate"].source


def test_a_new_recipe_takes_presets_and_methods(elsewhere, capsys):
    assert new.main(["new", "mine.py"]) == 0
    assert "--config=mine.py --workdir=runs/mine" in capsys.readouterr().out
    recipe = from_config(parsed("--config=mine.py:large,cda").config)
    assert (recipe.ipc, recipe.recover.layout) == (10, "one_per_class")
    assert new.main(["new", "--from=imagenet", "copy.py"]) == 0
    assert from_config(parsed("--config=copy.py:ipc1").config).ipc == 1
    assert new.main(["new", "mine.py"]) == 1
    assert new.main(["new", "mine"]) == new.main(["new", "a.py", "--from=imagnet"]) == 2
    errors = capsys.readouterr().err
    assert all(w in errors for w in ("is there already", "must end in .py", "mean imagenet?"))
    assert sorted(os.listdir(elsewhere)) == ["copy.py", "mine.py"]


def test_recipes_and_methods_are_listed_with_a_sentence(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    assert listing.main(["configs"]) == 0
    text = capsys.readouterr().out
    for path in (ROOT / "configs").rglob("[!_]*.py"):
        assert f"\n  {path.stem} " in text
        presets = runpy.run_path(str(path)).get("PRESETS", {})
        assert not presets or f"Presets: {', '.join(presets)}." in " ".join(text.split())
    assert max(map(len, text.splitlines()[:-1])) <= 100
