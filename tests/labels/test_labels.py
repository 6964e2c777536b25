"""Stored labels of views: what their few bytes keep, their size, damage, whose they are."""

import dataclasses
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_labels import IMAGES, IPC, RECIPE, asking, compress, expand, plan_with

from delt_jax.core import keys
from delt_jax.errors import UserError
from delt_jax.labels import compact, label_store, soft_labels
from delt_jax.labels.compact import Compact
from delt_jax.labels.label_store import LabelPlan
from delt_jax.store import files
from delt_jax.training import protocols
from delt_jax.training.protocols import EvalSetting

# --- labels in few bytes ---

KEPT = st.sampled_from([(2, 1), (10, 0), (10, 3), (10, 9), (10, 12), (300, 5)])


@settings(max_examples=40, deadline=None)
@given(st.data(), KEPT, st.sampled_from(["logits", "probabilities"]), st.floats(1, 20, width=32))
def test_compress_and_expand(data, kept, form, temperature):
    num_classes, top_k = kept
    rows_of = hnp.arrays(np.float32, (3, num_classes), elements=st.floats(-60, 60, width=32))
    logits = data.draw(rows_of)
    labels = jax.device_get(compress(logits, top_k, form, temperature))
    back = np.asarray(expand(labels, num_classes, form, temperature))
    chex.assert_shape(back, logits.shape)
    assert labels.values.shape[1] == compact.columns(top_k, num_classes, form)
    assert (back >= 0).all()
    np.testing.assert_allclose(back.sum(axis=1), 1.0, atol=1e-5)
    # What float64 makes of the same, without rounding to float16.
    scaled = logits.astype(np.float64) / temperature
    exact = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    if labels.classes is None:
        assert compact.keeps_all(top_k, num_classes)
        np.testing.assert_allclose(back, exact, rtol=0.05, atol=1e-6)
        return
    rows = np.arange(len(logits))[:, None]
    largest = labels.classes.astype(int)
    np.testing.assert_array_equal(logits[rows, largest], -np.sort(-logits, axis=1)[:, :top_k])
    others = np.ones_like(exact, bool)
    others[rows, largest] = False
    for row, place in zip(back, others, strict=True):
        assert place.sum() == num_classes - top_k  # no class is kept twice
        assert len(set(row[place])) == 1
        assert row[place].max() <= row[~place].min() * (1 + 1e-6)
    if form == "probabilities":
        np.testing.assert_allclose(back[rows, largest], exact[rows, largest], rtol=0.01, atol=1e-6)
    first = back[rows[:, 0], largest[:, 0]]
    np.testing.assert_allclose(first, back.max(axis=1), rtol=1e-6)  # the argmax is kept


def test_of_logits_the_mean_of_the_others_is_kept():
    logits = np.array([[1, 100, 2, 6, 50]], np.float32)
    labels = compress(logits, 2, "logits", 1.0)
    np.testing.assert_array_equal(labels.values, [[100, 50, 3]])
    np.testing.assert_array_equal(labels.classes, [[1, 4]])
    expected = jax.nn.softmax(jnp.array([[3, 100, 3, 3, 50]]) / 20)
    chex.assert_trees_all_close(expand(labels, 5, "logits", 20.0), expected, rtol=1e-6)


def test_what_probabilities_leave_is_spread_evenly():
    logits = np.log(np.array([[0.05, 0.5, 0.15, 0.25, 0.05]], np.float32))
    labels = compress(logits, 2, "probabilities", 1.0)
    got = expand(labels, 5, "probabilities", 1.0)
    chex.assert_trees_all_close(got, np.array([[1, 6, 1, 3, 1]]) / 12, atol=1e-3)


def test_rounding_lets_no_other_class_overtake_the_kept_ones():
    """Thirds are rounded down, so the class that is left out would get most."""
    labels = compress(np.zeros((1, 3), np.float32), 2, "probabilities", 20.0)
    got = np.asarray(expand(labels, 3, "probabilities", 20.0))
    assert got[0, 2] <= got[0, 0] == got[0, 1]


