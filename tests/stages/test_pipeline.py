"""The pipeline end to end on digits, in this process: artefacts, skipping, resuming."""

import re
import shutil
from pathlib import Path

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import golden_dir
from PIL import Image
from tiny_run import read_json, tiny

from delt_jax import config as config_lib
from delt_jax import main
from delt_jax.augment import crop
from delt_jax.data import open_source
from delt_jax.errors import UserError
from delt_jax.evaluation import student_jobs
from delt_jax.formats import distilled
from delt_jax.models.tap import TappedNetwork
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery.program import step_settings
from delt_jax.recovery.run.driver import DeviceGroup
from delt_jax.runtime import devices
from delt_jax.stages import pipeline
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import teacher as teacher_lib


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, to look at and to copy, never to change."""
    folder = tmp_path_factory.mktemp("pipeline") / "run"
    main.run(tiny(), str(folder))
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    """A finished run of one's own."""
    return shutil.copytree(finished, tmp_path / "run")


def test_every_artefact_is_there(finished):
    for name in (
        "config.json",
        "teacher/manifest.json",
        "teacher/weights.safetensors",
        "ranking.csv",
        "distilled/manifest.json",
        "distilled/losses.npz",
        "soft_labels/logits.npz",
        "evaluation/scores.json",
        "summary.json",
        "metrics.jsonl",
        "report/report.html",
        "report/sheet.png",
    ):
        assert (finished / name).is_file(), name
    assert not list(finished.glob("*.partial"))
    assert not list(finished.rglob(".*.tmp"))


def test_images_are_numbered_by_class_and_rank(finished):
    paths = sorted((finished / "distilled/images").glob("*/*.png"))
    assert [str(p.relative_to(finished / "distilled/images")) for p in paths] == [
        f"{c:05}/{r:05}.png" for c in range(10) for r in range(3)
    ]
    assert Image.open(paths[0]).size == (8, 8)


def test_manifest_explains_the_set(finished):
    manifest = read_json(finished / "distilled/manifest.json")
    teacher = read_json(finished / "teacher/manifest.json")
    assert manifest["class_names"] == [str(c) for c in range(10)]
    assert manifest["teacher"]["hash"] == teacher["hash"]
    assert manifest["teacher"]["accuracy"] == teacher["accuracy"] > 0.5
    assert manifest["normalisation"] == teacher["normalisation"]
    assert manifest["settings"]["recover"]["iterations"] == 4
    assert manifest["schedule"]["fraction"] == pytest.approx(5 / 6)
    assert manifest["cost_seconds"] > 0
    assert manifest["made"]["machine"] == devices.describe()
    assert read_json(finished / "summary.json")["made"] == manifest["made"]
    assert np.shape(manifest["start"]["indices"]) == (10, 3)


def test_recovery_moves_images_and_lowers_the_loss(finished):
    source = open_source(config_lib.from_config(tiny()).data)
    synthetic = distilled.read(finished / "distilled")
    start = source.train.images(np.array(synthetic.manifest["start"]["indices"]).reshape(-1))
    moved = np.abs(start.astype(int) - synthetic.images).reshape(10, 3, -1).mean(axis=(0, 2))
    assert (moved > 0).all()
    assert moved[0] > moved[2]  # early images are optimised longer
    with np.load(finished / "distilled/losses.npz") as losses:
        chex.assert_shape(losses["loss"], (5, 4))
        chex.assert_tree_all_finite(losses["loss"])
        chex.assert_trees_all_close(
            losses["loss"], losses["cross_entropy"] + 0.01 * losses["bn"], rtol=1e-5
        )
    teacher = teacher_lib.load(finished / "teacher")

    def objective_of(pixels):
        images = jnp.asarray(teacher.normalisation(pixels))
        view, labels = crop.full_view(source.image_size), jnp.asarray(synthetic.labels)
        settings = step_settings(config_lib.from_config(tiny()).recover, flip=False)
        look = TappedNetwork(teacher.model, teacher.variables)
        return float(recovery_step.loss(images, labels, view, look, settings)[0])

    assert objective_of(synthetic.images) < objective_of(start)


