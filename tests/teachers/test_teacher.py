"""The teacher: prediction in padded batches, checks against the data, storage."""

import dataclasses
import json
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from delt_jax.data import ArrayExamples, Normalisation, Source, open_source
from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.models import ModelSpec, torch_files, torch_weights
from delt_jax.recipe import DataRecipe, Recipe, TeacherRecipe
from delt_jax.stages import squeeze
from delt_jax.store import artefact, checkpoint, files
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import prediction
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher

RECIPE = Recipe(
    data=DataRecipe(name="digits", flip=False),
    teacher=TeacherRecipe(
        model="conv3", width=8, epochs=6, batch_size=64, crop_padding=0, learning_rate=0.1
    ),
)


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source(RECIPE.data)


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory) -> Path:
    """A teacher's folder, trained for a few seconds."""
    workdir = WorkDir(tmp_path_factory.mktemp("squeezed"))
    workdir.open(RECIPE)
    squeeze.run(RECIPE, source, workdir)
    workdir.close()
    return workdir.path / "teacher"


@pytest.fixture(scope="module")
def trained(folder) -> Teacher:
    return teacher_lib.load(folder)


def silent(text: str) -> None:
    pass


def permuted(teacher: Teacher, order) -> Teacher:
    """The same network with its outputs, but not its class names, in another order."""
    variables = jax.tree.map(lambda a: a, teacher.variables)
    head = variables["params"]["classifier"]
    variables["params"]["classifier"] = {
        "kernel": head["kernel"][:, order],
        "bias": head["bias"][order],
    }
    return dataclasses.replace(teacher, variables=variables)


# --- prediction ---


def direct(teacher: Teacher, pixels: np.ndarray):
    logits, sown = teacher.model.apply(
        teacher.variables, teacher.normalisation(pixels), train=False, mutable=["features"]
    )
    return np.asarray(logits), np.asarray(sown["features"]["pooled"][0])


@pytest.mark.parametrize("count", [1, 499, 500, 501])
def test_padded_batches_predict_what_the_model_says(trained, source, count):
    pixels = source.train.images(np.arange(count))
    logits, features = prediction.predict(
        trained.model, trained.variables, trained.normalisation, prediction.in_batches(pixels)
    )
    chex.assert_shape(logits, (count, 10))
    assert logits.dtype == features.dtype == np.float32
    chex.assert_trees_all_close((logits, features), direct(trained, pixels), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(teacher_lib.logits_of(trained, pixels), logits)
    np.testing.assert_array_equal(teacher_lib.features_of(trained, pixels), features)


def test_features_are_the_last_layers_input(trained, source):
    pixels = source.test.images(np.arange(20))
    head = trained.variables["params"]["classifier"]
    logits = teacher_lib.features_of(trained, pixels) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, teacher_lib.logits_of(trained, pixels), rtol=1e-4, atol=1e-4)


def test_batches_of_any_size_are_joined_in_order(trained, source):
    pixels = source.train.images(np.arange(30))
    whole = teacher_lib.logits_of(trained, pixels)
    pieces = (pixels[:7], pixels[7:8], pixels[8:])
    logits, _ = prediction.predict(trained.model, trained.variables, trained.normalisation, pieces)
    np.testing.assert_allclose(logits, whole, rtol=1e-5, atol=1e-5)


def test_in_batches_cuts_without_loss():
    pixels = np.arange(1201, dtype=np.int64).reshape(-1, 1, 1, 1)
    pieces = list(prediction.in_batches(pixels))
    assert [len(p) for p in pieces] == [500, 500, 201]
    np.testing.assert_array_equal(np.concatenate(pieces), pixels)


def test_accuracy_is_the_share_of_hits(trained, source):
    measured = teacher_lib.accuracy(
        trained.model, trained.variables, trained.normalisation, source.test
    )
    hits = teacher_lib.logits_of(trained, source.test.images(np.arange(len(source.test)))).argmax(1)
    assert measured == pytest.approx((hits == source.test.labels).mean(), abs=1e-9)
    assert measured == pytest.approx(trained.accuracy, abs=1e-9)
    assert measured > 0.8  # what the checks below rely on


# --- checks against the data ---


def toy_source(names=("cat", "dog", "eel"), size=8, channels=1) -> Source:
    examples = ArrayExamples(
        np.zeros((3, size, size, channels), np.uint8), np.arange(3, dtype=np.int32), ["0", "1", "2"]
    )
    return Source("toy", tuple(names), size, channels, examples, examples, "")


