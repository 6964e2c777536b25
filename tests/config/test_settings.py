"""What the fields say about settings, and what is made of it: inputs, sameness and the page."""

import re
import shlex
from pathlib import Path

import pytest

from delt_jax import terms
from delt_jax.config import cli, default_config, from_config, overrides, page
from delt_jax.data import open_source
from delt_jax.recipe import REMOVED, SETTINGS, Recipe, TeacherRecipe, affecting, choices
from delt_jax.recipe.fields import RESULTS, SIDE_EFFECTS, at_least, setting, within
from delt_jax.recovery import initial_images
from delt_jax.recovery.schedule import LAYOUTS
from delt_jax.stages import squeeze
from delt_jax.store import files
from delt_jax.store.workdir import WorkDir, as_json, changes

DOCS = Path(__file__).parents[2] / "docs"
NUMBERS = [name for name, s in SETTINGS.items() if s.kind in (int, float)]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_says_what_it_means_and_affects(name):
    described = SETTINGS[name]
    assert re.fullmatch(r"(?s)[A-Z\"r].{8,}\.", described.meaning)
    assert "|" not in described.meaning  # would end a cell of the page
    results = set(described.affects) & RESULTS.keys()
    side_effects = set(described.affects) & SIDE_EFFECTS.keys()
    assert bool(results) != bool(side_effects)
    assert results | side_effects == set(described.affects)


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_range(name):
    described = SETTINGS[name]
    assert described.allowed is not None
    assert described.default is None or described.allowed.problem(described.default) is None


def test_a_setting_must_affect_something_known():
    with pytest.raises(ValueError, match=r"cannot affect \['colour'\]"):
        setting(0, "Nothing.", affects="colour")
    with pytest.raises(ValueError, match="cannot affect"):
        setting(0, "Nothing.", affects=())


def test_ranges_in_words():
    assert str(at_least(2)) == "at least 2"
    assert str(within(0, 1, "(]")) == "in (0, 1]"
    assert within(0, 1, "(]").problem((0.5, 1, 0)) == "must be in (0, 1], not 0"


@pytest.mark.parametrize(
    ("name", "kind", "element"),
    [
        ("recover.iterations", int, None),
        ("relabel.temperature", float, None),
        ("relabel.mix", str, None),
        ("data.mean", tuple, float),
        ("evaluate.smaller", tuple, int),
        ("recover.terms", tuple, str),
    ],
)
def test_types_come_from_annotations(name, kind, element):
    assert (SETTINGS[name].kind, SETTINGS[name].element) == (kind, element)


def test_choices_are_those_of_the_code():
    assert choices("recover.layout") == tuple(LAYOUTS)
    assert choices("recover.iterations") == ()
    for start in choices("select.start"):
        assert initial_images.version(start) >= 1
    for term in ("global_statistics", "class_statistics"):  # which meanings name
        assert term in terms.names()


def test_the_page_is_up_to_date():
    """Otherwise: python -m delt_jax.config.page > docs/settings.md."""
    assert (DOCS / "settings.md").read_text() == page.page()


def test_the_page_has_every_setting_and_links_to_pages_that_exist():
    text = page.page()
    for name in SETTINGS:
        assert f"| `{name.rpartition('.')[2]}` |" in text
    assert all((DOCS / link).exists() for link in re.findall(r"\]\((\w+\.md)", text))


# --- inputs ---


@pytest.mark.parametrize(
    ("result", "group", "left_out"),
    [
        ("images", "recover", "batches_per_device chunk_steps profile_chunks save_minutes"),
        ("scores", "evaluate", "keep_students save_minutes scores_folder seeds_at_once"),
        ("scores", "relabel", ""),
        ("teacher", "teacher", ""),
        ("report", "report", ""),
    ],
)
def test_inputs_leave_out_what_has_no_effect(result, group, left_out):
    every = {name for name in SETTINGS if name.startswith(f"{group}.")}
    without = {f"{group}.{name}" for name in left_out.split()}
    assert affecting(result, Recipe(), group).keys() == every - without