@pytest.mark.parametrize(
    ("form", "logit", "words"),
    [
        ("logits", 65504, None),
        ("logits", 65600, r'beyond ±65504.*relabel\.form to "probabilities"'),
        ("logits", -1e6, "beyond ±65504"),
        ("logits", np.nan, "are not numbers"),
        ("probabilities", 65600, None),
        ("probabilities", np.inf, "are not numbers"),
    ],
)
def test_logits_beyond_float16(form, logit, words):
    logits = np.array([[0, logit, 1]], np.float32)
    labels = compress(logits, 0, form, 20.0)
    if words is None:
        compact.check_finite(labels, form)
        return
    with pytest.raises(UserError, match=words):
        compact.check_finite(labels, form)


@pytest.mark.parametrize(
    ("top_k", "num_classes", "all_kept", "of_logits", "of_probabilities"),
    [
        (0, 5, True, 5, 5),
        (1, 5, False, 2, 1),
        (4, 5, False, 5, 4),
        (5, 5, True, 5, 5),
        (6, 5, True, 5, 5),
    ],
)
def test_values_per_image(top_k, num_classes, all_kept, of_logits, of_probabilities):
    assert compact.keeps_all(top_k, num_classes) is all_kept
    assert compact.columns(top_k, num_classes, "logits") == of_logits
    assert compact.columns(top_k, num_classes, "probabilities") == of_probabilities
    for form, width in (("logits", of_logits), ("probabilities", of_probabilities)):
        labels = compress(np.zeros((2, num_classes), np.float32), top_k, form, 1.0)
        assert labels.values.shape == (2, width)
        assert labels.values.dtype == np.float16
        assert (labels.classes is None) is all_kept


@pytest.mark.parametrize(
    ("num_classes", "dtype"),
    [(2, np.uint8), (256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.uint32)],
)
def test_the_smallest_type_that_holds_a_class(num_classes, dtype):
    assert compact.index_dtype(num_classes) == dtype


def test_the_temperature_divides_logits_once():
    """Logits T ln(1, 2, 5) are probabilities 1/8, 2/8 and 5/8 at T."""
    logits = 4 * np.log(np.array([[1, 2, 5]], np.float32))
    exact = np.array([[1, 2, 5]]) / 8
    for form in ("logits", "probabilities"):
        back = expand(compress(logits, 0, form, 4.0), 3, form, 4.0)
        np.testing.assert_allclose(back, exact, rtol=2e-3)
    kept = compress(logits, 1, "probabilities", 4.0)
    np.testing.assert_array_equal(kept.values, [[0.625]])
    np.testing.assert_allclose(
        expand(kept, 3, "probabilities", 4.0), [[0.1875, 0.1875, 0.625]], rtol=1e-6
    )
    mean = compress(np.array([[8, 1, 2, 6]], np.float32), 1, "logits", 4.0)
    np.testing.assert_array_equal(mean.values, [[8, 3]])  # (1 + 2 + 6) / 3
    np.testing.assert_array_equal(mean.classes, [[0]])


def test_kept_probabilities_above_one_leave_nothing_to_the_others():
    labels = Compact(np.array([[0.75, 0.5]], np.float16), np.array([[2, 0]], np.uint8))
    got = expand(labels, 4, "probabilities", 1.0)
    np.testing.assert_allclose(got, [[0.4, 0, 0.6, 0]], rtol=1e-6)


def test_every_class_gets_what_it_had_where_all_are_kept():
    probabilities = np.array([[0.5, 0.125, 0.375]], np.float32)
    got = expand(Compact(2 * probabilities, None), 3, "probabilities", 1.0)
    np.testing.assert_allclose(got, probabilities, rtol=1e-6)  # rows sum to one again


# --- the file ---


@pytest.mark.parametrize(
    ("changes", "per_image"),
    [
        ({}, 4 * 2 + 3),
        ({"form": "probabilities"}, 3 * 2 + 3),
        ({"top_k": 0}, 10 * 2),
        ({"top_k": 10}, 10 * 2),
        ({"num_classes": 256, "top_k": 5}, 6 * 2 + 5),
        ({"num_classes": 257, "top_k": 5}, 6 * 2 + 5 * 2),
        ({"num_classes": 1000, "form": "probabilities", "top_k": 1}, 2 + 2),
    ],
)
def test_the_size_is_known_before(tmp_path, changes, per_image):
    plan = plan_with(**changes)
    assert label_store.stored_bytes(plan) == 4 * IMAGES * per_image
    assert label_store.naive_bytes(plan) == 40 * IMAGES * plan.num_classes * 2
    store, _ = stored(tmp_path, plan)
    assert (tmp_path / "views.bin").stat().st_size == label_store.stored_bytes(plan)
    assert store.plan == plan