def test_class_names_that_agree():
    assert teacher_lib.check_class_names("The set", ("cat", "dog", "eel"), toy_source()) is None


def test_permuted_class_names_are_named():
    with pytest.raises(UserError) as e:
        teacher_lib.check_class_names("The set", ("dog", "cat", "eel"), toy_source())
    assert str(e.value) == (
        "The set and the data disagree on 2 classes (0: 'dog' against 'cat'; 1: 'cat' against "
        "'dog'); put the classes in the same order."
    )


def test_at_most_five_classes_are_named():
    names = [f"c{i}" for i in range(9)]
    with pytest.raises(
        UserError, match=r"disagree on 8 classes \(0: 'c1' against 'c0'.*; \.\.\.\)"
    ):
        teacher_lib.check_class_names("It", (*names[1:8], names[0], names[8]), toy_source(names))
    with pytest.raises(UserError) as e:
        teacher_lib.check_class_names("It", (*names[1:8], names[0], names[8]), toy_source(names))
    assert str(e.value).count(" against ") == 5


def test_another_number_of_classes():
    with pytest.raises(UserError, match="The set has 2 classes and the data have 3"):
        teacher_lib.check_class_names("The set", ("cat", "dog"), toy_source())


def test_a_right_teacher_passes_and_says_so(trained, source):
    said = []
    teacher_lib.check_against(trained, source, said.append)
    assert len(said) == 1
    accuracy = f"{100 * trained.accuracy:.1f}%"
    assert f"{accuracy} on {len(source.test)} test images ({accuracy} recorded)" in said[0]


@pytest.mark.parametrize("order", [(1, 0, *range(2, 10)), (*range(1, 10), 0)])
def test_permuted_outputs_are_noticed(trained, source, order):
    said = []
    with pytest.raises(UserError, match="teacher's classes are in another order") as e:
        teacher_lib.check_against(permuted(trained, np.array(order)), source, said.append)
    assert said == []
    wrong = [i for i in range(10) if order[i] != i]
    assert str(e.value).startswith(f"{len(wrong)} classes of the data are not those")
    for i in wrong[:5]:
        assert f"'{i}' looks like '{list(order).index(i)}'" in str(e.value)


def test_permuted_class_names_of_a_teacher_are_noticed(trained, source):
    renamed = dataclasses.replace(trained, class_names=("1", "0", *trained.class_names[2:]))
    with pytest.raises(UserError, match="The teacher and the data disagree on 2 classes"):
        teacher_lib.check_against(renamed, source, silent)


def test_another_normalisation_is_noticed(trained, source):
    shifted = dataclasses.replace(trained, normalisation=Normalisation((0.9,), (0.05,)))
    with pytest.raises(UserError, match="scored"):
        teacher_lib.check_against(shifted, source, silent)


@pytest.mark.parametrize("change", [{"image_size": 16}, {"channels": 3}])
def test_images_of_another_shape_are_noticed(trained, change):
    other = open_source(DataRecipe(name="digits", **change))
    with pytest.raises(UserError, match="The teacher takes 8 px images of 1 channels, but the"):
        teacher_lib.check_against(trained, other, silent)


def test_a_weak_but_honest_teacher_passes(trained, source):
    variables = jax.tree.map(np.zeros_like, trained.variables)
    constant = dataclasses.replace(trained, variables=variables)
    measured = teacher_lib.accuracy(constant.model, variables, constant.normalisation, source.test)
    assert measured < 0.2
    teacher_lib.check_against(dataclasses.replace(constant, accuracy=measured), source, silent)


# --- storage ---


def test_save_and_load_round_trip(trained, tmp_path):
    teacher_lib.save(tmp_path, trained, {"seconds": 3.5})
    loaded = teacher_lib.load(tmp_path)
    chex.assert_trees_all_equal(loaded.variables, trained.variables)
    for name in ("spec", "normalisation", "class_names", "accuracy", "hash"):
        assert getattr(loaded, name) == getattr(trained, name), name
    assert loaded.hash == checkpoint.tree_hash(trained.variables)
    assert files.read_json(tmp_path / "manifest.json")["seconds"] == 3.5
    assert teacher_lib.describe(tmp_path) == dataclasses.replace(loaded, variables={})


