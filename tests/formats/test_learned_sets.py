"""Sets of float images: whatever stores them gives back the same bits, or one sentence."""

import ast
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flax import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

import delt_jax
from delt_jax import export
from delt_jax.core.normalisation import Normalisation
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.formats import FORMATS, distilled, learned_arrays, own, torch_zip
from delt_jax.formats.decoding import Decoding, enlarging
from delt_jax.formats.distilled import DistilledSet
from delt_jax.store import artefact

CLASSES, IPC = 3, 2


def space(size=4, channels=3, kind="zca"):
    draw = np.random.default_rng(1)
    constants = Normalisation((0.4,) * channels, (0.2,) * channels)
    if kind in ("standardise", "unit"):
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


# --- other layouts ---

FLOAT_LAYOUTS = ("distilled", "npz", "pt", "parquet")


def exported(tmp_path, content, to, **how):
    """Writes a set as our own layout, and exports that."""
    own.write(tmp_path / "source", content)
    options = {"to": to, "out": tmp_path / f"out.{to}"}
    return delt_jax.export_set(tmp_path / "source", **options | how)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    return tmp_path


@pytest.mark.parametrize("to", FLOAT_LAYOUTS)
@pytest.mark.parametrize(
    ("kind", "form", "decoding"),
    [
        ("zca", "centred", None),
        ("standardise", "logits", Decoding(2)),
        ("kornia", "", None),
        ("unit", "", None),
    ],
)
def test_layouts_keep_every_bit(source, capsys, to, kind, form, decoding):
    content = learned(kind=kind, form=form, decoding=decoding)
    out = exported(source, content, to)
    assert "lossless: reads back bit for bit" in capsys.readouterr().out
    found = delt_jax.load(out)
    assert_same(found, content)
    assert found.manifest["method"] == "frepo"
    # And on from there, by way of another layout.
    again = delt_jax.export_set(out, "npz", source / "again.npz")
    assert_same(delt_jax.load(again).per_class(1), content.per_class(1))


def test_an_export_may_be_replaced(source):
    content = learned()
    for to in FLOAT_LAYOUTS:
        exported(source, content, to)
        exported(source, content, to, overwrite=True)


@pytest.mark.parametrize("to", ["folder", "named", "new000", "tfds"])
def test_layouts_of_pictures_refuse_floats(source, to):
    with pytest.raises(UserError, match=r"stores pixels.*--round"):
        exported(source, learned(), to)


def test_rounding_is_asked_for_and_said(source, capsys):
    content = learned(kind="standardise")
    out = exported(source, content, "folder", rounds=True)
    said = capsys.readouterr().out
    share = content.rounded().manifest["clipped"]
    assert f"rounded to 8 bits, as asked; {share:.2%} of the values were clipped" in said
    assert "lossless" not in said
    np.testing.assert_array_equal(delt_jax.load(out).images, content.to_look_at().images)


def test_a_card_says_what_floats_are(source):
    out = exported(source, learned(), "parquet")
    card = (out / "README.md").read_text()
    assert "float32, which go beyond black and white" in card
    assert "`matrix` of `whitening.npz` (zca)" in card
    assert "`learned_label`" in card


@pytest.mark.parametrize("kind", ["standardise", "unit", "zca"])
def test_the_code_of_a_card_does_what_it_says(source, kind):
    content = learned(kind=kind)
    out = exported(source, content, "parquet")
    card = (out / "README.md").read_text()
    code = next(c for c in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "delt_jax" in c)
    pixels = np.random.default_rng(2).integers(0, 256, (5, 4, 4, 3), np.uint8)
    names = {"pixels": pixels}
    exec(code.replace("PATH", str(out)), names)
    assert_same(names["data"], content)

    # What test images go through, as the sentence below the code has it.
    constants = re.search(r"\(pixel / 255 - (\(.*?\))\) / (\(.*?\))", card)
    mean, std = (np.array(ast.literal_eval(text)) for text in constants.groups())
    wanted = (pixels / 255 - mean) / std
    assert ("minus its own mean, scaled to unit length" in card) == (kind == "unit")
    if kind == "unit":
        wanted -= wanted.mean((1, 2, 3), keepdims=True)
        wanted /= np.sqrt((wanted**2).sum((1, 2, 3), keepdims=True))
    if kind == "zca":
        assert "minus `centre`, times `matrix` of `whitening.npz` (zca)" in card
        with np.load(out / "whitening.npz") as whitening:
            wanted = (wanted.reshape(5, -1) - whitening["centre"]) @ whitening["matrix"]
    found = content.preprocessing(pixels)
    np.testing.assert_allclose(found, wanted.reshape(found.shape), atol=1e-5)


