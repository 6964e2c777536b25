"""Scores on disk: found by what they were made from, under the names of whoever asks."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.evaluation import kept_students
from delt_jax.evaluation.rows import EvalRow
from delt_jax.evaluation.score_store import PlannedScore, ScoreStore, make_score
from delt_jax.store import files
from delt_jax.training.student_loop import Trained

PLANNED = PlannedScore("0a1b", EvalRow("conv3", "hard", "recovered", 4), 1, 0.1, "delt: 3 epochs")
SOURCE = SimpleNamespace(
    test=SimpleNamespace(labels=np.array([0, 1, 1], np.int32)), class_names=("a", "b")
)


def scored(planned=PLANNED):
    logits = np.eye(2, dtype=np.float32)[[0, 1, 0]]
    history = [(1, 1 / 3), (2, 1.0), (3, 2 / 3)]
    return make_score(planned, Trained(history, {}, logits, 1.234), SOURCE)


def test_a_score_says_what_came_of_the_training():
    score = scored()
    assert (score.last, score.best, score.best_epoch) == (2 / 3, 1.0, 2)
    assert score.per_class == [1.0, 0.5]
    assert score.confusion == [[1, 0], [1, 1]]
    assert (score.image_set, score.ipc, score.seed, score.seconds) == ("recovered", 4, 1, 1.23)


def test_a_stored_score_is_found_again_under_the_name_that_asks(tmp_path):
    store = ScoreStore(tmp_path / "scores")
    assert PLANNED not in store
    store.write(scored())
    assert PLANNED in store
    assert store.read(PLANNED) == scored()
    selected = replace(PLANNED, row=replace(PLANNED.row, image_set="selected"))
    assert store.read(selected) == replace(scored(), image_set="selected")
    assert replace(PLANNED, id="2c3d") not in ScoreStore(tmp_path / "scores")


DAMAGES = [
    lambda text: text[:-9],
    lambda text: "{}",
    lambda text: "[" * 100_000,
    lambda text: text.replace("0.6666", "0.7666"),  # the checksum notices
    lambda text: text.replace('"0a1b"', '"2c3d"'),
]
# In a file of an older version, which has no checksum.
OLD_DAMAGES = [
    lambda score: score.pop("last"),
    lambda score: score.update(history=3),
    lambda score: score.update(per_class=[1.0]),
    lambda score: score.update(id="2c3d"),
    lambda score: score.update(more=1),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_score_counts_as_missing(tmp_path, damage, capsys):
    store = ScoreStore(tmp_path)
    store.write(scored())
    path = store.path("0a1b")
    path.write_text(damage(path.read_text()))
    assert PLANNED not in store
    assert f"{path} is damaged" in capsys.readouterr().out
    store.write(scored())
    assert PLANNED in store


@pytest.mark.parametrize("damage", OLD_DAMAGES)
def test_scores_of_older_versions_are_read_by_their_shape(tmp_path, damage):
    store, stored = ScoreStore(tmp_path), scored().as_dict()
    files.write_json(store.path("0a1b"), stored)
    assert store.read(PLANNED) == scored()
    damage(stored)
    files.write_json(store.path("0a1b"), stored)
    assert PLANNED not in store
    with pytest.raises(DamagedArtefact, match="run the evaluate stage again"):
        store.read(PLANNED)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        ScoreStore(tmp_path / "file/scores")


def test_folders_of_kept_students_differ_where_students_do():
    def folder(planned, several_rates=False):
        return kept_students.folder_of(planned, 4, several_rates)

    assert folder(PLANNED) == Path("students/conv3-hard-recovered-1")
    assert folder(PLANNED, True) == Path("students/conv3-hard-recovered-1-0.1")
    smaller = replace(PLANNED, row=replace(PLANNED.row, ipc=2))
    assert folder(smaller) == Path("students/conv3-hard-recovered2-1")


def test_every_part_of_a_score_by_hand():
    assert scored().as_dict() == {
        "id": "0a1b",
        "student": "conv3",
        "regime": "hard",
        "images": "recovered",
        "ipc": 4,
        "seed": 1,
        "learning_rate": 0.1,
        "protocol": "delt: 3 epochs",
        "last": 2 / 3,
        "best": 1.0,
        "best_epoch": 2,
        "history": [[1, 1 / 3], [2, 1.0], [3, 2 / 3]],
        "per_class": [1.0, 0.5],
        "confusion": [[1, 0], [1, 1]],
        "calibration": pytest.approx(np.e / (1 + np.e) - 2 / 3),
        "seconds": 1.23,
    }


def test_of_equal_bests_the_first_counts():
    history = [(1, 0.5), (2, 0.75), (3, 0.75), (4, 0.25)]
    logits = np.eye(2, dtype=np.float32)[[0, 1, 0]]
    made = make_score(PLANNED, Trained(history, {}, logits, 0.0), SOURCE)
    assert (made.best_epoch, made.best, made.last) == (2, 0.75, 0.25)


@pytest.mark.parametrize(("classes", "rows"), [(99, 99), (100, 100), (101, 0)])
def test_confusions_of_many_classes_are_not_kept(classes, rows):
    source = SimpleNamespace(
        test=SimpleNamespace(labels=np.zeros(1, np.int32)),
        class_names=tuple(map(str, range(classes))),
    )
    logits = np.zeros((1, classes), np.float32)
    made = make_score(PLANNED, Trained([(1, 1.0)], {}, logits, 0.0), source)
    assert len(made.confusion) == rows
    assert len(made.per_class) == classes


def test_a_shared_score_takes_all_names_of_who_asks(tmp_path):
    store = ScoreStore(tmp_path / "deep" / "scores")
    store.write(scored())
    other = replace(PLANNED, row=EvalRow("vgg11", "plain", "random", 9))
    found = store.read(other)
    assert (found.student, found.regime, found.image_set, found.ipc) == (
        "vgg11",
        "plain",
        "random",
        9,
    )
    assert found.outcome() == scored().outcome()
    assert ScoreStore(tmp_path / "deep" / "scores").read(PLANNED) == scored()