NAMES = {n: tuple(f"class {i}" for i in range(n)) for n in (10, 256, 257, 1000)}


def stored(folder: Path, plan: LabelPlan, **other):
    """Stores random labels; gives them as they are read back, and as they were."""
    rng = np.random.default_rng(0)
    shape = (plan.num_images, plan.num_classes)
    labels = [
        jax.device_get(
            compress(
                rng.normal(0, 9, shape).astype(np.float32), plan.top_k, plan.form, plan.temperature
            )
        )
        for _ in range(plan.epochs)
    ]
    digests = label_store.write(folder, map(label_store.to_bytes, labels))
    manifest = {"distilled": "d1", "class_names": list(NAMES[plan.num_classes])}
    manifest["stored"] = label_store.describe(plan, digests, ["t1"])
    soft_labels.write(folder, np.zeros(shape, np.float32), manifest | other)
    return label_store.open_store(folder, "d1", NAMES[plan.num_classes]), labels


@pytest.mark.parametrize("top_k", [0, 3])
@pytest.mark.parametrize("num_classes", [10, 257])
def test_labels_are_read_as_they_were_written(tmp_path, top_k, num_classes):
    plan = plan_with(num_images=7, top_k=top_k, num_classes=num_classes)
    store, labels = stored(tmp_path, plan)
    assert store.plan == plan
    for epoch in (3, 0, 5, 4, 1):  # in any order; the fifth is the first again
        back = store.read(epoch)
        np.testing.assert_array_equal(back.values, labels[epoch % 4].values, strict=True)
        assert isinstance(back.values, np.memmap)
        if top_k:
            np.testing.assert_array_equal(back.classes, labels[epoch % 4].classes, strict=True)
        else:
            assert back.classes is None
    drawn_from = [jax.random.key_data(plan.epoch(e).key).tolist() for e in range(6)]
    assert drawn_from[:2] == drawn_from[4:]
    assert len(set(map(tuple, drawn_from))) == 4


@pytest.mark.parametrize("form", ["logits", "probabilities"])
@pytest.mark.parametrize("batch", [1, 7, 30])
def test_any_batch_size_reads_the_same(tmp_path, form, batch):
    plan = plan_with(form=form)
    store, _ = stored(tmp_path, plan)
    labels = store.read(1)
    whole = expand(labels, 10, form, 20.0)
    pieces = [
        expand(Compact(labels.values[i : i + batch], labels.classes[i : i + batch]), 10, form, 20.0)
        for i in range(0, IMAGES, batch)
    ]
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=1e-6)


def test_a_flipped_byte_is_refused_when_its_epoch_is_read(tmp_path):
    plan = plan_with()
    stored(tmp_path, plan)
    path = tmp_path / "views.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # the first byte of the third of four epochs
    path.write_bytes(content)
    store = label_store.open_store(tmp_path, "d1", NAMES[10])
    for epoch in (0, 1, 3):
        store.read(epoch)
    with pytest.raises(UserError, match=r"Epoch 2 of .*views\.bin is damaged.* relabel stage aga"):
        store.read(2)


def refused(folder: Path, distilled_hash: str = "d1", names=NAMES[10]) -> str:
    with pytest.raises(UserError, match="run the relabel stage again") as error:
        label_store.open_store(folder, distilled_hash, names)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path):
    stored(tmp_path, plan_with())
    assert "another distilled set" in refused(tmp_path, "d2")
    swapped = (NAMES[10][1], NAMES[10][0], *NAMES[10][2:])
    assert "'class 0' against 'class 1'; 'class 1' against" in refused(tmp_path, names=swapped)
    assert "10 against 9 classes" in refused(tmp_path, names=NAMES[10][:9])
    size = label_store.stored_bytes(plan_with())
    for length in (size - 1, size + 1, 0):
        (tmp_path / "views.bin").write_bytes(bytes(length))
        assert f"has {length} bytes where its manifest promises {size}" in refused(tmp_path)
    (tmp_path / "views.bin").unlink()
    assert "has 0 bytes" in refused(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("distilled"),
        lambda m: m["stored"].pop("sha256"),
        lambda m: m["stored"]["sha256"].pop(),
        lambda m: m["stored"]["plan"].pop("views"),
        lambda m: m["stored"]["plan"].update(views={"zoom": 2}),
        lambda m: m["stored"]["plan"].update(epochs="4"),
        lambda m: m["stored"]["plan"].update(epochs=0),
        lambda m: m["stored"].update(plan=[1]),
    ],
)
def test_a_manifest_of_something_else(tmp_path, change):
    stored(tmp_path, plan_with())
    manifest = files.read_json(tmp_path / "manifest.json")
    change(manifest)
    files.write_json(tmp_path / "manifest.json", manifest)
    refused(tmp_path)


