"""A package from outside, with every kind of part, does a whole run without touching delt_jax."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from outside import PACKAGE, installed
from tiny_run import losses_of, manifest, read_json, stop_after, tiny

from delt_jax import config as config_lib
from delt_jax import main
from delt_jax.core import plugins
from delt_jax.core.stopping import Stopped
from delt_jax.errors import UserError
from delt_jax.formats import distilled
from delt_jax.runtime import devices
from delt_jax.stages import pipeline

DIGITS = str(Path(config_lib.__file__).parents[2] / "configs" / "digits.py")


def coloured(**changes):
    """The package's method on the smallest of runs."""
    config = tiny()
    config_lib.vary(config, "coloured", {}, DIGITS)
    with config.unlocked():
        config.update_from_flattened_dict(
            {
                "teacher.width": 8,
                "evaluate.students": ("plain_net",),
                "evaluate.regimes": ("online",),
                "evaluate.images": ("recovered", "selected"),
                "evaluate.seeds": 1,
                "evaluate.keep_students": True,
                **changes,
            }
        )
    return config


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site-packages")
    with installed(folder):
        yield folder


@pytest.fixture(scope="module")
def finished(package, tmp_path_factory):
    """A finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("coloured")
    main.run(coloured(), str(folder))
    return folder


def test_a_whole_run(finished):
    made = manifest(finished)
    assert made["teacher"]["spec"]["name"] == "plain_net"
    assert made["teacher"]["accuracy"] > 0.3
    assert made["start"] == {"given": "start_images.npz"}
    assert made["inputs"]["recover.optimiser"] == "lion"
    losses = losses_of(finished)
    np.testing.assert_allclose(losses["further"], 0.1 * losses["term.colours"], rtol=1e-6)
    assert "term.colours" in (finished / "metrics.jsonl").read_text()
    rows = read_json(finished / "evaluation/manifest.json")["rows"]
    assert [row["student"] for row in rows] == ["plain_net"] * 2
    assert all(row["protocol"].startswith("brief with ") for row in rows)
    assert (finished / "report").is_dir()


def test_the_images_moved_from_their_starts(finished):
    images = distilled.read(finished / "distilled").images
    with np.load(finished / "distilled/start_images.npz") as stored:
        assert stored["images"].shape == images.shape
        off = np.abs(images.astype(int) - stored["images"])
    assert 0 < off.mean() < 64


def test_what_is_done_stays(finished, capsys):
    main.run(coloured(), str(finished))
    said = [line for line in capsys.readouterr().out.splitlines() if ": done, " in line]
    assert [line.split(":")[0] for line in said] == [
        stage.name for stage in pipeline.of_recipe(config_lib.from_config(coloured()))
    ]


def test_a_kill_changes_nothing(finished, tmp_path, monkeypatch):
    """Recovery on other device counts, stopped and resumed, gives the same bits."""
    begun = tmp_path / "begun"
    shutil.copytree(finished, begun)
    shutil.rmtree(begun / "distilled")
    with monkeypatch.context() as m:
        stop_after(m, 3)
        with pytest.raises(Stopped):
            main.run(coloured(), str(begun), ["recover"])
    monkeypatch.setattr(devices, "device_count", lambda: 1)
    main.run(coloured(), str(begun), ["recover"])
    ours, whole = (distilled.read(folder / "distilled").images for folder in (begun, finished))
    np.testing.assert_array_equal(ours, whole)
    np.testing.assert_array_equal(
        losses_of(begun)["term.colours"], losses_of(finished)["term.colours"]
    )


def test_an_edited_part_makes_its_stage_run_again(finished, package, tmp_path, capsys):
    shutil.copytree(package / "delt_example", tmp_path / "delt_example")
    source = tmp_path / "delt_example/terms.py"
    source.write_text(source.read_text().replace("off**2", "2 * off**2"))
    with installed(tmp_path):
        main.run(coloured(), str(finished), ["recover"], dry_run=True)
    said = capsys.readouterr().out
    assert "source of term.colours was" in said


def test_a_file_imports_nothing(finished, tmp_path):
    """The teacher's manifest names a plug-in, and this run's recipe does not."""
    changes = {"teacher.weights": str(finished / "teacher"), "teacher.model": "conv3"}
    plugins.forget()
    config = tiny(**changes)
    with pytest.raises(UserError, match=r"'plain_net' is a plug-in that no setting of this run"):
        main.run(config, str(tmp_path), dry_run=True)
    assert not plugins.named(plugins.MODELS)


def test_the_docs_show_the_package():
    page = (PACKAGE.parents[2] / "docs/extending.md").read_text()
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "__init__.py":
            assert path.read_text().strip() in page, path.name
    assert (PACKAGE / "pyproject.toml").read_text().strip() in page