def test_scores_have_every_set_regime_and_seed(finished):
    scores = read_json(finished / "evaluation/scores.json")
    assert len(scores) == 3 * 3 * 2
    assert {(s["images"], s["regime"], s["seed"]) for s in scores} == {
        (i, r, s)
        for i in ("recovered", "random", "selected")
        for r in ("online", "fixed", "hard")
        for s in range(2)
    }
    for s in scores:
        assert s["history"][-1] == [2, s["last"]]
        assert s["best"] == max(a for _, a in s["history"])
    rows = read_json(finished / "summary.json")["scores"]
    row = next(r for r in rows if (r["images"], r["regime"]) == ("random", "hard"))
    last = [s["last"] for s in scores if (s["images"], s["regime"]) == ("random", "hard")]
    assert row["last_mean"] == pytest.approx(np.mean(last))
    assert row["last_std"] == pytest.approx(np.std(last, ddof=1))


def test_report_is_self_contained(finished):
    page = (finished / "report/report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * 10  # start and nearest of each class
    assert page.count("<svg") >= 6
    assert not re.search("https?:", page)
    similarity = read_json(finished / "summary.json")["within_class_similarity"]
    assert set(similarity) == {"real", "start", "recovered"}
    assert all(0 < v < 1 for v in similarity.values())


def test_second_run_skips_everything(copy, capsys):
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file()}
    main.run(tiny(), str(copy))
    out = capsys.readouterr().out
    assert out.count("done, nothing changed") == 6
    changed = [p.name for p in before if p.stat().st_mtime_ns != before[p]]
    assert set(changed) <= {"config.json", ".lock"}


def test_a_changed_setting_redoes_what_depends_on_it(copy, capsys):
    main.run(tiny(**{"recover.learning_rate": 0.1}), str(copy), ["recover", "relabel"])
    out = capsys.readouterr().out
    assert "recover: redone because recover.learning_rate was 0.05, is 0.1" in out
    assert "relabel: redone because distilled was" in out
    assert (
        read_json(copy / "soft_labels/manifest.json")["distilled"]
        == (read_json(copy / "distilled/manifest.json")["hash"])
    )


def test_deleted_images_are_made_again_bit_for_bit(copy):
    before = distilled.read(copy / "distilled").images
    (copy / "distilled/images/00004/00001.png").unlink()
    main.run(tiny(), str(copy), ["recover"])
    chex.assert_trees_all_equal(distilled.read(copy / "distilled").images, before)


def test_same_images_on_one_device_and_on_eight(copy, monkeypatch):
    assert devices.device_count() == 8  # the finished run used them
    before = distilled.read(copy / "distilled").images
    shutil.rmtree(copy / "distilled")
    monkeypatch.setattr(devices, "device_count", lambda: 1)
    main.run(tiny(), str(copy), ["recover"])
    chex.assert_trees_all_equal(distilled.read(copy / "distilled").images, before)


def test_killed_recovery_keeps_finished_batches(copy, monkeypatch):
    before = distilled.read(copy / "distilled").images
    shutil.rmtree(copy / "distilled")
    monkeypatch.setattr(devices, "device_count", lambda: 2)
    real, seen = DeviceGroup.run, []

    def killed_in_the_second_group(group):
        seen.append(group.indices)
        if len(seen) == 2:
            raise KeyboardInterrupt
        real(group)

    monkeypatch.setattr(DeviceGroup, "run", killed_in_the_second_group)
    with pytest.raises(KeyboardInterrupt):
        main.run(tiny(), str(copy), ["recover"])
    assert not (copy / "distilled").exists()
    seen.clear()
    monkeypatch.setattr(DeviceGroup, "run", lambda g: (seen.append(g.indices), real(g)))
    main.run(tiny(), str(copy), ["recover"])
    assert [i for group in seen for i in group] == [2, 3, 4]  # 0 and 1 were not done again
    chex.assert_trees_all_equal(distilled.read(copy / "distilled").images, before)