def test_a_table_without_its_whitening(source):
    out = exported(source, learned(), "parquet")
    (out / "whitening.npz").unlink()
    with pytest.raises(UserError, match=r"no whitening\.npz beside it"):
        delt_jax.load(out)


@pytest.mark.parametrize("to", ["npz", "pt", "parquet"])
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ({"preprocessing": {}}, "describes no preprocessing"),
        ({"learned_labels": {"form": "odd"}}, "no known form"),
        ({"decoding": {"factor": 0, "mirrored": False}}, "no decoding"),
    ],
)
def test_odd_manifests_are_one_sentence(source, to, harm, said):
    content = learned()
    odd = replace(content, manifest=content.manifest | harm)
    path = source / ("set" if to == "parquet" else f"set.{to}")
    if to == "parquet":
        path.mkdir()
    FORMATS[to].write(path, odd, 0)
    with pytest.raises(UserError, match=said):
        delt_jax.load(path)


# --- sets that others publish ---


def test_mtt_keeps_floats_and_datm_its_logits(tmp_path):
    published = tmp_path / "published"
    published.mkdir()
    draw = np.random.default_rng(0)
    images = draw.normal(0, 2, (4, 3, 5, 5)).astype(np.float32)
    torch_zip_file(published / "images_best.pt", images)
    torch_zip_file(published / "labels_best.pt", np.array([0, 0, 1, 1]))
    with pytest.raises(UserError, match="--preprocessing"):
        delt_jax.load(published)
    found = delt_jax.load(published, mean=[0.5], std=[0.25])
    np.testing.assert_array_equal(found.images, np.moveaxis(images, 1, 3))
    assert found.learned_labels is None
    whitening = space(5, 3, "kornia")
    np.savez(tmp_path / "space.npz", **learned_arrays.space_arrays(whitening))
    logits = draw.normal(size=(4, 2)).astype(np.float32)
    torch_zip_file(published / "labels_best.pt", logits)
    datm = delt_jax.load(published, preprocessing=tmp_path / "space.npz")
    assert datm.preprocessing.sha256 == whitening.sha256
    assert datm.label_form == "logits"
    # Logits that left their classes: these are as the images come.
    assert datm.labels.tolist() == [0, 0, 1, 1]
    if np.bincount(logits.argmax(1), minlength=2).tolist() != [2, 2]:
        np.testing.assert_array_equal(datm.learned_labels, logits)
    whitened = {"preprocessing": tmp_path / "space.npz"}
    out = delt_jax.export_set(published, "npz", tmp_path / "x.npz", **whitened)
    assert_same(delt_jax.load(out), datm)


def test_idc_is_pixels_that_are_cut(tmp_path):
    images = np.random.default_rng(0).random((4, 1, 6, 6)).astype(np.float32)
    torch_zip_file(tmp_path / "data.pt", [images, np.array([0, 0, 1, 1])])
    found = delt_jax.load(tmp_path / "data.pt", mean=[0.3], std=[0.4], factor=2)
    np.testing.assert_allclose(found.images, (np.moveaxis(images, 1, 3) - 0.3) / 0.4, atol=1e-6)
    assert found.decoding == Decoding(2)
    trained_on, labels = found.expand(found.labels)
    assert trained_on.shape == (16, 6, 6, 1)
    assert labels.tolist() == [0] * 8 + [1] * 8
    with pytest.raises(UserError, match="factor"):
        delt_jax.load(tmp_path / "data.pt", mean=[0.3], std=[0.4], factor=7)


def test_mirrored_copies_of_an_import_are_said(tmp_path):
    """RCIG's checkpoints do not say that students of colour images train on them."""
    content = learned()
    values = (np.eye(CLASSES) - 1 / CLASSES)[content.labels].astype(np.float32)
    path = checkpoint(tmp_path / "checkpoint_10", x_proto=content.images, y_proto=values)
    options = export.parse(
        ["export", str(path), "--to=distilled", "--mirrored", "--mean=0.4", "--std=0.2",
         f"--out={tmp_path / 'run/distilled'}"]
    )  # fmt: skip
    export.run(options)
    found = delt_jax.load(tmp_path / "run/distilled")
    assert found.decoding == Decoding(1, True)
    seen, _ = found.expand(found.labels)
    np.testing.assert_array_equal(seen, [*content.images, *content.images[:, :, ::-1]])
    card = delt_jax.export_set(tmp_path / "run", "parquet", tmp_path / "out") / "README.md"
    assert "a mirrored copy of every image" in card.read_text()
    with pytest.raises(UserError, match=r"says itself .* give neither a factor nor mirrored"):
        delt_jax.load(tmp_path / "run", mirrored=True)
    rounded = delt_jax.export_set(
        path, "npz", tmp_path / "x.npz", mean=[0.4], std=[0.2], rounds=True
    )
    with pytest.raises(UserError, match=r"holds pixels.* give neither a factor nor mirrored"):
        delt_jax.load(rounded, mirrored=True)


