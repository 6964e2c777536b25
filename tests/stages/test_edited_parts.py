"""What a stage makes depends on the code that makes it: edited parts are made again."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import tiny

from delt_jax.config import derive, from_config
from delt_jax.data import open_source
from delt_jax.stages import evaluate, pipeline, rank, recover, relabel, squeeze
from delt_jax.store import files, part_sources
from delt_jax.store.workdir import WorkDir, changes


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """Changes a file of a copy of the package."""
    folder = tmp_path / "delt_jax"
    source = Path(part_sources.__file__).parents[1]
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(f"{part_sources.__name__}._PACKAGE", folder)

    def append(file):
        with open(folder / file, "a", encoding="utf-8") as f:
            f.write("\nMORE = 1\n")
        part_sources.digest.cache_clear()
        part_sources.statements.cache_clear()

    yield append
    part_sources.digest.cache_clear()
    part_sources.statements.cache_clear()


@pytest.fixture
def made(tiny_ranked):
    """A recipe with its data and a work directory whose later stages are only described."""
    folder = tiny_ranked.parent / "described"
    if not folder.exists():
        shutil.copytree(tiny_ranked, folder)
        common = {"inputs": {}, "hash": "0", "class_names": ["0", "1"]}
        own = {
            "distilled": {"ipc": 1, "storage": "png"},
            "soft_labels": {"distilled": "0", "bytes": 0},
        }
        for name, entries in own.items():
            (folder / name).mkdir()
            files.write_json(folder / name / "manifest.json", common | entries)
    config = tiny(**{"recover.terms": ("class_bn=10",), "evaluate.images": ("recovered", "kmeans")})
    recipe = from_config(config)
    source = open_source(recipe.data)
    return derive.complete(recipe, source)[0], source, WorkDir(folder)


@pytest.mark.parametrize(
    ("file", "part", "stages"),
    [
        ("terms/class_bn.py", "term.class_bn", [recover]),
        ("recovery/residual.py", "recovery.step", [recover]),
        ("recovery/initial_images.py", "start.real", [recover]),
        ("models/convnet.py", "model.conv3", [squeeze, rank, recover, relabel, evaluate]),
        ("training/student_step.py", "protocol.delt", [evaluate]),
        ("augment/mix.py", "augment.cutmix", [evaluate]),
        ("evaluation/coresets.py", "coreset.kmeans", [evaluate]),
    ],
)
def test_the_stages_that_use_a_part_are_redone(made, edit, file, part, stages):
    every = (squeeze, rank, recover, relabel, evaluate)
    before = {stage: stage.inputs(*made) for stage in every}
    assert not any(changes(before[stage], stage.inputs(*made)) for stage in every)
    edit(file)
    redone = {stage: changes(before[stage], stage.inputs(*made)) for stage in every}
    for stage in every:
        assert redone[stage] == ([f"source of {part} is new"] if stage in stages else [])


def test_only_what_uses_a_part_of_a_new_version_is_redone(made):
    recipe, source, workdir = made

    def inputs(stage, **changes):
        part = stage.__name__.rpartition(".")[2]
        changed = replace(getattr(recipe, part), **changes)
        return stage.inputs(replace(recipe, **{part: changed}), source, workdir)

    def versions(found):
        return [name for name in found if name.startswith("version of")]

    terms = ("global_statistics=1",)
    assert versions(inputs(recover, conv_drop=0.4)) == []  # no term of the recipe drops any
    assert versions(inputs(recover, terms=terms)) == []
    dropped = inputs(recover, terms=terms, conv_drop=0.4)
    assert versions(dropped) == ["version of statistics.conv_drop"]
    assert versions(inputs(evaluate)) == []
    assert versions(inputs(evaluate, ema=0.9)) == ["version of training.ema"]
    assert versions(inputs(evaluate, hard_weight=0.1)) == ["version of training.own_class"]
    assert versions(inputs(evaluate, hard_weight=0.1, regimes=("hard",))) == []
    # IPC 3: batches of 6 cut no class in either layout, batches of 7 do.
    before = inputs(recover)
    assert changes(before, inputs(recover, layout="whole_classes")) == []
    other = inputs(recover, layout="whole_classes", batch_size=7)
    assert "recover.layout" in str(changes(inputs(recover, batch_size=7), other))


def test_the_user_reads_which_part_is_another(made, edit):
    edit("models/convnet.py")
    needed, why = pipeline.status(pipeline.STAGES[0], *made)
    assert needed
    assert why == "redone because source of model.conv3 is new"


def test_an_edited_term_keeps_its_constants_apart(made, edit, monkeypatch):
    recipe, source, workdir = made
    caches = []
    term = recover.terms.find("class_bn")
    watched = term._replace(prepare=lambda *a: caches.append(a[3]) or term.prepare(*a))
    monkeypatch.setattr(recover.terms, "find", lambda name: watched)
    partial = workdir.path / "distilled.partial"
    partial.mkdir(exist_ok=True)
    recover.task_of(recipe, source, workdir, partial)
    edit("terms/class_bn.py")
    recover.task_of(recipe, source, workdir, partial)
    assert caches[0] == workdir.path / "cache"
    assert caches[1].parent == caches[0]
