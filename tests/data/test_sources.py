"""What all sources share: one ranking, derived settings, recipes, costs, and ends of reading."""

import dataclasses
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from costly import costly
from PIL import Image
from tfds_sets import png, prepare, tfds

from delt_jax import main
from delt_jax.config import default_config, derive, from_config
from delt_jax.data import ArrayExamples, Source, describe_source, open_source
from delt_jax.data.classes import wanted_classes
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe, Recipe
from delt_jax.recovery import ranking
from delt_jax.stages import checks, costs, pipeline, plan, rank, squeeze
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import teacher as teacher_lib

CONFIGS = sorted(Path(__file__).parents[2].glob("configs/[!_]*.py"))


# --- one ranking from three sources ---


def drawings() -> list[tuple[int, np.ndarray]]:
    """(class, pixels) of 90 noisy discs, squares and stripes."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:8, :8] - 3.5
    shapes = [x**2 + y**2 < 10, np.maximum(abs(x), abs(y)) < 3, x % 4 < 2]
    made = []
    for i in range(90):
        shape = shapes[i % 3][..., None] * draw.uniform(80, 220, 3)
        noise = draw.normal(20, 10, (8, 8, 3))
        made.append((i % 3, np.clip(shape + noise, 0, 255).astype(np.uint8)))
    return made


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> dict[str, DataRecipe]:
    """The same images as folders, as npz and as TFDS prepared without TensorFlow."""
    root = tmp_path_factory.mktemp("three")
    names = ("disc", "square", "stripe")
    splits: dict[str, list] = {"train": [], "test": []}
    for i, (label, pixels) in enumerate(drawings()):
        split = "test" if i >= 60 else "train"
        path = root / "folder" / split / names[label] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        splits[split].append({"image": pixels, "label": label})
    stacks = {
        f"{split}_{part}": np.stack(values)
        for split, rows in splits.items()
        for part, values in (
            ("images", [r["image"] for r in rows]),
            ("labels", [r["label"] for r in rows]),
        )
    }
    np.savez(root / "set.npz", class_names=np.array(names), **stacks)
    features = {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": tfds.features.ClassLabel(names=list(names)),
    }
    encoded = {s: [r | {"image": png(r["image"])} for r in rows] for s, rows in splits.items()}
    prepare(root / "tfds", "drawn", features, encoded)
    return {
        "folder": DataRecipe(name="folder", path=str(root / "folder"), image_size=8, workers=0),
        "npz": DataRecipe(name="npz", path=str(root / "set.npz")),
        "tfds": DataRecipe(name="tfds", path=str(root / "tfds"), dataset="drawn", workers=0),
    }


def small(data: DataRecipe, weights: str = "") -> Recipe:
    config = default_config()
    config.ipc = 2
    config.teacher.width = 8
    config.teacher.epochs = 8
    config.teacher.batch_size = 20
    config.teacher.crop_padding = 0
    config.teacher.weights = weights
    recipe = from_config(config)
    return Recipe(**(vars(recipe) | {"data": data}))


@pytest.fixture(scope="module")
def ranked(three, tmp_path_factory) -> dict[str, WorkDir]:
    """Rankings by the folder's teacher."""
    made = {}
    for name, data in three.items():
        workdir = WorkDir(tmp_path_factory.mktemp("ranked") / name)
        weights = str(made["folder"].path / "teacher") if made else ""
        recipe = small(data, weights)
        workdir.open(recipe)
        pipeline.run(recipe, open_source(data), workdir, ["squeeze", "rank"])
        workdir.close()
        made[name] = workdir
    return made


def test_the_same_images_rank_alike_from_every_source(three, ranked):
    tables = {}
    for name, workdir in ranked.items():
        train = open_source(three[name]).train
        order = np.lexsort(train.images(np.arange(len(train))).reshape(len(train), -1).T)
        teacher = teacher_lib.describe(workdir.path / "teacher")
        read = ranking.read(workdir.path, teacher.hash)
        tables[name] = (read.labels[order], read.probabilities[order])
    for name in ("npz", "tfds"):
        np.testing.assert_array_equal(tables[name][0], tables["folder"][0])
        np.testing.assert_array_equal(tables[name][1], tables["folder"][1])
    assert len(np.unique(tables["folder"][1])) > 50


def test_two_folders_that_changed_places_are_named(three, ranked, tmp_path):
    """Their names are right, their images are not: only the teacher can tell."""
    swapped = tmp_path / "swapped"
    shutil.copytree(three["folder"].path, swapped)
    for split in ("train", "test"):
        (swapped / split / "disc").rename(swapped / "kept")
        (swapped / split / "stripe").rename(swapped / split / "disc")
        (swapped / "kept").rename(swapped / split / "stripe")
    data = DataRecipe(name="folder", path=str(swapped), image_size=8, workers=0)
    recipe = small(data, str(ranked["folder"].path / "teacher"))
    workdir = WorkDir(tmp_path / "run")
    workdir.open(recipe)
    with pytest.raises(UserError, match="2 classes of the data are not those") as e:
        pipeline.run(recipe, open_source(data), workdir, ["squeeze", "rank"])
    assert "'disc' looks like 'stripe'" in str(e.value)
    assert "'stripe' looks like 'disc'" in str(e.value)
    assert "square" not in str(e.value)