def test_a_network_without_batch_norm_is_saved_and_loaded(tmp_path):
    spec = ModelSpec("vgg11", 5, 32, 3, 2)
    drawn = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: drawn.standard_normal(a.shape).astype(np.float32),
        teacher_lib.init_shapes(spec)["params"],
    )
    variables = {"params": params, "batch_stats": {}}  # as training leaves them
    normalisation = Normalisation((0.5,) * 3, (0.25,) * 3)
    teacher_lib.save(tmp_path, Teacher(spec, variables, normalisation, tuple("abcde"), 0.5), {})
    loaded = teacher_lib.load(tmp_path)
    chex.assert_trees_all_equal(loaded.variables, {"params": params})
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    assert teacher_lib.logits_of(loaded, pixels).shape == (2, 5)


def test_altered_variables_are_refused(trained, tmp_path):
    teacher_lib.save(tmp_path, trained, {})
    altered = jax.tree.map(np.copy, trained.variables)
    altered["batch_stats"]["norm_1"]["mean"][0] += 1e-6
    state = torch_weights.to_torch(altered, trained.spec)
    torch_files.write(tmp_path / "weights.safetensors", state)
    with pytest.raises(UserError, match="not those its manifest describes") as e:
        teacher_lib.load(tmp_path)
    assert str(tmp_path) in str(e.value)


def test_variables_of_another_model_are_refused(trained, tmp_path):
    teacher_lib.save(tmp_path, trained, {})
    manifest = files.read_json(tmp_path / "manifest.json")
    manifest["spec"]["width"] = 4
    files.write_json(tmp_path / "manifest.json", manifest)
    with pytest.raises(DamagedArtefact, match="it was changed since it was written"):
        teacher_lib.load(tmp_path)
    files.write_json(tmp_path / "manifest.json", artefact.unsealed(manifest))
    with pytest.raises(UserError, match=r"layers\.conv\.0\.weight"):
        teacher_lib.load(tmp_path)


def test_missing_variables(trained, tmp_path):
    teacher_lib.save(tmp_path, trained, {})
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights\.safetensors"):
        teacher_lib.load(tmp_path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.pop("spec"),
        lambda m: m.pop("hash"),
        lambda m: m.pop("class_names"),
        lambda m: m["spec"].update(depth=3),
        lambda m: m["normalisation"].pop("std"),
        lambda m: m.pop("accuracy"),
        lambda m: m.update(accuracy="high"),
        lambda m: m.update(normalisation=[1, 2]),
    ],
)
def test_a_manifest_that_is_no_teachers(folder, tmp_path, edit):
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json is not a teacher's") as e:
        teacher_lib.describe(tmp_path)
    assert str(tmp_path) in str(e.value)


def test_no_teacher_at_all(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        teacher_lib.describe(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match=r"manifest\.json is not a teacher's"):
        teacher_lib.describe(tmp_path)


def test_init_shapes():
    shapes = teacher_lib.init_shapes(ModelSpec("conv3", 5, 8, 3, 4))
    assert set(shapes) == {"params", "batch_stats"}
    assert jax.tree.map(lambda a: a.shape, shapes["params"]) == {
        "conv_0": {"kernel": (3, 3, 3, 4), "bias": (4,)},
        **{f"conv_{i}": {"kernel": (3, 3, 4, 4), "bias": (4,)} for i in (1, 2)},
        **{f"norm_{i}": {"scale": (4,), "bias": (4,)} for i in range(3)},
        "classifier": {"kernel": (4, 5), "bias": (5,)},
    }
    assert {a.shape for a in jax.tree.leaves(shapes["batch_stats"])} == {(4,)}


def test_init_shapes_are_those_of_a_trained_teacher(trained):
    chex.assert_trees_all_equal_shapes_and_dtypes(
        teacher_lib.init_shapes(trained.spec), trained.variables
    )


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (
            [123.675],
            [58.395],
            r"mean must be that of pixels in \[0, 1\], but holds 123.675; divide",
        ),
        ([0.4], [58.395], "std must be that of pixels .* holds 58.395"),
        ([-2.0], [0.5], "mean must be that of pixels .* holds -2"),
        ([0.5], [0.0], "std must be at least 1e-06, but holds 0"),
        ([float("nan")], [0.5], "holds nan"),
    ],
)
def test_constants_of_a_folder_are_those_of_pixels_up_to_1(mean, std, words, trained, tmp_path):
    teacher_lib.save(tmp_path, trained, {"inputs": {}})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["normalisation"] = {"mean": mean, "std": std}
    files.write_json(tmp_path / "manifest.json", manifest)
    with pytest.raises(UserError, match=words):
        teacher_lib.describe(tmp_path)