def test_a_setting_that_inputs_do_not_name_has_its_default():
    old = {"recover.iterations": 400, "data": "x"}
    new = old | {name: SETTINGS[name].default for name in ("recover.terms", "recover.dtype")}
    assert changes(old, new) == changes(new, old) == []
    assert changes(old, new | {"recover.dtype": "bfloat16"}) == ["recover.dtype is new"]
    assert changes(new | {"recover.dtype": "bfloat16"}, old) == ["recover.dtype is gone"]
    assert changes(old, old | {"ranking": None}) == ["ranking is new"]  # is no setting


@pytest.mark.parametrize("name", REMOVED)
def test_removed_settings_are_understood(name):
    assert name not in SETTINGS
    assert changes({"data": "x", name: REMOVED[name]}, {"data": "x"}) == []
    assert changes({"data": "x", name: 3}, {"data": "x"}) == [f"{name} is gone"]


def test_unfinished_work_goes_on_when_settings_come_and_go(tmp_path):
    old = {"recover.iterations": 4, "recover.antialias": True}
    folder = WorkDir(tmp_path).partial("distilled", old)
    (folder / "part").write_text("x")
    new = {"recover.iterations": 4, "recover.residual": 0.0}
    assert (WorkDir(tmp_path).partial("distilled", new) / "part").exists()
    other = new | {"recover.residual": 0.5}
    assert not (WorkDir(tmp_path).partial("distilled", other) / "part").exists()


def test_a_teacher_is_made_whatever_settings_came_later(tmp_path):
    recipe = Recipe(teacher=TeacherRecipe(epochs=1))
    inputs = squeeze.parts(recipe, open_source(recipe.data))["teacher"]
    held = as_json(inputs) | {"teacher.others": ["conv3 0123"]}
    del held["teacher.momentum"]
    (tmp_path / "teacher").mkdir()
    manifest = {
        "inputs": held,
        "hash": "0",
        "spec": {"name": "conv3", "num_classes": 10, "image_size": 8, "channels": 1},
        "normalisation": {"mean": [0.5], "std": [0.5]},
        "class_names": [str(i) for i in range(10)],
        "accuracy": 0.9,
    }
    files.write_json(tmp_path / "teacher/manifest.json", manifest)
    assert squeeze.is_made(WorkDir(tmp_path), "teacher", inputs)
    assert not squeeze.is_made(WorkDir(tmp_path), "teacher", inputs | {"teacher.momentum": 0.5})
    assert not squeeze.is_made(WorkDir(tmp_path), "teachers/conv3", inputs)


def test_the_flags_that_the_page_shows_are_read():
    shown = re.findall(r"`(--config\.[^`]+)`", page.page())
    given = [shlex.split(flag)[0] for flag in shown]
    file = DOCS.parent / "configs/digits.py"
    recipe = from_config(cli.parse(["main", f"--config={file}", "--workdir=x", *given]).config)
    assert recipe.recover.iterations == 2000
    assert recipe.recover.terms == ("class_bn=10", "barycentre=1")
    assert recipe.evaluate.students == ("conv3", "conv4")
    assert recipe.evaluate.smaller == (1, 5)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("student_steps=20,expert_rate=0.1", ("student_steps=20", "expert_rate=0.1")),
        ("student_steps=20, experts=3", ("student_steps=20", "experts=3")),
        ("'student_steps=20','experts=3'", ("student_steps=20", "experts=3")),
        ("('experts=3',)", ("experts=3",)),
        ("experts=3", ("experts=3",)),
    ],
)
def test_options_are_read_as_people_write_them(text, read):
    flag = f"--config.learn.options={text}"
    file = DOCS.parent / "configs/digits.py"
    found = from_config(cli.parse(["main", f"--config={file}:mtt", "--workdir=x", flag]).config)
    assert found.learn.options == read
    recipe = from_config(overrides.parse(default_config(), [flag]))
    assert recipe.learn.options == read