def test_killed_evaluation_keeps_finished_students(copy, monkeypatch):
    before = read_json(copy / "evaluation/scores.json")
    shutil.rmtree(copy / "evaluation")
    shutil.rmtree(copy / "scores")
    real, trained = student_jobs.store, []

    def killed_after_the_sixth(*args):
        if len(trained) == 6:
            raise KeyboardInterrupt
        trained.append(args)
        real(*args)

    config = tiny()
    monkeypatch.setattr(student_jobs, "store", killed_after_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        main.run(config, str(copy), ["evaluate"])
    trained.clear()
    monkeypatch.setattr(student_jobs, "store", lambda *a: (trained.append(a), real(*a)))
    main.run(config, str(copy), ["evaluate"])
    assert len(trained) == len([s for s in before if s["images"] != "full"]) - 6
    after = read_json(copy / "evaluation/scores.json")
    assert [s["last"] for s in after] == [s["last"] for s in before]


@pytest.mark.exhaustive  # as in training/test_real_images.py
def test_killed_squeeze_goes_on_to_the_same_teacher(finished, tmp_path, monkeypatch):
    from delt_jax.training import real_images

    monkeypatch.setattr(real_images, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    real, epochs = real_images.epoch_order, []

    def killed_at_the_sixth(*args):
        epochs.append(args)
        if len(epochs) == 6:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(real_images, "epoch_order", killed_at_the_sixth)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        main.run(tiny(), str(folder), ["squeeze"])
    assert not (folder / "teacher").exists()
    main.run(tiny(), str(folder), ["squeeze"])
    assert len(epochs) == 6 + 3
    assert (
        read_json(folder / "teacher/manifest.json")["hash"]
        == (read_json(finished / "teacher/manifest.json")["hash"])
    )


def test_imported_teacher_is_checked_and_used(finished, tmp_path):
    folder = tmp_path / "run"
    main.run(tiny(**{"teacher.weights": str(finished / "teacher")}), str(folder), ["squeeze"])
    assert (
        read_json(folder / "teacher/manifest.json")["hash"]
        == (read_json(finished / "teacher/manifest.json")["hash"])
    )


def test_teacher_from_a_file_of_weights(finished, tmp_path):
    made = read_json(finished / "teacher/manifest.json")
    constants = {f"data.{k}": tuple(v) for k, v in made["normalisation"].items()}
    weights = {"teacher.weights": str(finished / "teacher/weights.safetensors")}
    with pytest.raises(UserError, match=r"set data\.mean and data\.std"):
        main.run(tiny(**weights), str(tmp_path / "run"), ["squeeze"])
    main.run(tiny(**weights, **constants), str(tmp_path / "run"), ["squeeze"])
    copied = read_json(tmp_path / "run/teacher/manifest.json")
    assert (copied["hash"], copied["accuracy"]) == (made["hash"], made["accuracy"])
    # With other constants the same weights know nothing.
    lost = {"data.mean": (1.0,), "data.std": (0.01,)}
    with pytest.raises(UserError, match="about as many as by chance"):
        main.run(tiny(**weights, **lost), str(tmp_path / "lost"), ["squeeze"])
    assert not (tmp_path / "lost/teacher").exists()


FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.exhaustive  # recorded numbers are those of models/test_zoo.py
@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_recorded_checkpoint_scores_what_its_authors_say(tmp_path):
    """91.5 % of the 10,000 test images, with its own padding and normalisation."""
    config = config_lib.default_config()
    config.data.name = "idx"
    config.data.path = str(FASHION)
    config.data.image_size, config.data.fit, config.data.channels = 32, "pad", 3
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2023, 0.1994, 0.2010)
    config.teacher.weights = str(golden_dir() / "checkpoints/fashion_mnist_conv3.pth")
    main.run(config, str(tmp_path / "run"), ["squeeze"])
    measured = read_json(tmp_path / "run/teacher/manifest.json")["accuracy"]
    assert measured == pytest.approx(0.915, abs=0.001)


def test_teacher_of_other_classes_is_refused(finished, tmp_path):
    names = ("0", "1", "3", "2", *"456789")
    config = tiny(**{"teacher.weights": str(finished / "teacher"), "data.class_names": names})
    with pytest.raises(UserError, match="2: '2' against '3'"):
        main.run(config, str(tmp_path / "run"), ["squeeze"])
    assert not (tmp_path / "run/teacher").exists()


def test_teacher_whose_accuracy_does_not_fit_is_refused(finished, tmp_path):
    """Right names on permuted outputs: only the accuracy shows it."""
    shutil.copytree(finished / "teacher", tmp_path / "teacher")
    from delt_jax.store import files
    from delt_jax.teachers import teacher

    honest = teacher.load(tmp_path / "teacher")
    honest.variables["params"]["classifier"]["kernel"] = np.roll(
        honest.variables["params"]["classifier"]["kernel"], 1, axis=1
    )
    with files.replacing_folder(tmp_path / "teacher") as folder:
        teacher.save(folder, honest, {})
    with pytest.raises(UserError, match="classes are in another order"):
        main.run(
            tiny(**{"teacher.weights": str(tmp_path / "teacher")}),
            str(tmp_path / "run"),
            ["squeeze"],
        )


def test_noise_start_and_class_budgets_run(copy):
    config = tiny(
        **{"select.start": "noise", "recover.min_iterations": 2, "recover.round_iterations": 2}
    )
    main.run(config, str(copy))
    manifest = read_json(copy / "distilled/manifest.json")
    assert manifest["start"] == {"noise_seed": 0}
    assert set(manifest["schedule"]["class_iterations"]) <= {2, 4}


def test_stage_without_its_inputs_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="needs what squeeze makes"):
        main.run(tiny(), str(tmp_path / "run"), ["recover"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ipc": 400}, "has only 122 training images"),
        ({"recover.round_iterations": 3}, "must divide"),
        ({"teacher.model": "conv4"}, "use at least 16 px"),
        ({"evaluate.students": ("resnet18",)}, "at least 32 px"),
        ({"teacher.model": "vgg11", "data.image_size": 32}, "vgg11 has no BatchNorm"),
        ({"teacher.weights": "nowhere.pth"}, "does not exist"),
        ({"evaluate.batch_size": 29}, "leave a last one of a single image of the 30"),
        ({"data.mean": (0.5, 0.5), "data.std": (0.5, 0.5)}, r"1 channel\(s\)"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        main.run(tiny(**changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_dry_run_touches_nothing(tmp_path, capsys):
    config = tiny(
        **{
            "ipc": 50,
            "recover.iterations": 4000,
            "recover.round_iterations": 500,
        }
    )
    main.run(config, str(tmp_path / "run"), dry_run=True)
    out = capsys.readouterr().out
    assert "57.75% of full optimisation (42.25% saved)" in out
    assert not (tmp_path / "run").exists()


def test_dry_run_over_a_finished_run_names_what_changed(copy, capsys):
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    main.run(tiny(**{"recover.jitter": 1}), str(copy), dry_run=True)
    out = capsys.readouterr().out
    assert "recover   would run: redone because recover.jitter was 0, is 1" in out
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*")} == before


def test_status_of_every_stage_after_a_run(finished):
    settings = config_lib.from_config(tiny())
    source = open_source(settings.data)
    for stage in pipeline.of_recipe(settings):
        assert pipeline.status(stage, settings, source, WorkDir(finished)) == (
            False,
            "done, nothing changed",
        )