def test_without_stored_labels(tmp_path):
    soft_labels.write(tmp_path, np.zeros((30, 10), np.float32), {"distilled": "d1"})
    assert 'add "stored" to evaluate.regimes' in refused(tmp_path)


def test_the_hash_of_soft_labels_stands_for_those_of_views_too(tmp_path):
    hashes = []
    for name, changes in (("a", {}), ("b", {}), ("c", {"top_k": 2})):
        (tmp_path / name).mkdir()
        stored(tmp_path / name, plan_with(**changes))
        hashes.append(files.read_json(tmp_path / name / "manifest.json")["hash"])
        soft_labels.read(tmp_path / name, "d1")
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_bytes_of_an_epoch():
    """Values before classes, little-endian, row by row, without gaps."""
    labels = Compact(
        np.array([[1.0, 0.5], [-2.0, 0.0]], np.float16), np.array([[258], [3]], np.uint16)
    )
    values = bytes.fromhex("003c 0038 00c0 0000".replace(" ", ""))
    assert label_store.to_bytes(labels) == values + b"\x02\x01\x03\x00"
    assert label_store.to_bytes(Compact(labels.values.astype(">f2"), None)) == values
    turned = Compact(labels.values, labels.classes.astype(">u2"))
    assert label_store.to_bytes(turned) == label_store.to_bytes(labels)


def test_sizes_by_hand():
    """30 images: 4 values of 2 bytes and 3 classes of 1 byte, 4 epochs; all of 10 in 40 epochs."""
    plan = plan_with()
    assert label_store.stored_bytes(plan) == 4 * 30 * 11 == 1320
    assert label_store.naive_bytes(plan) == 40 * 30 * 10 * 2 == 24000
    assert label_store.ratio(plan) == 0.055
    whole = plan_with(top_k=0, epochs=40)
    assert label_store.ratio(whole) == 1.0


@pytest.mark.parametrize(
    ("changes", "classes", "width", "size", "ratio"),
    [
        ({}, "uint8", 4, 1320, 0.055),
        ({"num_classes": 300, "form": "probabilities"}, "uint16", 3, 1440, 0.002),
        ({"top_k": 0}, None, 10, 2400, 0.1),
        ({"top_k": 1, "num_classes": 7, "form": "probabilities"}, "uint8", 1, 360, 0.021429),
    ],
)
def test_the_manifest_describes_the_file(changes, classes, width, size, ratio):
    plan = plan_with(**changes)
    assert label_store.describe(plan, ["s1", "s2"], ("t1", "t2")) == {
        "file": "views.bin",
        "layout": "per epoch: values [images, width], then classes [images, top_k] if not all",
        "plan": {
            "seed": 0,
            "epochs": 4,
            "images": 30,
            "num_classes": plan.num_classes,
            "form": plan.form,
            "top_k": plan.top_k,
            "temperature": 20.0,
            "views": plan.views.as_dict(),
            "group_size": 8,
            "trained_epochs": 40,
        },
        "key": ["seed", "labels", "epoch"],
        "dtype": {"values": "float16", "classes": classes},
        "width": width,
        "teachers": ["t1", "t2"],
        "sha256": ["s1", "s2"],
        "bytes": size,
        "naive_bytes": 30 * plan.num_classes * 40 * 2,
        "ratio": ratio,
    }
    assert LabelPlan.from_dict(plan.as_dict()) == plan