def torch_zip_file(path, content):
    """A file as torch.save writes one; the top value may be any that the writer takes."""
    path.write_bytes(torch_zip.dumps(content))


@pytest.mark.parametrize(
    ("drop", "said"),
    [("mean", "it has no mean"), ("centre", "not of one set"), ("matrix", "not of one set")],
)
def test_odd_whitenings_are_one_sentence(tmp_path, drop, said):
    arrays = learned_arrays.space_arrays(space())
    np.savez(tmp_path / "space.npz", **{k: v for k, v in arrays.items() if k != drop})
    np.savez(tmp_path / "set.npz", images=learned().images, labels=learned().labels)
    with pytest.raises(UserError, match=said):
        delt_jax.load(tmp_path / "set.npz", preprocessing=tmp_path / "space.npz")


def test_a_whitening_of_another_size(tmp_path):
    np.savez(tmp_path / "space.npz", **learned_arrays.space_arrays(space(5)))
    np.savez(tmp_path / "set.npz", images=learned().images, labels=learned().labels)
    with pytest.raises(UserError, match="whitening is of 75 values"):
        delt_jax.load(tmp_path / "set.npz", preprocessing=tmp_path / "space.npz")


def checkpoint(path, **parameters):
    state = {"step": 3, "params": parameters, "opt_state": {"0": {"mu": np.zeros(2, np.float32)}}}
    path.write_bytes(serialization.msgpack_serialize(state))
    return path


def test_flax_checkpoints_of_frepo(tmp_path):
    content = learned()
    values = content.learned_labels.copy()
    values[np.arange(len(values)), content.labels] = 9  # the classes, as many of each
    path = checkpoint(tmp_path / "checkpoint_1000", x_proto=content.images, y_proto=values)
    found = delt_jax.load(path, mean=[0.4], std=[0.2])
    np.testing.assert_array_equal(found.images, content.images)
    np.testing.assert_array_equal(found.learned_labels, values)
    assert found.label_form == "centred"


def test_a_checkpoint_is_what_its_evaluation_takes(tmp_path):
    """RCIG's average over steps, FRePo's parameters; moments have the same names."""
    content = learned()
    values = np.eye(CLASSES, dtype=np.float32)[content.labels]
    own_images, *others = ({"x_proto": content.images + i, "y_proto": values} for i in range(3))
    for more, average in (({"log_temp": np.zeros((), np.float32)}, 2), ({}, 0)):
        state = {
            "ema_average": others[1],
            "params": own_images | more,
            "opt_state": {"mu": others[0]},
        }
        path = tmp_path / "checkpoint_1"
        path.write_bytes(serialization.msgpack_serialize(state))
        found = delt_jax.load(path, mean=[0.4], std=[0.2])
        np.testing.assert_array_equal(found.images, content.images + average)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-9]), "damaged"),
        (lambda p: p.write_bytes(b"\x80\x04\x95" + p.read_bytes()), "no checkpoint|no images"),
        (lambda p: checkpoint(p, x_proto=np.zeros((2, 3, 3, 1), np.float32)), "no images x_proto"),
    ],
)
def test_odd_checkpoints_are_one_sentence(tmp_path, harm, said):
    content = learned()
    path = checkpoint(tmp_path / "checkpoint_1", x_proto=content.images, y_proto=content.images)
    harm(path)
    with pytest.raises(UserError, match=said):
        delt_jax.load(path, mean=[0.4], std=[0.2])


def test_loading_floats_needs_no_jax(source):
    paths = [str(exported(source, learned(), to)) for to in ("distilled", "npz", "parquet")]
    code = (
        "import sys, delt_jax\n"
        "sys.modules |= dict.fromkeys(('jax', 'flax', 'chex', 'torch'))\n"
        f"for path in {paths}:\n"
        "    print(delt_jax.load(path).to_look_at().images.dtype)\n"
    )
    root = Path(delt_jax.__file__).parent.parent
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert result.stdout.split() == ["uint8"] * 3, result.stderr
