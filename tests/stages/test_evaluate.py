"""Students that are kept: complete, loadable, and there whenever they are asked for."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_run import read_json, tiny

from delt_jax import config as config_lib
from delt_jax import main
from delt_jax.data import open_source
from delt_jax.evaluation import student_jobs
from delt_jax.stages import pipeline
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import teacher as teacher_lib

NAMES = [f"conv3-hard-{images}-{seed}" for images in ("recovered", "random") for seed in (0, 1)]


def setting(keep: bool):
    return tiny(
        **{
            "teacher.epochs": 2,
            "recover.iterations": 1,
            "recover.round_iterations": 0,
            "recover.batch_size": 30,
            "evaluate.keep_students": keep,
            "evaluate.regimes": ("hard",),
            "evaluate.images": ("recovered", "random"),
        }
    )


def evaluate(folder: Path, keep: bool) -> None:
    main.run(setting(keep), str(folder), ["evaluate"])


def kept(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "evaluation/students").iterdir())


def status(folder: Path, keep: bool) -> tuple[bool, str]:
    recipe = config_lib.from_config(setting(keep))
    stage = next(s for s in pipeline.STAGES if s.name == "evaluate")
    return pipeline.status(stage, recipe, open_source(recipe.data), WorkDir(folder))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """A run that lacks nothing but its evaluation; to be copied."""
    folder = tmp_path_factory.mktemp("labelled") / "run"
    main.run(setting(True), str(folder), ["squeeze", "rank", "recover", "relabel"])
    return folder


@pytest.fixture(scope="module")
def evaluated(labelled, tmp_path_factory) -> Path:
    """The same with its students kept; to be copied."""
    folder = shutil.copytree(labelled, tmp_path_factory.mktemp("evaluated") / "run")
    evaluate(folder, True)
    return folder


def test_every_student_is_written_with_all_that_its_use_takes(evaluated):
    assert kept(evaluated) == sorted(NAMES)
    source = open_source(config_lib.from_config(setting(True)).data)
    teacher = teacher_lib.load(evaluated / "teacher")
    pixels = source.test.images(np.arange(len(source.test)))
    scores = read_json(evaluated / "evaluation/scores.json")
    for name, score in zip(NAMES, scores, strict=True):
        student = teacher_lib.load(evaluated / "evaluation/students" / name)
        assert student.normalisation == teacher.normalisation
        assert student.class_names == source.class_names
        hits = teacher_lib.logits_of(student, pixels).argmax(-1) == source.test.labels
        assert hits.mean() == student.accuracy == score["last"]
        manifest = read_json(evaluated / "evaluation/students" / name / "manifest.json")
        assert manifest["score"] == score
        assert (
            manifest["inputs"]["distilled"]
            == (read_json(evaluated / "distilled/manifest.json")["hash"])
        )
    hashes = {teacher_lib.describe(evaluated / "evaluation/students" / n).hash for n in NAMES}
    assert len(hashes) == len(NAMES)
    assert not list(evaluated.glob("*.partial"))


def test_a_student_can_be_the_teacher_of_another_run(evaluated, tmp_path):
    student = evaluated / "evaluation/students" / NAMES[0]
    main.run(tiny(**{"teacher.weights": str(student)}), str(tmp_path / "run"), ["squeeze"])
    made, given = teacher_lib.load(tmp_path / "run/teacher"), teacher_lib.load(student)
    assert (made.hash, made.accuracy) == (given.hash, given.accuracy)


def test_weights_are_made_once_asked_for_and_stay(evaluated, tmp_path, capsys):
    folder = shutil.copytree(evaluated, tmp_path / "run")
    assert status(folder, True) == (False, "done, nothing changed")
    assert status(folder, False) == (False, "done, nothing changed")
    shutil.rmtree(folder / "evaluation")
    evaluate(folder, False)
    assert not (folder / "evaluation/students").exists()
    assert status(folder, False) == (False, "done, nothing changed")
    capsys.readouterr()
    evaluate(folder, True)
    assert "redone because evaluate.keep_students is new" in capsys.readouterr().out
    assert kept(folder) == sorted(NAMES)
    for name in NAMES:  # bit for bit those of the first time
        again = teacher_lib.load(folder / "evaluation/students" / name)
        assert again.hash == teacher_lib.describe(evaluated / "evaluation/students" / name).hash


@pytest.mark.parametrize(("before", "trained_again"), [(True, 0), (False, 2)])
def test_a_student_finished_before_a_kill_has_its_weights(
    labelled, tmp_path, monkeypatch, before, trained_again
):
    folder = shutil.copytree(labelled, tmp_path / "run")
    real, stored = student_jobs.store, []

    def killed_before_the_third(*args):
        if len(stored) == 2:
            raise KeyboardInterrupt
        stored.append(args)
        real(*args)

    monkeypatch.setattr(student_jobs, "store", killed_before_the_third)
    with pytest.raises(KeyboardInterrupt):
        evaluate(folder, before)
    stored.clear()
    monkeypatch.setattr(student_jobs, "store", lambda *a: (stored.append(a), real(*a)))
    evaluate(folder, True)
    assert len(stored) == 2 + trained_again
    assert kept(folder) == sorted(NAMES)
    for name in NAMES:
        teacher_lib.load(folder / "evaluation/students" / name)


def test_equal_images_of_two_names_are_two_rows(labelled, tmp_path):
    """Where nothing is optimised the recovered images are the selected ones, score for score."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = setting(False)
    config.recover.iterations = 0
    config.evaluate.images = ("recovered", "selected", "full")
    config.teacher.weights = str(labelled / "teacher")
    main.run(config, str(folder), ["squeeze", "rank", "recover", "relabel", "evaluate"])
    scores = read_json(folder / "evaluation/scores.json")
    assert [(s["images"], s["seed"]) for s in scores] == [
        ("recovered", 0),
        ("recovered", 1),
        ("selected", 0),
        ("selected", 1),
        ("full", 0),
    ]
    assert [s["id"] for s in scores[:2]] == [s["id"] for s in scores[2:4]]
    rows = read_json(folder / "evaluation/manifest.json")["rows"]
    assert [(r["images"], r["seeds"]) for r in rows] == [
        ("recovered", 2),
        ("selected", 2),
        ("full", 1),
    ]