def test_the_first_and_the_last_epoch_are_checked(tmp_path):
    plan = plan_with()
    stored(tmp_path, plan)
    path = tmp_path / "views.bin"
    whole = path.read_bytes()
    for place, epoch in ((0, 0), (329, 0), (330, 1), (989, 2), (990, 3), (1319, 3)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 128]) + whole[place + 1 :])
        store = label_store.open_store(tmp_path, "d1", NAMES[10])
        for other in {0, 1, 2, 3} - {epoch}:
            store.read(other)
        with pytest.raises(UserError, match=f"Epoch {epoch} of"):
            store.read(epoch + 4)


@pytest.mark.parametrize("checksums", [3, 5])
def test_there_is_a_checksum_for_every_epoch(tmp_path, checksums):
    plan, epoch = plan_with(), bytes(330)
    digests = label_store.write(tmp_path, [epoch] * 4)
    known = (digests * 2)[:checksums]
    manifest = {"distilled": "d1", "class_names": list(NAMES[10])}
    manifest["stored"] = label_store.describe(plan, known, ["t1"])
    soft_labels.write(tmp_path, np.zeros((30, 10), np.float32), manifest)
    with pytest.raises(UserError, match="has 1320 bytes where its manifest promises 1320"):
        label_store.open_store(tmp_path, "d1", NAMES[10])


@pytest.mark.parametrize("name", ["epochs", "images", "num_classes", "group_size"])
def test_plans_have_one_of_everything_at_least(name):
    stored = plan_with().as_dict()
    assert LabelPlan.from_dict(stored | {name: 1}).as_dict() == stored | {name: 1}
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"{name} is {wrong}"):
            LabelPlan.from_dict(stored | {name: wrong})


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_plans_have_a_temperature_above_0(temperature):
    stored = plan_with().as_dict()
    assert LabelPlan.from_dict(stored | {"temperature": 1e-3}).temperature == 1e-3
    with pytest.raises(ValueError, match="temperature is"):
        LabelPlan.from_dict(stored | {"temperature": temperature})


def test_labels_of_no_epoch_are_none(tmp_path):
    plan = plan_with(epochs=0)
    assert label_store.write(tmp_path, []) == []
    manifest = {"distilled": "d1", "class_names": list(NAMES[10])}
    manifest["stored"] = label_store.describe(plan_with(), [], ["t1"])
    manifest["stored"]["plan"] = plan.as_dict()
    soft_labels.write(tmp_path, np.zeros((30, 10), np.float32), manifest)
    with pytest.raises(UserError, match="epochs is 0"):
        label_store.open_store(tmp_path, "d1", NAMES[10])


def test_epochs_that_are_intact_are_found_one_by_one(tmp_path):
    plan = plan_with()
    epochs = [bytes([i]) * 330 for i in range(4)]
    digests = label_store.write(tmp_path, epochs)
    path = tmp_path / "views.bin"
    assert list(label_store.intact_epochs(path, plan, digests)) == list(enumerate(epochs))
    content = bytearray(path.read_bytes())
    content[700] ^= 1  # in the third
    path.write_bytes(content[:-1])  # and the last is cut
    found = [number for number, _ in label_store.intact_epochs(path, plan, digests)]
    assert found == [0, 1]
    path.unlink()
    assert list(label_store.intact_epochs(path, plan, digests)) == []


def test_of_many_other_names_three_are_told(tmp_path):
    stored(tmp_path, plan_with())
    others = [f"other {i}" for i in range(10)]
    text = refused(tmp_path, names=others)
    assert "'class 2' against 'other 2'" in text
    assert "'class 3'" not in text


# --- the plan of a recipe ---


def test_the_plan_follows_the_protocol():
    setting = EvalSetting("conv3", 10, IPC, 8)
    plan = protocols.label_plan(RECIPE, setting)
    protocol = protocols.resolve(RECIPE, setting)
    assert (plan.views, plan.group_size) == (protocol.views, protocol.batch_size)
    assert (plan.epochs, plan.trained_epochs, plan.temperature) == (3, 5, 20.0)
    every = protocols.label_plan(asking(stored_epochs=0, top_k=10), setting)
    assert (every.epochs, every.top_k) == (5, 0)
    key = jax.random.key_data(plan.epoch(1).key)
    for same in (keys.stream(0, "labels", 1), jax.jit(lambda e: plan.epoch(e).key)(4)):
        np.testing.assert_array_equal(key, jax.random.key_data(same))
    other = dataclasses.replace(plan, seed=1).epoch(1).key
    assert (key != jax.random.key_data(other)).any()
