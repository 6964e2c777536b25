"""Baselines among the sets that students learn from; those of the pipeline: test_pipeline.py."""

import shutil
from types import SimpleNamespace

import chex
import numpy as np
import pytest
from tiny_run import tiny

from delt_jax import config
from delt_jax.data import open_source
from delt_jax.evaluation import coresets
from delt_jax.evaluation.training_sets import TrainingSets
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import teacher as teacher_lib


@pytest.mark.parametrize("name", ["herding", "kmeans"])
def test_coresets_are_found_once(tiny_ranked, tmp_path, monkeypatch, name):
    workdir = WorkDir(shutil.copytree(tiny_ranked, tmp_path / "run"))
    recipe = config.from_config(tiny(**{"evaluate.regimes": ("hard",)}))
    source, teacher = open_source(recipe.data), teacher_lib.load(workdir.path / "teacher")
    monkeypatch.setattr(TrainingSets, "distilled", SimpleNamespace(preprocessing=None))
    sets = TrainingSets(recipe, source, workdir, (teacher,))
    ours = sets.get(name, 3, 0)
    features = teacher_lib.features_of(teacher, source.train.pixels)
    expected = getattr(coresets, name)(features, source.train.labels, 3, 10)
    chex.assert_trees_all_equal(ours.images.pixels, source.train.pixels[expected.reshape(-1)])
    chex.assert_trees_all_equal(ours.images.labels, np.repeat(np.arange(10, dtype=np.int32), 3))
    assert sets.get(name, 3, 1) is ours  # one for all students

    (file,) = (workdir.path / "cache").glob(f"{name}-*.npz")
    with monkeypatch.context() as m:
        m.setattr(teacher_lib, "features_of_examples", None)
        assert TrainingSets(recipe, source, workdir, (teacher,)).get(name, 3, 0).hash == ours.hash
    file.write_bytes(file.read_bytes()[:50])
    assert TrainingSets(recipe, source, workdir, (teacher,)).get(name, 3, 0).hash == ours.hash
    fewer = sets.get(name, 1, 0)
    assert len(fewer.images.labels) == 10
