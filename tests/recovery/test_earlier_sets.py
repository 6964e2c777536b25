"""Recovery that begins with a set that is there."""

import shutil
from dataclasses import replace

import chex
import numpy as np
import pytest
from tiny_run import manifest, read_json, tiny

from delt_jax import config, export, formats, main
from delt_jax.data import Normalisation, open_source
from delt_jax.errors import UserError
from delt_jax.formats import distilled, resizing
from delt_jax.formats.distilled import DistilledSet
from delt_jax.recipe import DataRecipe
from delt_jax.recovery import earlier_sets, initial_images

SOURCE = open_source(DataRecipe(name="digits"))
PLAIN = Normalisation((0.5,), (0.5,))
NAMES = (*"5379", "none", *"802146")  # other order, and a class too many


def make_set(size=16, channels=3, ipc=4, names=NAMES) -> DistilledSet:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (len(names) * ipc, size, size, channels), np.uint8)
    return DistilledSet(images, np.repeat(np.arange(len(names), dtype=np.int32), ipc), names, {})


def stored(folder, content, to="npz"):
    path = folder / f"theirs{formats.FORMATS[to].suffix}"
    if to != "npz":
        path.mkdir()
    formats.FORMATS[to].write(path, content, 0)
    return str(path)


def recipe(**changes):
    return config.from_config(tiny(**{"select.start": "set", **changes}))


@pytest.mark.parametrize("to", ["npz", "named", "distilled"])
def test_each_image_starts_from_the_one_of_its_class_and_rank(tmp_path, to):
    content = make_set(size=8, channels=1)
    asked = recipe(**{"select.set": stored(tmp_path, content, to)})
    initial_images.check(asked, SOURCE)
    starts = earlier_sets.prepare(asked, SOURCE, PLAIN)
    theirs = content.images.reshape(11, 4, 8, 8, 1)
    for label in range(10):
        here = starts.pixels([3 * label, 3 * label + 2])
        chex.assert_trees_all_equal(here, theirs[NAMES.index(str(label))][[0, 2]])
    (tmp_path / "set").mkdir()
    record = starts.record(tmp_path / "set")
    assert record["set"] == str(tmp_path / ("theirs.npz" if to == "npz" else "theirs"))
    assert record["resized"] == ""
    shutil.rmtree(tmp_path / "theirs", ignore_errors=True)  # is not needed any more
    again = initial_images.recorded(record, tmp_path / "set", SOURCE, PLAIN)
    chex.assert_trees_all_equal(again.pixels(range(30)), starts.pixels(range(30)))


def test_a_run_keeps_the_set_resized_and_notices_another_one(tiny_ranked, tmp_path, capsys):
    run, content = tmp_path / "run", make_set()
    shutil.copytree(tiny_ranked, run)
    path = stored(tmp_path, content)
    asked = {"select.start": "set", "select.set": path, "recover.iterations": 0}
    asked |= {"recover.round_iterations": 0}
    main.run(tiny(**asked), str(run), ["recover"])
    assert f"starts from {path}, resized: 16x16 px to 8x8 px, colour to grey" in (
        out := capsys.readouterr().out
    )
    assert "classes of it that the data lack are not used: none\n" in out
    order = [NAMES.index(str(label)) * 4 + rank for label in range(10) for rank in range(3)]
    kept = distilled.read(run / "distilled").images
    chex.assert_trees_all_equal(kept, resizing.resized(content.images[order], 8, 1))
    assert manifest(run)["start"]["resized"] == "16x16 px to 8x8 px, colour to grey"
    main.run(tiny(**asked), str(run), ["recover"], dry_run=True)
    assert "recover   would be skipped" in capsys.readouterr().out
    stored(tmp_path, replace(content, images=255 - content.images))
    main.run(tiny(**asked), str(run), ["recover"], dry_run=True)
    assert "recover   would run: redone because select.set was" in capsys.readouterr().out
    with pytest.raises(UserError, match="is the set of this very run"):
        main.run(tiny(**asked | {"select.set": str(run)}), str(run), ["recover"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (make_set(ipc=2), "has 2 images of each class, but ipc is 3; add --config.ipc=2, or less"),
        (make_set(names=NAMES[:6]), r"lacks 5 of the data's 10 classes \(0, 1, 2, 4, 6\)"),
        (make_set(names=tuple("01234")), "are only numbered; import it with .* --class_names"),
    ],
)
def test_a_set_that_does_not_fit_is_one_sentence(tmp_path, content, sentence):
    with pytest.raises(UserError, match=sentence):
        initial_images.check(recipe(**{"select.set": stored(tmp_path, content)}), SOURCE)


def test_a_set_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"select[.]set is empty; set it to a work directory"):
        initial_images.check(recipe(), SOURCE)
    with pytest.raises(UserError, match=r"select[.]set names /no/such: There is no /no/such"):
        initial_images.check(recipe(**{"select.set": "/no/such"}), SOURCE)
    asked = {"select.set": "x", "select.start": "real"}
    with pytest.raises(UserError, match=r"select[.]set is set, but select[.]start is 'real'"):
        initial_images.check(recipe(**asked), SOURCE)


def test_an_export_is_resized_when_asked(tmp_path, capsys):
    content = make_set()
    content = replace(content, soft_labels=np.zeros((44, 11), np.float32), manifest={"hash": "x"})
    wide = replace(content, images=content.images[:, :12])
    for each, said in ((content, "16x16 px to 8x8 px"), (wide, "16x12 px to 8x8 px")):
        formats.FORMATS["npz"].write(tmp_path / "set.npz", each, 0)
        source, out = tmp_path / "set.npz", tmp_path / f"run{said[3:5]}" / "distilled"
        export.run(export.ExportOptions(source, "distilled", out, size=8))
        assert f"resized {said}, and left out the soft labels" in capsys.readouterr().out
        made = distilled.read(out)
        assert read_json(out / "manifest.json")["resized"] == said
        columns = each.images[:, :, 2:14] if each is wide else each.images
        chex.assert_trees_all_equal(made.images, resizing.resized(columns, 8))
    with pytest.raises(UserError, match="--size is from 1 to 4096 px, or 0, not 5000"):
        export.run(export.ExportOptions(source, "npz", tmp_path / "x.npz", size=5000))


def test_scaling_is_by_areas():
    images = np.zeros((1, 4, 4, 1), np.uint8)
    images[0, :, :2] = 200
    chex.assert_trees_all_equal(
        resizing.resized(images, 4, 3), np.broadcast_to(images, (1, 4, 4, 3))
    )
    assert resizing.resized(images, 1)[0, 0, 0, 0] == 100
