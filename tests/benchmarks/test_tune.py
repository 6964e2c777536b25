"""benchmarks/tune.py: which trial is the best, what goes to the test images, its tables."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import tune
import tune_trials

from delt_jax.errors import UserError
from delt_jax.store import files


def rows_of(trial, online, hard, images="recovered"):
    """Results of a trial, one for each kind of labels."""
    lasts = {"online": online, "hard": hard}
    same = {"trial": trial, "images": images, "last_std": 0.01, "cpu_minutes": 1.5}
    made = {"machine": "two cores", "date": "2026-11-27"}
    return [same | made | {"labels": name, "last_mean": last} for name, last in lasts.items()]


@pytest.fixture
def results():
    """Every trial of RDED; the second is best by the mean, others by one kind of labels."""
    lasts = {"own": (0.8, 0.6), "candidates_50": (0.78, 0.7), "candidates_1000": (0.7, 0.71)}
    return [
        row
        for name in (tune_trials.OWN, *tune_trials.CHANGES["rded"])
        for row in rows_of(f"rded-{name}", *lasts.get(name, (0.1, 0.1)))
    ]


def test_every_method_has_as_many_trials():
    assert {len(changes) for changes in tune_trials.CHANGES.values()} == {7}


def test_the_best_is_that_of_the_highest_mean_over_kinds_of_labels(results):
    assert tune.best_of("rded", results) == "rded-candidates_50"
    assert tune.best_of("delt", results) == ""
    assert "| rded | **candidates 50** | 78.0 | 70.0 | 74.0 | 1.5 |" in tune.page(results)


def test_the_best_goes_to_the_test_images_once_all_trials_are_done(results, tmp_path):
    files.write_json(tmp_path / "results.json", results[:-2])
    with pytest.raises(
        UserError, match=r"rded has 1 trial\(s\) to run .* rded-candidates_50_crops_1"
    ):
        tune.best_trials(["rded"], tmp_path)
    files.write_json(tmp_path / "results.json", results)
    (best,) = tune.best_trials(["rded"], tmp_path)
    assert best.settings == {"select.candidates": 50}
    assert best.method == "rded,protocol=common"


def test_real_images_are_listed_once_beside_the_methods():
    shown = tune.test_page(
        [
            *rows_of("delt-own", 0.8, 0.7),
            *rows_of("rded-crops_1", 0.82, 0.6),
            *(row for m in ("delt-own", "rded-crops_1") for row in rows_of(m, 0.5, 0.5, "random")),
            *rows_of("delt-own", 0.6, 0.6, "selected"),
        ]
    )
    listed = [line.split(" | ")[0].removeprefix("| ") for line in shown.splitlines()[2:6]]
    assert listed == ["rded", "delt", "real, selected for delt", "real, random"]
    assert "| rded | crops 1 | 82.0 ± 1.0 | 60.0 ± 1.0 |" in shown


def test_settings_of_the_command_line_replace_those_of_all_trials(tmp_path, capsys):
    asked = [f"--workdir={tmp_path / 'tune'}", "--methods=rded", "--dry_run"]
    tune.run([*asked, "--config.evaluate.images=recovered,random"])
    assert "rded-own" in capsys.readouterr().out


def test_trials_that_test_images_would_choose_are_refused(tmp_path):
    asked = [f"--workdir={tmp_path / 'tune'}", "--methods=rded", "--dry_run"]
    with pytest.raises(UserError, match=r"rded-own: data\.validation_share is 0, so that test"):
        tune.run([*asked, "--config.data.validation_share=0.0"])
    assert not (tmp_path / "tune").exists()
