"""Stored labels of views: their size, what is lost, resume, damage, several teachers."""

import dataclasses
import re
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from delt_jax import keys, labelling, protocols, relabel, squeeze, teacher
from delt_jax.augment.views import ViewSpec, plan_epoch, student_views
from delt_jax.data import Normalisation, Source, open_source, read
from delt_jax.errors import UserError
from delt_jax.labelling import EpochLabeller
from delt_jax.protocols import Trial
from delt_jax.recipe import DataRecipe, EvaluateRecipe, Recipe, RelabelRecipe, TeacherRecipe
from delt_jax.store import compact, distilled, files, label_store, soft_labels
from delt_jax.store.compact import Compact
from delt_jax.store.label_store import LabelPlan
from delt_jax.store.workdir import WorkDir, as_json

IPC, IMAGES = 3, 30
RECIPE = Recipe(
    ipc=IPC,
    data=DataRecipe(name="digits", flip=False),
    teacher=TeacherRecipe(model="conv3", width=8, epochs=3, batch_size=64, crop_padding=0),
    relabel=RelabelRecipe(rand_augment="", stored_epochs=3, top_k=3),
    evaluate=EvaluateRecipe(width=8, epochs=5, batch_size=8, regimes=("stored",)),
)


def asking(**changes) -> Recipe:
    """The recipe with other settings of relabel."""
    return dataclasses.replace(RECIPE, relabel=dataclasses.replace(RECIPE.relabel, **changes))


def plan_with(**changes) -> LabelPlan:
    views = ViewSpec("", 1, 0.5, False, "cutmix", 1.0)
    plan = LabelPlan(0, 4, IMAGES, 10, "logits", 3, 20.0, views, 8, 40)
    return dataclasses.replace(plan, **changes)


def silent(*_) -> None:
    pass


# --- labels in few bytes ---

KEPT = st.sampled_from([(2, 1), (10, 0), (10, 3), (10, 9), (10, 12), (300, 5)])
compress = jax.jit(compact.compress, static_argnums=(1, 2))
expand = jax.jit(compact.expand, static_argnums=(1, 2))


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
    shape = (plan.images, plan.num_classes)
    labels = [
        jax.device_get(
            compress(
                rng.normal(0, 9, shape).astype(np.float32), plan.top_k, plan.form, plan.temperature
            )
        )
        for _ in range(plan.epochs)
    ]
    digests = label_store.write(folder, plan, map(label_store.to_bytes, labels))
    manifest = {"distilled": "d1", "class_names": list(NAMES[plan.num_classes])}
    manifest["stored"] = label_store.describe(plan, digests, ["t1"])
    soft_labels.write(folder, np.zeros(shape, np.float32), manifest | other)
    return label_store.open_store(folder, "d1", NAMES[plan.num_classes]), labels


@pytest.mark.parametrize("top_k", [0, 3])
@pytest.mark.parametrize("num_classes", [10, 257])
def test_labels_are_read_as_they_were_written(tmp_path, top_k, num_classes):
    plan = plan_with(images=7, top_k=top_k, num_classes=num_classes)
    store, labels = stored(tmp_path, plan)
    assert (store.epochs, store.group_size, store.temperature) == (4, 8, 20.0)
    assert store.views == plan.views
    for epoch in (3, 0, 5, 4, 1):  # in any order; the fifth is the first again
        back = store.read(epoch)
        np.testing.assert_array_equal(back.values, labels[epoch % 4].values, strict=True)
        assert isinstance(back.values, np.memmap)
        if top_k:
            np.testing.assert_array_equal(back.classes, labels[epoch % 4].classes, strict=True)
        else:
            assert back.classes is None
    drawn_from = [jax.random.key_data(store.epoch(e).key).tolist() for e in range(6)]
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


# --- the plan of a recipe ---


def test_the_plan_follows_the_protocol():
    trial = Trial("conv3", 10, IPC, 8)
    plan = protocols.label_plan(RECIPE, trial)
    settled = protocols.settle(RECIPE, trial)
    assert (plan.views, plan.group_size) == (settled.views, settled.batch_size)
    assert (plan.epochs, plan.trained_epochs, plan.temperature) == (3, 5, 20.0)
    every = protocols.label_plan(asking(stored_epochs=0, top_k=10), trial)
    assert (every.epochs, every.top_k) == (5, 0)
    key = jax.random.key_data(plan.epoch(1).key)
    for same in (keys.stream(0, "labels", 1), jax.jit(lambda e: plan.epoch(e).key)(4)):
        np.testing.assert_array_equal(key, jax.random.key_data(same))
    other = dataclasses.replace(plan, seed=1).epoch(1).key
    assert (key != jax.random.key_data(other)).any()


# --- the stage ---


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source(RECIPE.data)


