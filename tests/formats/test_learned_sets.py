"""Sets of float images: whatever stores them gives back the same bits, or one sentence."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delt_jax.core.normalisation import Normalisation
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.errors import DamagedArtefact
from delt_jax.formats import distilled
from delt_jax.formats.decoding import Decoding, enlarging
from delt_jax.formats.distilled import DistilledSet
from delt_jax.store import artefact

CLASSES, IPC = 3, 2


def space(size=4, channels=3, kind="zca"):
    draw = np.random.default_rng(1)
    constants = Normalisation((0.4,) * channels, (0.2,) * channels)
    if kind == "standardise":
        return Preprocessing(kind, constants)
    length = size * size * channels
    matrix = np.eye(length) + 0.1 * draw.normal(size=(length, length))
    return Preprocessing(
        kind,
        constants,
        matrix.astype(np.float32),
        draw.normal(size=length).astype(np.float32),
    )


def learned(size=4, channels=3, kind="zca", form="centred", decoding=None, ipc=IPC):
    """A set whose values are far outside of what pixels can be."""
    draw = np.random.default_rng(0)
    images = draw.normal(0, 3, (CLASSES * ipc, size, size, channels)).astype(np.float32)
    preprocessing = space(size, channels, kind)
    labels = None
    if form:
        labels = draw.normal(size=(CLASSES * ipc, CLASSES)).astype(np.float32)
    manifest = {
        "method": "frepo",
        **distilled.manifest_of_learned(preprocessing, decoding, form or None),
    }
    return DistilledSet(
        images,
        np.repeat(np.arange(CLASSES, dtype=np.int32), ipc),
        ("ant", "bee", "cat"),
        manifest,
        preprocessing=preprocessing,
        learned_labels=labels,
        decoding=decoding,
    )


def seal(folder, content):
    digest = distilled.write_learned(
        *(folder, content.images, content.learned_labels),
        *(content.preprocessing, content.decoding),
    )
    own = {"class_names": list(content.class_names), "ipc": content.ipc, "hash": digest}
    artefact.seal(folder / "manifest.json", content.manifest | own)


def assert_same(found, content):
    assert found.images.dtype == np.float32
    np.testing.assert_array_equal(found.images, content.images)
    np.testing.assert_array_equal(found.labels, content.labels)
    assert found.class_names == content.class_names
    assert found.decoding == content.decoding
    assert found.preprocessing.as_dict() == content.preprocessing.as_dict()
    assert found.label_form == content.label_form
    for mine, theirs in (
        (found.learned_labels, content.learned_labels),
        (found.preprocessing.matrix, content.preprocessing.matrix),
        (found.preprocessing.centre, content.preprocessing.centre),
    ):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("kind", ["zca", "standardise"])
@pytest.mark.parametrize(("form", "decoding"), [("centred", None), ("", Decoding(2, True))])
def test_own_layout(tmp_path, kind, form, decoding):
    content = learned(kind=kind, form=form, decoding=decoding)
    seal(tmp_path, content)
    assert_same(distilled.read(tmp_path), content)
    manifest = distilled.read_manifest(tmp_path)
    assert distilled.is_whole(tmp_path, manifest)
    assert distilled.is_set(tmp_path)
    shown = distilled.read_images(tmp_path, [4, 1])
    np.testing.assert_array_equal(shown, content.to_look_at().images[[4, 1]])


def _cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def _other_images(path):
    stored = dict(np.load(path))
    np.savez(path, **stored | {"images": stored["images"] + 1})


def _infinite(path):
    stored = dict(np.load(path))
    stored["images"][0] = np.inf
    np.savez(path, **stored)


def _no_centre(path):
    np.savez(path, **{k: v for k, v in np.load(path).items() if k != "centre"})


@pytest.mark.parametrize("harm", [_cut, _other_images, _infinite, _no_centre, lambda p: p.unlink()])
def test_damaged_floats_are_one_sentence(tmp_path, harm):
    seal(tmp_path, learned())
    harm(tmp_path / "learned.npz")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    with pytest.raises(DamagedArtefact, match=r"learned\.npz"):
        distilled.read(tmp_path)
    # Also where nothing is known of the files.
    old = {k: v for k, v in manifest.items() if k not in ("files", "checksum")}
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    with pytest.raises(DamagedArtefact, match=r"learned\.npz"):
        distilled.read(tmp_path)


def test_per_class_takes_labels_along():
    content = learned(ipc=3)
    first = content.per_class(2)
    kept = [0, 1, 3, 4, 6, 7]
    np.testing.assert_array_equal(first.learned_labels, content.learned_labels[kept])
    np.testing.assert_array_equal(first.images, content.images[kept])
    assert first.preprocessing is content.preprocessing


def test_looking_clips_and_rounding_says_so():
    content = learned(kind="standardise")
    seen = content.to_look_at()
    unit = content.images * 0.2 + 0.4
    np.testing.assert_array_equal(seen.images, np.clip(np.rint(255 * unit), 0, 255))
    assert seen.images.dtype == np.uint8
    assert seen.preprocessing is None
    rounded = content.rounded()
    np.testing.assert_array_equal(rounded.images, seen.images)
    assert rounded.learned_labels is None
    assert "learned_labels" not in rounded.manifest
    outside = (np.rint(255 * unit) < 0) | (np.rint(255 * unit) > 255)
    assert rounded.manifest["clipped"] == pytest.approx(outside.mean())


def test_whitening_goes_back():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    there = np.asarray(space()(pixels))
    np.testing.assert_allclose(space().invert(there), pixels / 255, atol=1e-5)


def test_decoding_cuts_and_enlarges():
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    images, labels = Decoding(2).expand(image, np.array([7]))
    assert images.shape == (4, 4, 4, 1)
    assert labels.tolist() == [7] * 4
    # torch: interpolate(torch.tensor([[[[2., 3.], [6., 7.]]]]), size=4, mode="bilinear")
    upper_right = [
        [2.0, 2.25, 2.75, 3.0],
        [3.0, 3.25, 3.75, 4.0],
        [5.0, 5.25, 5.75, 6.0],
        [6.0, 6.25, 6.75, 7.0],
    ]
    np.testing.assert_allclose(images[1, :, :, 0], upper_right)
    mirrored, labels = Decoding(1, True).expand(image, np.array([7]))
    np.testing.assert_array_equal(mirrored[1], image[0, :, ::-1])
    assert Decoding(2, True).copies == 8
    assert len(labels) == 2


def test_sides_that_do_not_divide_are_padded_with_grey():
    images, _ = Decoding(3).expand(np.ones((1, 4, 4, 1), np.float32), np.zeros(1), 5.0)
    assert images.shape == (9, 4, 4, 1)
    np.testing.assert_allclose(images[0], 1)
    assert images[8].min() == pytest.approx(5)  # wholly beyond the image
    np.testing.assert_allclose(enlarging(2, 4).sum(1), 1)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 6), st.sampled_from([1, 3]), st.integers(1, 3), st.sampled_from([None, "logits"])
)
def test_any_shape_comes_back(tmp_path_factory, size, channels, ipc, form):
    folder = tmp_path_factory.mktemp("set")
    content = learned(size, channels, "standardise", form, ipc=ipc)
    seal(folder, content)
    assert_same(distilled.read(folder), content)