def test_ranking_sees_what_the_sample_could_not(three, ranked, tmp_path):
    """Only the training folders changed places, so that the test sample is right."""
    swapped = tmp_path / "swapped"
    shutil.copytree(three["folder"].path, swapped)
    (swapped / "train/disc").rename(swapped / "kept")
    (swapped / "train/square").rename(swapped / "train/disc")
    (swapped / "kept").rename(swapped / "train/square")
    data = DataRecipe(name="folder", path=str(swapped), image_size=8, workers=0)
    recipe = small(data, str(ranked["folder"].path / "teacher"))
    workdir = WorkDir(tmp_path / "run")
    workdir.open(recipe)
    source = open_source(data)
    squeeze.run(recipe, source, workdir)
    with pytest.raises(UserError, match="'disc' looks like 'square'"):
        rank.run(recipe, source, workdir)


def test_an_untrained_teacher_proves_nothing(three):
    """Its guesses may well go round in a ring."""
    spec = teacher_lib.ModelSpec("conv3", 3, 8, 3, 8)
    teacher = teacher_lib.Teacher(
        spec, {}, teacher_lib.Normalisation((0.5,), (0.5,)), tuple("abc"), 0.4
    )
    labels = np.repeat(np.arange(3), 10)
    teacher_lib.check_classes(teacher, (labels + 1) % 3, labels)
    better = dataclasses.replace(teacher, accuracy=0.9)
    with pytest.raises(UserError, match=r"3 classes of the data .*'a' looks like 'b'"):
        teacher_lib.check_classes(better, (labels + 1) % 3, labels)
    teacher_lib.check_classes(better, np.zeros(30, int), labels)  # bad, but no ring


@pytest.mark.exhaustive  # what it derives is tested below
def test_one_command_with_a_path_alone(three, tmp_path, capsys):
    """Everything from folders to scores; the same command again does nothing."""
    (path,) = [p for p in CONFIGS if p.stem == "folder"]
    config = get_config(path, f"folder={three['folder'].path}")[0]
    config.data.image_size = 8  # the rest is to be quick
    config.teacher.width = config.evaluate.width = 8
    config.recover.iterations, config.recover.round_iterations = 4, 2
    config.evaluate.epochs = config.evaluate.seeds = 1
    config.evaluate.images = ("recovered",)
    main.run(config, str(tmp_path / "run"))
    said = capsys.readouterr().out
    assert "data.channels 3: of " in said
    assert "ipc 10: what DELT's tables have for every data set" in said
    assert "teacher.model conv3: the images have 8 px" in said
    assert "| conv3   | online | recovered |" in said
    settings = json.loads((tmp_path / "run/config.json").read_text())["settings"]
    assert (settings["ipc"], settings["teacher.model"]) == (10, "conv3")
    assert settings["data.channels"] == 3
    main.run(config, str(tmp_path / "run"))
    assert capsys.readouterr().out.count("done, nothing changed") == 6
    pairs = (("evaluation", "report"), ("soft_labels", "evaluate"))
    for artefact, stage in pairs:  # whatever is made from others, with other class names
        manifest = tmp_path / "run" / artefact / "manifest.json"
        content = json.loads(manifest.read_text())
        content["class_names"][:2] = content["class_names"][1::-1]
        del content["checksum"]  # as an older version wrote it; else it is damaged
        manifest.write_text(json.dumps(content))
        shutil.rmtree(tmp_path / "run" / {"evaluate": "evaluation"}.get(stage, stage))
        with pytest.raises(UserError, match=r"disagree on 2 classes \(0: 'square' against"):
            main.run(config, str(tmp_path / "run"), [stage])


# --- derived settings and recipes ---


def toy(side: int, per_class: int, classes: int = 4) -> Source:
    labels = np.repeat(np.arange(classes, dtype=np.int32), per_class)
    pixels = np.zeros((len(labels), side, side, 3), np.uint8)
    split = ArrayExamples(pixels, labels, [""] * len(labels))
    return Source("toy", tuple("abcdefgh"[:classes]), side, 3, split, split, "")


@pytest.mark.parametrize(
    ("side", "per_class", "ipc", "model", "teacher_epochs", "student_epochs"),
    [
        (32, 1000, 10, "conv3", 5, 250),
        (64, 5, 5, "conv4", 60, 300),
        (8, 200, 10, "conv3", 25, 250),
    ],
)
def test_settings_derived_from_the_data(
    side, per_class, ipc, model, teacher_epochs, student_epochs
):
    config = default_config()
    config.ipc = config.teacher.epochs = config.evaluate.epochs = 0
    config.teacher.model, config.evaluate.students = "", ("", "resnet18")
    recipe, notes = derive.complete(from_config(config), toy(side, per_class))
    assert recipe.ipc == ipc
    assert recipe.teacher.model == model
    assert recipe.evaluate.students == (model, "resnet18")
    assert (recipe.teacher.epochs, recipe.evaluate.epochs) == (teacher_epochs, student_epochs)
    assert [note.split(" ")[0] for note in notes] == [
        "ipc",
        "teacher.model",
        "teacher.epochs",
        "evaluate.students",
        "evaluate.epochs",
    ]
    assert derive.complete(recipe, toy(side, per_class)) == (recipe, [])


