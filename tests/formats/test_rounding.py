"""Pixels in place of float images: what students saw of a set is what comes back."""

import numpy as np
import pytest

import delt_jax
from delt_jax.errors import UserError
from delt_jax.formats.decoding import Decoding

SPACE = {"mean": (0.5,), "std": (0.2,)}
SAID = "took the images apart into those that students see"


def floats(path, side=(4, 4), **more):
    """A set of others, two images of each of two classes, mostly between black and white."""
    images = np.random.default_rng(0).normal(size=(4, *side, 3)).astype(np.float32)
    np.savez(path, images=images, labels=[0, 0, 1, 1], **more)
    return path


@pytest.mark.parametrize("decoding", [Decoding(2), Decoding(1, True), Decoding(3, True)])
@pytest.mark.parametrize("to", ["folder", "npz", "distilled"])
def test_what_students_see_comes_back(tmp_path, capsys, to, decoding):
    soft = np.zeros((4, 2), np.float32)
    path = floats(tmp_path / "set.npz", soft_labels=soft, learned_labels=soft + 1)
    how = SPACE | {"factor": decoding.factor, "mirrored": decoding.mirrored}
    before = delt_jax.load(path, **how)
    seen, labels = before.expand(before.labels)
    out = tmp_path / ("out.npz" if to == "npz" else "out/distilled")
    found = delt_jax.load(delt_jax.export_set(path, to, out, rounds=True, **how))

    pixels = np.clip(np.rint(255 * before.preprocessing.invert(seen)), 0, 255)
    of_each = [pixels[labels == c] for c in range(2)]
    np.testing.assert_array_equal(found.images, np.concatenate(of_each))
    assert found.labels.tolist() == [0] * found.ipc + [1] * found.ipc
    assert found.ipc == found.manifest["ipc"] == 2 * decoding.copies
    assert (found.decoding, found.learned_labels, found.soft_labels) == (None, None, None)
    assert not {"decoding", "learned_labels", "preprocessing"} & set(found.manifest)
    line = next(line for line in capsys.readouterr().out.splitlines() if SAID in line)
    assert f"{decoding.copies} of each: {found.ipc} of each class, and left out the soft" in line


def test_a_set_of_one_image_each_is_not_taken_apart(tmp_path, capsys):
    path = floats(tmp_path / "set.npz")
    delt_jax.export_set(path, "npz", tmp_path / "out.npz", rounds=True, **SPACE)
    assert SAID not in capsys.readouterr().out
    assert "ipc" not in delt_jax.load(tmp_path / "out.npz").manifest


def test_a_set_taken_apart_keeps_its_floats_and_learned_labels(tmp_path):
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    path = floats(tmp_path / "set.npz", learned_labels=rows)
    before = delt_jax.load(path, **SPACE, factor=2, mirrored=True)
    apart = before.taken_apart()
    seen, learned = before.expand(before.learned_labels)
    order = np.argsort(before.expand(before.labels)[1], kind="stable")
    np.testing.assert_array_equal(apart.images, seen[order])
    np.testing.assert_array_equal(apart.learned_labels, learned[order])
    assert (apart.decoding, apart.copies, apart.ipc) == (None, 1, 16)
    assert apart.taken_apart() is apart


def test_only_squares_are_cut_into_parts(tmp_path):
    path = floats(tmp_path / "set.npz", side=(4, 6))
    with pytest.raises(UserError, match="6x4 px, and only square ones are cut"):
        delt_jax.export_set(path, "npz", tmp_path / "out.npz", rounds=True, factor=2, **SPACE)
    mirrored = delt_jax.export_set(
        path, "npz", tmp_path / "out.npz", rounds=True, mirrored=True, **SPACE
    )
    assert delt_jax.load(mirrored).ipc == 4
