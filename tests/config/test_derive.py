"""Settings that are derived from the data: every rule and its edges, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from delt_jax.config import default_config, derive, from_config
from delt_jax.data import ArrayExamples, Source


def source(side=32, sizes=(50, 50), channels=3) -> Source:
    """Black images: a square of `side`, `sizes` of each class."""
    labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    pixels = np.zeros((len(labels), 1, 1, channels), np.uint8)
    split = ArrayExamples(pixels, labels, [""] * len(labels))
    names = tuple(f"class {i}" for i in range(len(sizes)))
    return Source("toy", names, side, channels, split, split, "")


def recipe(**changes):
    """Everything that can be derived is left open, but for the changes."""
    config = default_config()
    open_settings = {
        "ipc": 0,
        "teacher.model": "",
        "teacher.epochs": 0,
        "evaluate.students": ("",),
        "evaluate.epochs": 0,
        "recover.jitter": -1,
    }
    config.update_from_flattened_dict(
        open_settings | {k.replace("__", "."): v for k, v in changes.items()}
    )
    return from_config(config)


def completed(source, **changes):
    return derive.complete(recipe(**changes), source)


@pytest.mark.parametrize(
    ("sizes", "ipc"),
    [((9, 40), 9), ((10, 40), 10), ((11, 12), 10), ((40, 1), 1), ((7, 0, 9), 1), ((3, 5, 4), 3)],
)
def test_ipc_is_ten_or_the_smallest_class(sizes, ipc):
    made, notes = completed(source(sizes=sizes))
    assert made.ipc == ipc
    assert notes[0] == f"ipc {ipc}: the smallest class has {min(sizes)} training images"


@pytest.mark.parametrize(("sizes", "named"), [((40, 12), ""), ((40, 3, 9), "(3), '")])
def test_small_classes_that_repeat_do_not_lower_ipc(sizes, named):
    made, notes = completed(source(sizes=sizes), **{"select.small_classes": "repeat"})
    assert made.ipc == 10
    said = [note for note in notes if note.startswith("select.small_classes repeat: ")]
    assert bool(said) == bool(named)
    assert all(named in note and "(9) have fewer training images than ipc" in note for note in said)


def test_a_last_class_without_training_images_counts():
    """Its label is not there, so a count of the labels would not see it."""
    full = source(sizes=(9, 9))
    made, notes = completed(replace(full, class_names=("a", "b", "c")))
    assert made.ipc == 1
    assert notes[0] == "ipc 1: the smallest class has 0 training images"


@pytest.mark.parametrize(
    ("side", "model"),
    [
        (8, "conv3"),
        (32, "conv3"),
        (33, "conv4"),
        (64, "conv4"),
        (65, "resnet18"),
        (224, "resnet18"),
    ],
)
def test_networks_by_the_side(side, model):
    made, notes = completed(source(side=side), evaluate__students=("vgg11", ""))
    assert made.teacher.model == model
    assert made.evaluate.students == ("vgg11", model)
    assert f"teacher.model {model}: the images have {side} px" in notes
    assert f"evaluate.students vgg11,{model}: like the teacher" in notes
    own, _ = completed(source(side=side), teacher__model="alexnet")
    assert own.evaluate.students == ("alexnet",)


@pytest.mark.parametrize(
    ("images", "epochs"),
    [
        (333, 60),
        (334, 60),
        (339, 59),
        (500, 40),
        (2000, 10),
        (597, 34),
        (1600, 12),
        (3700, 5),
        (60_000, 5),
    ],
)
def test_a_teacher_sees_twenty_thousand_images(images, epochs):
    half = images // 2
    made, notes = completed(source(sizes=(half, images - half)))
    assert made.teacher.epochs == epochs
    assert f"teacher.epochs {epochs}: there are {images} training images" in notes


@pytest.mark.parametrize(
    ("classes", "ipc", "epochs"),
    [
        (1, 33, 300),
        (3, 11, 300),
        (4, 10, 250),
        (4, 9, 278),
        (10, 10, 100),
        (9, 11, 101),
        (1, 59, 169),
        (2, 99, 100),
    ],
)
def test_a_student_sees_ten_thousand_images(classes, ipc, epochs):
    made, notes = completed(source(sizes=(100,) * classes), ipc=ipc)
    assert made.evaluate.epochs == epochs
    assert f"evaluate.epochs {epochs}: there are {classes * ipc} distilled images" in notes


@pytest.mark.parametrize(("side", "jitter"), [(6, 0), (7, 1), (28, 4), (32, 4), (34, 4), (224, 32)])
def test_the_shift_is_a_seventh_of_the_side(side, jitter):
    made, notes = completed(source(side=side))
    assert made.recover.jitter == jitter
    assert notes[-1] == f"recover.jitter {jitter}: the images have {side} px"
    for own in (0, 1, 5):
        made, notes = completed(source(side=side), recover__jitter=own)
        assert made.recover.jitter == own
        assert not [note for note in notes if "jitter" in note]


def test_what_a_recipe_says_stays():
    asked = recipe(
        ipc=3,
        teacher__model="vgg11",
        teacher__epochs=1,
        evaluate__students=("conv4",),
        evaluate__epochs=2,
        recover__jitter=1,
    )
    assert derive.complete(asked, source()) == (asked, [])


def test_epochs_of_a_protocol_stay_open():
    """None is the protocol's own number; only 0 asks for one by the size of the set."""
    assert completed(source(), evaluate__epochs=None)[0].evaluate.epochs is None


def test_a_folder_tells_its_own_size():
    grey = source(side=48, channels=1)
    made, _ = completed(grey, data__name="folder", data__path="/data")
    assert (made.data.image_size, made.data.channels) == (48, 1)
    other, _ = completed(grey, data__name="digits")
    assert (other.data.image_size, other.data.channels) == (
        recipe().data.image_size,
        recipe().data.channels,
    )
