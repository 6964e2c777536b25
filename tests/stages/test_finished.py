"""What a run returns of an imported set, which none of its stages makes."""

import numpy as np
import pytest
from tiny_run import tiny

import delt_jax
from delt_jax.config import derive, from_config
from delt_jax.data import open_source
from delt_jax.recipe import DataRecipe
from delt_jax.stages import finished
from delt_jax.store.workdir import WorkDir

STAGES = ["squeeze", "relabel", "evaluate", "report"]
ASKED = {
    "ipc": 1,
    "teacher.epochs": 4,
    "evaluate.regimes": ("hard",),
    "evaluate.images": ("recovered", "random"),
    "evaluate.batch_size": 10,
    "evaluate.seeds": 1,
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A work directory with a set of real digits, and what a run on it returned."""
    place = tmp_path_factory.mktemp("imported")
    source = open_source(DataRecipe("digits"))
    first = np.array([np.flatnonzero(source.train.labels == c)[0] for c in range(10)])
    np.savez(place / "set.npz", images=source.train.images(first), labels=np.arange(10))
    folder = place / "run"
    delt_jax.export_set(place / "set.npz", "distilled", folder / "distilled")
    return folder, delt_jax.run(tiny(**ASKED), folder, stages=STAGES)


def test_a_run_on_an_imported_set_returns_what_it_made(imported):
    folder, result = imported
    assert list(result.manifests) == ["squeeze", "recover", "relabel", "evaluate", "report"]
    assert {row.image_set for row in result.scores} == {"recovered", "random"}
    assert result.report == folder / "report/report.html"
    assert len(result.load().images) == 10


def test_a_ranking_counts_where_it_is_read_and_damage_always(imported):
    folder, _ = imported
    source = open_source(DataRecipe("digits"))

    def done(**changes):
        recipe, _ = derive.complete(from_config(tiny(**ASKED | changes)), source)
        return list(finished.done(recipe, source, WorkDir(folder)))

    assert done(**{"evaluate.images": ("recovered", "selected")}) == ["squeeze"]
    next((folder / "distilled").rglob("*.png")).write_bytes(b"")
    assert done() == ["squeeze"]
