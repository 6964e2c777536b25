"""Pictures of cameras and with an alpha channel: a set of them is read as a run reads its data."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import delt_jax
from delt_jax.data import fit, open_source
from delt_jax.recipe import DataRecipe

SAID = "transparency is dropped: 2 of 3 pictures with an alpha channel"


def turned(orientation=6) -> bytes:
    """A picture that is white above and black below, until its EXIF orientation turns it."""
    pixels, exif, file = np.zeros((8, 8, 3), np.uint8), Image.Exif(), io.BytesIO()
    pixels[:4] = 255
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, "JPEG", exif=exif, quality=95)
    return file.getvalue()


def veiled(alpha: int) -> bytes:
    pixels, file = np.full((8, 8, 4), 200, np.uint8), io.BytesIO()
    pixels[..., 3] = alpha
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def folder(path, contents, ending):
    for i, content in enumerate(contents):
        (path / str(i)).mkdir(parents=True)
        (path / str(i) / f"0.{ending}").write_bytes(content)
    return path


def parquet(path, contents, ending):
    del ending
    rows = {"image": [{"bytes": content} for content in contents]}
    pq.write_table(pa.table(rows | {"label": list(range(len(contents)))}), path)
    return path


def loaded(tmp_path, layout, contents, ending):
    path = tmp_path / ("set.parquet" if layout is parquet else "set")
    return delt_jax.load(layout(path, contents, ending))


@pytest.mark.parametrize("layout", [folder, parquet])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, layout, orientation):
    found = loaded(tmp_path, layout, [turned(orientation)], "jpg").images[0, ..., 0]
    halves = {"top": found[:3], "bottom": found[5:], "left": found[:, :3], "right": found[:, 5:]}
    white = [name for name, half in halves.items() if half.min() > 200]
    where = ("top", "top", "bottom", "bottom", "left", "right", "right", "left")
    assert white == [where[orientation - 1]]
    np.testing.assert_array_equal(found, np.asarray(fit.decode(turned(orientation)).convert("L")))


def test_a_set_and_the_data_of_a_run_are_read_alike(tmp_path):
    for name in "ab":
        for i in range(2):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / name / f"{i}.jpg").write_bytes(turned())
    found = delt_jax.load(tmp_path / "photos")
    recipe = DataRecipe("folder", str(tmp_path / "photos"), image_size=8, test_share=0.5)
    data = open_source(recipe)
    np.testing.assert_array_equal(found.images[:1], data.train.images(np.array([0])))
    assert found.images[0, :, :3].max() < 50  # what was below is on the left
    assert found.images[0, :, 5:].min() > 200


@pytest.mark.parametrize("layout", [folder, parquet])
def test_transparency_that_is_dropped_is_said(tmp_path, capsys, layout):
    contents = [veiled(0), veiled(100), veiled(200)]
    found = loaded(tmp_path, layout, contents, "png")
    assert (found.images == 200).all()
    assert SAID in capsys.readouterr().out


def test_an_export_says_that_transparency_is_dropped(tmp_path, capsys):
    path = folder(tmp_path / "set", [veiled(0), veiled(100), veiled(200)], "png")
    delt_jax.export_set(path, "npz", tmp_path / "out.npz")
    assert capsys.readouterr().out.count(SAID) == 1


def test_pictures_that_hide_nothing_are_read_without_a_word(tmp_path, capsys):
    loaded(tmp_path, folder, [veiled(255), veiled(128)], "png")
    assert "transparency" not in capsys.readouterr().out