@pytest.fixture(scope="module")
def made(source, tmp_path_factory) -> Path:
    """A run's teacher and set, and a second teacher in `second`; to be copied."""
    folder = tmp_path_factory.mktemp("made")
    for name, seed in (("run", 0), ("second", 1)):
        recipe = dataclasses.replace(RECIPE, seed=seed)
        workdir = WorkDir(folder / name)
        workdir.open(recipe)
        squeeze.run(recipe, source, workdir)
        workdir.close()
    chosen = np.concatenate([np.flatnonzero(source.train.labels == c)[:IPC] for c in range(10)])
    images, into = read(source.train, chosen), folder / "run/distilled"
    manifest = {
        "inputs": {},
        "class_names": list(source.class_names),
        "ipc": IPC,
        "storage": "png",
        "hash": distilled.write_images(into, images, IPC),
    }
    files.write_json(into / "manifest.json", manifest)
    return folder


@pytest.fixture
def workdir(made, tmp_path):
    shutil.copytree(made / "run", tmp_path / "run")
    opened = WorkDir(tmp_path / "run")
    opened.open(RECIPE)
    yield opened
    opened.close()


def label(recipe: Recipe, source: Source, workdir: WorkDir) -> bytes:
    relabel.run(recipe, source, workdir)
    return (workdir.path / "soft_labels/views.bin").read_bytes()


def opened(workdir: WorkDir, source: Source) -> label_store.LabelStore:
    made_of = files.read_json(workdir.path / "distilled/manifest.json")["hash"]
    return label_store.open_store(workdir.path / "soft_labels", made_of, source.class_names)


def views_of(store: label_store.LabelStore, epoch: int, pixels, normalisation, batch: int):
    """Order of an epoch's images, and their views drawn in batches of another size."""
    key, views, group_size = store.epoch(epoch)
    plan = plan_epoch(key, len(pixels), group_size)
    drawn = jax.jit(student_views, static_argnums=(2, 5, 6, 7))
    pieces = [
        drawn(key, jnp.asarray(pixels), normalisation, plan, start, batch, views, False)
        for start in range(0, len(pixels), batch)
    ]
    return np.asarray(plan.order), jnp.concatenate([piece.images for piece in pieces])


@pytest.mark.parametrize("form", ["logits", "probabilities"])
def test_stored_labels_are_the_teachers_of_the_same_views(workdir, source, form, capsys):
    recipe = asking(form=form, top_k=0)
    content = label(recipe, source, workdir)
    plan = relabel.plan_of(recipe, source)
    assert len(content) == label_store.stored_bytes(plan) == 3 * IMAGES * 10 * 2
    out = capsys.readouterr().out
    assert "stored labels: 1.8 kB (3 epochs x 30 images, all of 10 " in out
    assert "0.6 of the 3 kB of all outputs for 5 epochs" in out
    assert f"views.bin has {len(content):,} bytes" in out
    store = opened(workdir, source)
    judge = teacher.load(workdir.path / "teacher")
    pixels = distilled.read(workdir.path / "distilled").images
    soft = jax.jit(teacher.soft_labels, static_argnums=0)
    labels = [expand(store.read(e), 10, form, 20.0) for e in range(3)]
    for epoch in range(3):
        order, images = views_of(store, epoch, pixels, judge.normalisation, 6)
        expected = soft(judge.model, judge.variables, images, 20.0)
        chex.assert_trees_all_close(labels[epoch][order], expected, atol=2e-4)
    assert np.abs(labels[0] - labels[1]).max() > 0.01


@pytest.mark.parametrize("most", [5, 13])  # less than a group; one group and a part of another
def test_chunks_of_any_size_give_the_same_labels(workdir, source, monkeypatch, most):
    label(RECIPE, source, workdir)
    whole = opened(workdir, source)
    monkeypatch.setattr(teacher, "batch_size", lambda size: most)
    judge = teacher.load(workdir.path / "teacher")
    pixels, counted = distilled.read(workdir.path / "distilled").images, []
    labels = EpochLabeller([judge], pixels, whole.plan).label(0, counted.append)
    assert counted == ([5] * 6 if most == 5 else [8, 8, 8, 6])
    np.testing.assert_array_equal(labels.classes, whole.read(0).classes)
    chex.assert_trees_all_close(labels.values, whole.read(0).values, rtol=2e-3, atol=2e-3)


def test_a_resumed_relabelling_has_the_same_bytes(workdir, source, monkeypatch, capsys):
    expected = label(RECIPE, source, workdir)
    shutil.rmtree(workdir.path / "soft_labels")
    whole, asked = EpochLabeller.label, []

    def killed_later(self, epoch, on_images):
        asked.append(epoch)
        if asked == [0, 1, 2]:
            raise KeyboardInterrupt
        return whole(self, epoch, on_images)

    monkeypatch.setattr(EpochLabeller, "label", killed_later)
    with pytest.raises(KeyboardInterrupt):
        relabel.run(RECIPE, source, workdir)
    partial = workdir.path / "soft_labels.partial"
    assert sorted(p.name for p in partial.glob("*.bin")) == ["epoch_000000.bin", "epoch_000001.bin"]
    assert not (workdir.path / "soft_labels").exists()
    part = partial / "epoch_000000.bin"
    part.write_bytes(part.read_bytes()[:-1])
    capsys.readouterr()
    assert label(RECIPE, source, workdir) == expected
    assert asked == [0, 1, 2, 0, 2]  # the damaged one and the missing one
    assert "1 of 3 epochs were labelled before" in capsys.readouterr().out
    assert not partial.exists()