def get_config(path: Path, *variants):
    scope = runpy.run_path(str(path))
    return scope["get_config"](*variants), scope.get("PRESETS", {})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_recipe_is_valid(path):
    config, rows = get_config(path)
    recipe = from_config(config)
    wanted_classes(recipe.data.classes)
    for row in rows:
        varied = from_config(get_config(path, f"{row},folder=/data")[0])
        wanted = row.removeprefix("ipc") if row.startswith("ipc") else str(recipe.ipc)
        assert str(varied.ipc) == wanted
        assert (varied.data.name, varied.data.path) == ("folder", "/data")
        assert varied.evaluate.batch_size is None  # the protocol's
    assert from_config(get_config(path, "ipc3")[0]).ipc == 3
    with pytest.raises(UserError, match=r"'ipc' is no number of images per class"):
        get_config(path, "ipc")
    with pytest.raises(UserError, match=r"'ip10' is no variant .* folder=PATH"):
        get_config(path, "ip10")


def test_the_published_recipe_needs_no_data_to_be_planned(tmp_path):
    (path,) = [p for p in CONFIGS if p.stem == "imagenet"]
    recipe = from_config(get_config(path)[0])
    described = describe_source(recipe.data)
    checks.check(recipe, described)
    text = "\n".join(plan.describe(recipe, described, WorkDir(tmp_path / "run")))
    assert "1281167 training and 50000 test images of 1000 classes, 224 px" in text
    assert "115,500,000 image-iterations = 57.75%" in text
    assert "resnet18, 300 epochs each" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("RTX 4090")]
    assert abs(float(row[3]) - 17.6) < 0.5  # recover: the paper's own hours
    with pytest.raises(UserError, match="not at hand"):
        described.train.images(np.array([0]))
    assert describe_source(DataRecipe(name="tfds", dataset="cifar10")) is None
    without_images = DataRecipe(name="classes", known_as="imagenet")
    assert describe_source(without_images) is None


def test_hours_add_up():
    work = {
        "squeeze": costs.StageWork(1e18, 5, "one"),
        "recover": costs.StageWork(3e18, 10),
        "relabel": costs.StageWork(1e18, 2, "hosts"),
    }
    lines = costs.hours(work, ("NVIDIA A100-SXM4-40GB", 4, 2))
    table = [(line[:20].strip(), line[20:].split()) for line in lines if ":" not in line]
    rows = {name: [float(v) for v in values] for name, values in table if name}
    assert rows["A100"] == pytest.approx([8.09, 24.3, 8.09, 40.5], rel=0.01)
    # Ten batches on eight devices take the time of two; labels have two parts for two hosts.
    here = [8.09, 24.3 * 0.2, 8.09 / 2, 8.09 * (1 + 0.6 + 0.5)]
    assert rows["2 x 4 devices, here"] == pytest.approx(here, rel=0.01)
    assert rows["8 x 8 devices"] == pytest.approx([8.09, 2.43, 4.05, 14.6], rel=0.01)
    assert "several of H100/H200" in "\n".join(costs.hours(work, ("cpu", 2, 1)))
    (line,) = costs.hours({"squeeze": costs.StageWork(1e15)}, ("cpu", 2, 1))
    assert line.startswith("on one of RTX 4090, A100, ")


# --- the command line ---


@pytest.mark.parametrize("sign", [costly(signal.SIGKILL), signal.SIGINT])
def test_an_interrupted_reader_leaves_no_worker(tmp_path, sign):
    """Ctrl-C reaches reader and workers alike, a kill the reader alone; both end them all."""
    for c in ("a", "b"):
        (tmp_path / "set" / c).mkdir(parents=True)
        for i in range(300):
            Image.new("RGB", (40, 40), (i % 256, 0, 0)).save(tmp_path / "set" / c / f"{i}.bmp")
    script = f"""
import sys, time
from delt_jax.data import batches, open_source, stream
from delt_jax.recipe import DataRecipe
if __name__ == "__main__":
    stream.SECONDS_WORTH_WORKERS = 0.0
    source = open_source(DataRecipe(name="folder", path={str(tmp_path / "set")!r}, workers=2))
    for i, _ in enumerate(batches(source.train, 32)):
        if i == 2:
            print("reading", flush=True)
            time.sleep(60)
"""
    (tmp_path / "read.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "read.py")],
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background of a shell is born deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    workers = children(process.pid)
    assert len(workers) >= 2
    os.kill(process.pid, sign)
    for worker in workers if sign == signal.SIGINT else ():
        os.kill(worker, sign)
    printed = process.communicate()[1]
    assert printed.count("KeyboardInterrupt") == (sign == signal.SIGINT)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{w}").exists() for w in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [w for w in workers if Path(f"/proc/{w}").exists()]


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(c) for task in tasks for c in (task / "children").read_text().split()]
