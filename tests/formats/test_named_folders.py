"""Folders that are named after classes, beside the files that every export has."""

import numpy as np
import pytest

import delt_jax


@pytest.mark.parametrize("name", ["delt_jax.json", "soft_labels.npz", "Delt_JAX.json"])
@pytest.mark.parametrize("has_soft_labels", [True, False])
def test_a_class_may_be_called_as_a_file_of_the_export(tmp_path, name, has_soft_labels):
    names = sorted(("Ant", name, "zebra"))
    soft = {"soft_labels": np.eye(3, dtype=np.float32)} if has_soft_labels else {}
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "x.npz", images=pixels, labels=np.arange(3), class_names=names, **soft)
    found = delt_jax.load(delt_jax.export_set(tmp_path / "x.npz", "named", tmp_path / "out"))
    assert found.class_names == tuple(names)
    np.testing.assert_array_equal(found.images, pixels)
    assert (found.soft_labels is not None) == has_soft_labels
    assert (tmp_path / "out" / f"1_{name}").is_dir()