def test_several_teachers_are_averaged(made, workdir, source):
    folder = workdir.path.parent / "third"
    second = teacher.load(made / "second/teacher")
    # A network that has learnt to read images of another normalisation.
    other = dataclasses.replace(second, normalisation=Normalisation((0.5,), (0.25,)), accuracy=0.1)
    folder.mkdir()
    teacher.save(folder, other, {})
    recipe = asking(top_k=0, teachers=(str(made / "second/teacher"), str(folder)))
    label(recipe, source, workdir)
    first = teacher.load(workdir.path / "teacher")
    pixels = distilled.read(workdir.path / "distilled").images
    judges = (first, second, other)
    fixed = soft_labels.read(
        workdir.path / "soft_labels",
        files.read_json(workdir.path / "distilled/manifest.json")["hash"],
    )
    expected = sum(teacher.logits_of(judge, pixels) for judge in judges) / 3
    chex.assert_trees_all_close(fixed, expected, rtol=1e-5, atol=1e-5)
    store = opened(workdir, source)
    order, images = views_of(store, 2, pixels, first.normalisation, 30)
    unit = images * np.float32(first.normalisation.std) + np.float32(first.normalisation.mean)
    logits = [
        judge.model.apply(judge.variables, (unit - mean) / std, train=False)
        for judge in judges
        for mean, std in [(judge.normalisation.mean[0], judge.normalisation.std[0])]
    ]
    read_back = np.asarray(store.read(2).values, np.float32)[order]
    chex.assert_trees_all_close(read_back, sum(logits) / 3, rtol=2e-3, atol=2e-2)
    assert np.abs(read_back - logits[0]).max() > 0.1
    manifest = files.read_json(workdir.path / "soft_labels/manifest.json")
    assert manifest["stored"]["teachers"] == [first.hash, second.hash, second.hash]
    assert manifest["inputs"]["relabel.teachers"] == [second.hash] * 2


def test_a_further_teacher_that_does_not_fit_is_named(made, workdir, source):
    nowhere = str(workdir.path / "nowhere")
    with pytest.raises(UserError, match=rf"relabel\.teachers names {nowhere}: .* is missing"):
        relabel.inputs(asking(teachers=(nowhere,)), source, workdir)
    folder = workdir.path.parent / "renamed"
    shutil.copytree(made / "second/teacher", folder)
    manifest = files.read_json(folder / "manifest.json")
    manifest["class_names"][3] = "three"
    files.write_json(folder / "manifest.json", manifest)
    for action in (relabel.inputs, relabel.run):
        with pytest.raises(UserError, match=r"renamed: The teacher .*3: 'three' against '3'"):
            action(asking(teachers=(str(folder),)), source, workdir)
    with pytest.raises(UserError, match=r"renamed: The teacher .*3: 'three' against '3'"):
        labelling.teachers(workdir.path / "teacher", [str(folder)], source, silent)


def test_labels_that_no_regime_asks_for_are_neither_made_nor_thrown_away(workdir, source):
    without = dataclasses.replace(
        RECIPE, evaluate=dataclasses.replace(RECIPE.evaluate, regimes=("online",))
    )
    relabel.run(without, source, workdir)
    assert not (workdir.path / "soft_labels/views.bin").exists()
    plain = files.read_json(workdir.path / "soft_labels/manifest.json")["inputs"]
    assert plain == as_json(relabel.inputs(without, source, workdir))
    asked = relabel.inputs(RECIPE, source, workdir)
    assert {n for n in asked.keys() - plain.keys() if not n.startswith("stored ")} == set()
    assert asked["stored top_k"] == 3
    label(RECIPE, source, workdir)
    held = files.read_json(workdir.path / "soft_labels/manifest.json")["inputs"]
    assert held == as_json(asked) == as_json(relabel.inputs(without, source, workdir))
    assert relabel.inputs(asking(top_k=2), source, workdir)["stored top_k"] == 2
    longer = dataclasses.replace(RECIPE, evaluate=dataclasses.replace(RECIPE.evaluate, epochs=9))
    assert relabel.inputs(longer, source, workdir) == asked  # the same labels, used again


def test_the_announcement_names_what_is_kept():
    line = relabel.size_line(plan_with())
    assert re.search(r"1\.32 kB \(4 epochs x 30 images, the 3 largest of 10 logits\), 0\.055", line)
