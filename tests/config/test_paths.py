"""Every setting and flag that names a place: what it takes, and the one sentence for the rest."""

import re
from pathlib import Path

import pytest
from tiny_run import tiny

import delt_jax
from delt_jax import main
from delt_jax.config import from_config, paths
from delt_jax.errors import UserError
from delt_jax.recipe import SETTINGS
from delt_jax.store import remote

# A new setting or flag of text must be sorted here before it can be used.
READ = {
    "data.path": {"data.name": "folder"},
    "data.classes": {"data.name": "classes", "data.image_size": 8, "data.channels": 1},
    "teacher.weights": {"data.mean": (0.5,), "data.std": (0.5,)},
    "teacher.others": {},
    "select.pictures": {"select.start": "pictures"},
    "select.set": {"select.start": "set"},
    "relabel.teachers": {},
    "report.second_teacher": {},
}
LOCAL = {"evaluate.scores_folder"}
NO_PATHS = {
    *("data.dataset", "data.class_names", "teacher.model", "recover.terms"),
    *("relabel.rand_augment", "relabel.dsa", "evaluate.students"),
    *("learn.method", "learn.model", "learn.augment", "learn.options"),
}
FLAGS = {
    "here or in a store": {"out", "class_names", "preprocessing"},
    "here": {"workdir", "config", "configs"},
    "in a store": {"mirror"},
    "no path": {"stages", "coordinator_address", "mean", "std", "ipc", "from", "push"},
}


def test_every_setting_of_text_is_sorted():
    texts = {n for n, s in SETTINGS.items() if str in (s.kind, s.element) and not s.choices}
    assert texts == READ.keys() | LOCAL | NO_PATHS


def test_every_flag_of_text_is_sorted():
    package = Path(delt_jax.__file__).parent
    defined = re.compile(r'DEFINE_(?:string|list|config_file)\(\s*"(\w+)"')
    found = {name for path in package.rglob("*.py") for name in defined.findall(path.read_text())}
    assert found == set().union(*FLAGS.values())


def with_value(name, text):
    value = (text,) if SETTINGS[name].kind is tuple else text
    return tiny(**{name: value, **READ.get(name, {})})


def value_of(recipe, name):
    group, field = name.split(".")
    value = getattr(getattr(recipe, group), field)
    return value[0] if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", [*READ, *LOCAL])
def test_settings_take_what_they_can_read(name, bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for text, path in (("~/a b", f"{tmp_path}/a b"), ("file:///a%20b", "/a b"), ("x/y", "x/y")):
        assert value_of(from_config(with_value(name, text)), name) == path
    for url in ("GS://bucket/a b/", "s3://bucket/x"):
        if name in READ:
            wanted = re.sub("^GS", "gs", url).rstrip("/")
            assert value_of(from_config(with_value(name, url)), name) == wanted
        else:
            with pytest.raises(UserError, match=f"^{name} {url} is a URL, and .*local folder"):
                from_config(with_value(name, url))
    for url in ("https://a.b/c", "az://c/d", "hf://o/n", "gs://", "gs:///x", "hf:o/n", "pkg:p/x"):
        if (name, url) in (("teacher.weights", "pkg:p/x"), ("data.path", "hf:o/n")):
            continue
        if (name, url) == ("teacher.weights", "hf:o/n"):
            continue
        with pytest.raises(UserError, match=f"^{name} {url} .*[.]$"):
            from_config(with_value(name, url))


@pytest.mark.parametrize("name", list(READ))
def test_what_is_missing_there_is_looked_for_there(name, bucket, tmp_path):
    with pytest.raises(UserError, match="gs://bucket/none"):
        main.run(with_value(name, "gs://bucket/none"), str(tmp_path / "run"), dry_run=True)
    assert bucket.calls


def test_a_scheme_without_its_library_names_the_extra(bucket, monkeypatch):
    import fsspec

    def filesystem(scheme, **options):
        raise ImportError(f"Please install {scheme}fs")

    monkeypatch.setattr(fsspec, "filesystem", filesystem)
    for url, extra in (("gs://b/x", "gcs"), ("s3://b/x", "s3")):
        needs = rf"{url} needs what is not installed here: pip install 'delt_jax\[{extra}\]'[.]$"
        remote.forget()
        with pytest.raises(UserError, match=f"^data.path {needs}"):
            from_config(with_value("data.path", url))
        with pytest.raises(UserError, match=f"^--out {needs}"):
            paths.expand(url, "--out")
        with pytest.raises(UserError, match=f"^--mirror {needs}"):
            paths.expand_mirror(url)


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://b/r", "https://a.b/run"])
def test_what_runs_lock_and_rename_is_local(url, bucket):
    kept = url if remote.is_remote(url) else "gs://a.b/run"
    with pytest.raises(UserError, match=rf"^--workdir {url} is a URL, .*--mirror={kept} .*[.]$"):
        paths.expand_workdir(url)
    with pytest.raises(UserError, match=f"^--config {url} is a URL, and a recipe is a file"):
        paths.expand_recipe(f"{url}:cda", "--config")
    assert paths.expand_recipe("a.py:folder=gs://b/x", "--config") == "a.py:folder=gs://b/x"
    with pytest.raises(UserError, match=r"^--mirror \./here is a local path"):
        paths.expand_mirror("./here")
