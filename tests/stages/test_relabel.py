"""The relabel stage: labels of views as the teachers gave them, resume, several teachers."""

import dataclasses
import re
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_labels import IMAGES, IPC, RECIPE, asking, expand, plan_with

from delt_jax.augment.views import ViewProgram, plan_epoch, student_views
from delt_jax.data import Normalisation, Source, open_source, read
from delt_jax.errors import UserError
from delt_jax.formats import distilled
from delt_jax.labels import label_store, labelling, soft_labels
from delt_jax.labels.labelling import EpochLabeller
from delt_jax.recipe import Recipe
from delt_jax.stages import plan, relabel, squeeze
from delt_jax.store import artefact, files
from delt_jax.store.workdir import WorkDir, as_json
from delt_jax.teachers import prediction
from delt_jax.teachers import teacher as teacher_lib


def silent(*_) -> None:
    pass


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
    key, views, group_size = store.plan.epoch(epoch)
    plan = plan_epoch(key, len(pixels), group_size)
    drawing = ViewProgram(views, normalisation, False)
    drawn = jax.jit(student_views, static_argnums=4)
    pieces = [
        drawn(key, jnp.asarray(pixels), plan, start + np.arange(batch), drawing)
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
    teacher = teacher_lib.load(workdir.path / "teacher")
    pixels = distilled.read(workdir.path / "distilled").images
    logits_of = jax.jit(lambda images: teacher.model.apply(teacher.variables, images, train=False))
    labels = [expand(store.read(e), 10, form, 20.0) for e in range(3)]
    for epoch in range(3):
        order, images = views_of(store, epoch, pixels, teacher.normalisation, 6)
        expected = jax.nn.softmax(logits_of(images) / 20.0)
        chex.assert_trees_all_close(labels[epoch][order], expected, atol=2e-4)
    assert np.abs(labels[0] - labels[1]).max() > 0.01


@pytest.mark.parametrize("most", [5, 13])  # less than a group; one group and a part of another
def test_chunks_of_any_size_give_the_same_labels(workdir, source, monkeypatch, most):
    label(RECIPE, source, workdir)
    whole = opened(workdir, source)
    monkeypatch.setattr(prediction, "batch_size", lambda size: most)
    teacher = teacher_lib.load(workdir.path / "teacher")
    pixels, counted = distilled.read(workdir.path / "distilled").images, []
    labels = EpochLabeller([teacher], pixels, whole.plan).label(0, counted.append)
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
    assert sorted(p.name for p in partial.glob("*.npz")) == ["epoch_000000.npz", "epoch_000001.npz"]
    assert not (workdir.path / "soft_labels").exists()
    finished = partial / "epoch_000000.npz"
    content = bytearray(finished.read_bytes())
    content[len(content) // 2] ^= 1
    finished.write_bytes(content)
    capsys.readouterr()
    assert label(RECIPE, source, workdir) == expected
    assert asked == [0, 1, 2, 0, 2]  # the damaged one and the missing one
    assert "1 of 3 epochs were labelled before" in capsys.readouterr().out
    assert not partial.exists()


def test_several_teachers_are_averaged(made, workdir, source):
    folder = workdir.path.parent / "third"
    second = teacher_lib.load(made / "second/teacher")
    # A network that has learnt to read images of another normalisation.
    other = dataclasses.replace(second, normalisation=Normalisation((0.5,), (0.25,)), accuracy=0.1)
    folder.mkdir()
    teacher_lib.save(folder, other, {})
    recipe = asking(top_k=0, teachers=(str(made / "second/teacher"), str(folder)))
    label(recipe, source, workdir)
    first = teacher_lib.load(workdir.path / "teacher")
    pixels = distilled.read(workdir.path / "distilled").images
    teachers = (first, second, other)
    fixed = soft_labels.read(
        workdir.path / "soft_labels",
        files.read_json(workdir.path / "distilled/manifest.json")["hash"],
    )
    expected = sum(teacher_lib.logits_of(teacher, pixels) for teacher in teachers) / 3
    chex.assert_trees_all_close(fixed, expected, rtol=1e-5, atol=1e-5)
    store = opened(workdir, source)
    order, images = views_of(store, 2, pixels, first.normalisation, 30)
    unit = images * np.float32(first.normalisation.std) + np.float32(first.normalisation.mean)
    logits = [
        teacher.model.apply(teacher.variables, (unit - mean) / std, train=False)
        for teacher in teachers
        for mean, std in [(teacher.normalisation.mean[0], teacher.normalisation.std[0])]
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
    artefact.seal(folder / "manifest.json", manifest)
    for action in (relabel.inputs, relabel.run):
        with pytest.raises(UserError, match=r"renamed: The teacher .*3: 'three' against '3'"):
            action(asking(teachers=(str(folder),)), source, workdir)
    with pytest.raises(UserError, match=r"renamed: The teacher .*3: 'three' against '3'"):
        labelling.load_teachers(workdir.path / "teacher", [str(folder)], source, silent)


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


def test_the_dry_run_says_the_size(made, workdir, source):
    text = "\n".join(plan.describe(RECIPE, source, workdir, ["relabel"]))
    size = label_store.stored_bytes(relabel.plan_of(RECIPE, source))
    assert size == 3 * IMAGES * (4 * 2 + 3)
    assert relabel.size_line(relabel.plan_of(RECIPE, source)) in text
    assert re.search(r"relabel .* 3 epochs of views, stored", text)
    assert not (workdir.path / "soft_labels").exists()
    without = dataclasses.replace(
        RECIPE, evaluate=dataclasses.replace(RECIPE.evaluate, regimes=("online",))
    )
    assert "stored" not in "\n".join(plan.describe(without, source, workdir, ["relabel"]))
