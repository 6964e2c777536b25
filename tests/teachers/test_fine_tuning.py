"""Teachers that begin with other weights: what is taken over, what learns, and that it helps."""

import chex
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from sklearn.datasets import load_digits
from tiny_run import tiny

from delt_jax import config, main
from delt_jax.data import open_source
from delt_jax.errors import UserError
from delt_jax.models import torch_files, torch_weights
from delt_jax.teachers import fine_tuning
from delt_jax.teachers import teacher as teacher_lib


def write(path, classes, trained):
    """Digits of some classes: those of `trained`, by their place, to train on, and 60 to test."""
    digits = load_digits()
    pixels = (digits.images * 255 / 16).astype(np.uint8)[..., None]
    arrays = {}
    for name, places in (("train", trained), ("test", range(110, 170))):
        chosen = [np.flatnonzero(digits.target == c)[list(places)] for c in classes]
        arrays[f"{name}_images"] = pixels[np.concatenate(chosen)]
        arrays[f"{name}_labels"] = np.repeat(np.arange(len(classes)), [len(c) for c in chosen])
    np.savez(path, class_names=[str(c) for c in classes], **arrays)
    return path


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A teacher of all digits, and a file with few other images of 5 to 9."""
    folder = tmp_path_factory.mktemp("tune")
    many = write(folder / "many.npz", range(10), range(30, 110))
    few = write(folder / "few.npz", range(5, 10), range(5))
    run = folder / "run"
    settings = {"data.name": "npz", "data.path": str(many), "teacher.batch_size": 25}
    main.run(tiny(**settings), str(run), ["squeeze"])
    return run / "teacher", few


def settings_of(pretrained, **changes):
    weights, few = pretrained
    return tiny(
        **{
            "data.name": "npz",
            "data.path": str(few),
            "teacher.weights": str(weights),
            "teacher.fine_tune": True,
            "teacher.epochs": 10,
            "teacher.batch_size": 5,
            "teacher.learning_rate": 0.02,
        }
        | changes
    )


def tuned(pretrained, folder, **changes):
    main.run(settings_of(pretrained, **changes), str(folder), ["squeeze"])
    return teacher_lib.load(folder / "teacher")


def parts(teacher):
    """The arrays of the body, of the running statistics, and of the last layer."""
    flat = flatten_dict(teacher.variables)
    head = {p: a for p, a in flat.items() if torch_weights.is_head(p, teacher.spec)}
    norm = {p: a for p, a in flat.items() if p[0] == "batch_stats"}
    return {p: a for p, a in flat.items() if p not in head | norm}, norm, head


def differ(ours, theirs):
    return any(not np.array_equal(ours[path], theirs[path]) for path in ours)


def test_few_pictures_teach_pretrained_weights_more_than_fresh_ones(pretrained, tmp_path):
    fine = tuned(pretrained, tmp_path / "fine")
    fresh = tuned(
        pretrained, tmp_path / "fresh", **{"teacher.weights": "", "teacher.fine_tune": False}
    )
    assert fine.class_names == ("5", "6", "7", "8", "9")
    assert fine.accuracy > fresh.accuracy + 0.1
    before = teacher_lib.load(pretrained[0])
    assert fine.normalisation == before.normalisation != fresh.normalisation
    for ours, theirs in zip(parts(fine), parts(before), strict=True):
        assert differ(ours, theirs)


def test_what_is_frozen_stays(pretrained, tmp_path):
    frozen = {"teacher.body_rate": 0.0, "teacher.freeze_norm": True, "teacher.epochs": 2}
    body, norm, head = parts(tuned(pretrained, tmp_path / "frozen", **frozen))
    body_before, norm_before, head_before = parts(teacher_lib.load(pretrained[0]))
    chex.assert_trees_all_equal((body, norm), (body_before, norm_before))
    assert differ(head, head_before)
    moving = frozen | {"teacher.freeze_norm": False}
    body, norm, _ = parts(tuned(pretrained, tmp_path / "moving", **moving))
    chex.assert_trees_all_equal(body, body_before)
    assert differ(norm, norm_before)


def test_weights_of_a_file_are_taken_over_but_for_the_last_layer(pretrained, tmp_path):
    teacher = teacher_lib.load(pretrained[0])
    state = torch_weights.to_torch(teacher.variables, teacher.spec)
    state["classifier.weight"] = np.zeros((1000, 7), np.float32)  # of 1000 classes elsewhere
    torch_files.write(tmp_path / "w.safetensors", state)
    constants = {"data.mean": (0.3,), "data.std": (0.3,), "teacher.model": "conv3"}
    named = {"teacher.weights": str(tmp_path / "w.safetensors")}
    recipe = config.from_config(settings_of(pretrained, **constants, **named))
    source = open_source(recipe.data)
    taken = fine_tuning.taken_over(recipe, source)
    body, norm, _ = parts(teacher)
    chex.assert_trees_all_equal(taken, body | norm)
    narrow = config.from_config(
        settings_of(pretrained, **constants, **named, **{"teacher.width": 4})
    )
    with pytest.raises(UserError, match=r"w\.safetensors cannot be fine-tuned: .* another shape"):
        fine_tuning.taken_over(narrow, source)


def test_a_folder_of_the_same_classes_keeps_its_last_layer(pretrained):
    many = pretrained[1].with_name("many.npz")
    recipe = config.from_config(settings_of(pretrained, **{"data.path": str(many)}))
    taken = fine_tuning.taken_over(recipe, open_source(recipe.data))
    chex.assert_trees_all_equal(taken, flatten_dict(teacher_lib.load(pretrained[0]).variables))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"teacher.weights": ""}, "teacher.fine_tune trains weights on, but teacher.weights is"),
        ({"teacher.head_classes": (0, 1)}, "leave one of the two out"),
        ({"data.name": "classes", "data.class_names": ("a", "b")}, "needs training images"),
    ],
)
def test_what_cannot_be_tuned_is_said(pretrained, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        config.from_config(settings_of(pretrained, **changes))
