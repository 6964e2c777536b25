"""A set of float images is scored in its own space, without a teacher."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_run import read_json, tiny

from delt_jax import config as config_lib
from delt_jax import main
from delt_jax.core.normalisation import Normalisation
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.data import open_source
from delt_jax.errors import UserError
from delt_jax.evaluation import learned_score, rows
from delt_jax.evaluation.training_sets import TrainingSets
from delt_jax.formats import distilled, own
from delt_jax.formats.decoding import Decoding
from delt_jax.formats.distilled import DistilledSet
from delt_jax.recipe import DataRecipe
from delt_jax.store.workdir import WorkDir

IPC = 3


def recipe(**changes):
    return tiny(
        **{
            "synthesis": "learn",
            "evaluate.protocol": "frepo",
            "evaluate.regimes": ("learned", "hard"),
            "evaluate.images": ("recovered", "random"),
            "evaluate.epochs": 60,
            "evaluate.learning_rates": (0.01,),
            "evaluate.batch_size": 30,
            "relabel.dsa": "frepo-crop_translate",
            "evaluate.seeds": 1,
        }
        | changes
    )


def negatives(decoding=None, form="centred", labels=None):
    """Real digits as negatives, which only a preprocessing that makes negatives fits."""
    source = open_source(DataRecipe("digits"))
    size = source.image_size
    space = Preprocessing(
        "zca",
        Normalisation((0.3,), (0.4,)),
        -np.eye(size**2, dtype=np.float32),
        np.full(size**2, 0.1, np.float32),
    )
    chosen = np.concatenate([np.flatnonzero(source.train.labels == c)[:IPC] for c in range(10)])
    images = np.asarray(space(source.train.images(chosen)), np.float32)
    classes = source.train.labels[chosen].astype(np.int32)
    values = ((np.eye(10)[classes] - 0.1) if labels is None else labels).astype(np.float32)
    manifest = distilled.manifest_of_learned(space, decoding, form)
    return DistilledSet(
        *(images, classes, source.class_names, manifest),
        preprocessing=space,
        learned_labels=values,
        decoding=decoding,
    )


def with_set(folder, content):
    (folder / "distilled").mkdir(parents=True)
    own.write(folder / "distilled", content)
    return folder


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = with_set(tmp_path_factory.mktemp("learned"), negatives())
    main.run(recipe(), str(folder), ["evaluate", "report"])
    return folder


def test_scores_are_of_the_sets_own_space(scored):
    made = read_json(scored / "evaluation/manifest.json")
    assert "teacher" not in made
    assert "soft_labels" not in made["inputs"]
    assert not (scored / "teacher").exists()
    by_row = {(r["regime"], r["images"]): r["last_mean"] for r in made["rows"]}
    assert set(by_row) == {(g, i) for g in ("learned", "hard") for i in ("recovered", "random")}
    # Real images and test images went through the preprocessing, too.
    assert min(by_row.values()) > 0.35
    # Centred classes are what hard labels are under this protocol.
    assert by_row["learned", "recovered"] == by_row["hard", "recovered"]
    assert by_row["learned", "random"] == by_row["hard", "random"]


def test_the_report_shows_them_clipped_and_says_so(scored):
    summary = read_json(scored / "summary.json")
    page = (scored / "report/report.html").read_text()
    assert "teacher" not in summary
    assert "nearest" not in summary
    assert summary["clipped"] == pytest.approx(negatives().rounded().manifest["clipped"])
    assert "shown through the inverse of their preprocessing" in page
    assert "teacher" not in page.lower().replace("set, teachers and scores", "")
    assert (scored / "report/sheet.png").stat().st_size > 1000


def test_parts_of_stored_images_are_trained_on(tmp_path):
    """Each stored image becomes four, and the protocol counts those."""
    folder = with_set(tmp_path, negatives(Decoding(2)))
    asked = recipe(**{"evaluate.images": ("recovered",), "evaluate.epochs": 1})
    main.run(asked, str(folder), ["evaluate"])
    (row, _) = read_json(folder / "evaluation/manifest.json")["rows"]
    assert row["ipc"] == IPC
    assert row["regime"] == "learned"


def test_mirrored_copies_are_trained_on_and_rcig_counts_stored_images(tmp_path):
    """30 stored images make batches of 60; ten, of which there are 20, take 1000 steps."""
    folder = with_set(tmp_path, negatives(Decoding(1, True)))
    asked = config_lib.from_config(recipe(**{"evaluate.protocol": "rcig", "relabel.dsa": None,
        "evaluate.epochs": None, "evaluate.batch_size": None}))  # fmt: skip
    source = open_source(asked.data)
    made = TrainingSets(asked, source, WorkDir(folder), ())
    images = made.get("recovered", IPC, 0).images.pixels
    np.testing.assert_array_equal(images[30:], images[:30, :, ::-1])
    of = [r for r in rows.rows_of(asked, IPC, made.distilled.copies) if r.regime == "learned"]
    found = {r.image_set: rows.resolve(asked, source, r) for r in of}
    assert {name: p.batch_size for name, p in found.items()} == {"recovered": 60, "random": 30}
    one = rows.resolve(asked, source, replace(of[0], ipc=1))
    assert (of[0].image_set, one.batch_size, one.epochs) == ("recovered", 20, 1000)


def test_labels_of_teachers_are_refused(tmp_path):
    folder = with_set(tmp_path, negatives())
    asked = config_lib.from_config(recipe(**{"evaluate.regimes": ("online", "hard")}))
    sets = TrainingSets(asked, open_source(asked.data), WorkDir(folder), ())
    with pytest.raises(UserError, match=r"float images .* evaluate\.regimes .*\(online\)"):
        _ = sets.distilled


def test_values_are_no_probabilities(tmp_path):
    folder = with_set(tmp_path, negatives())
    asked = recipe(**{"evaluate.protocol": "dsa", "evaluate.regimes": ("learned",)})
    with pytest.raises(UserError, match="values for a squared error"):
        main.run(asked, str(folder), ["evaluate"])


def test_a_learned_rate_is_taken_and_the_scores_stay(tmp_path, capsys):
    content = negatives()
    manifest = content.manifest | {"extra": {"student_rate": 0.02}}
    folder = with_set(tmp_path, replace(content, manifest=manifest))
    asked = recipe(
        **{"evaluate.protocol": "mtt", "evaluate.regimes": ("hard",), "evaluate.epochs": 1}
        | {"evaluate.learning_rates": (), "relabel.dsa": ""}
    )
    for said in ("evaluate: not done yet", "evaluate: done, nothing changed"):
        main.run(asked, str(folder), ["evaluate"])
        assert said in capsys.readouterr().out
    rows = read_json(folder / "evaluation/manifest.json")["rows"]
    assert {row["learning_rate"] for row in rows} == {0.02}


def test_a_rate_that_nobody_learns_at_is_a_sentence(tmp_path):
    content = negatives()
    manifest = content.manifest | {"extra": {"student_rate": -0.02}}
    folder = with_set(tmp_path, replace(content, manifest=manifest))
    asked = recipe(
        **{"evaluate.protocol": "mtt", "evaluate.regimes": ("hard",)}
        | {"evaluate.learning_rates": ()}
    )
    with pytest.raises(UserError, match=r"learned a rate of -0\.02 .* nobody learns"):
        main.run(asked, str(folder), ["evaluate"])


def test_whitened_students_are_not_kept(tmp_path):
    folder = with_set(tmp_path, negatives())
    with pytest.raises(UserError, match="keep_students"):
        main.run(recipe(**{"evaluate.keep_students": True}), str(folder), ["evaluate"])


def test_validation_scores_as_evaluation_does(tmp_path):
    asked = config_lib.from_config(recipe(**{"evaluate.images": ("recovered",)}))
    source = open_source(asked.data)
    assert learned_score.accuracy(asked, source, negatives(), tmp_path) > 0.35
    assert not list(tmp_path.iterdir())
