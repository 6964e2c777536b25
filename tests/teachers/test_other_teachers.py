"""Several teachers of one run: their folders, what is kept and shared of them, and their mean."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import pytest

from delt_jax import config as config_lib
from delt_jax.comparison import cells as grid
from delt_jax.comparison import reuse
from delt_jax.data import Source, open_source
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe, Recipe, TeacherRecipe
from delt_jax.stages import checks, pipeline, squeeze
from delt_jax.store import files
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import ensemble
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.training import real_images, state
from delt_jax.training.real_images import TrainingOutput

ALONE = Recipe(
    data=DataRecipe(name="digits", flip=False),
    teacher=TeacherRecipe(model="conv3", width=4, epochs=2, batch_size=32, crop_padding=0),
)
TWO = ("conv3:4", "conv3:6")


def with_others(*names: str, recipe: Recipe = ALONE, **changes) -> Recipe:
    return dataclasses.replace(
        recipe, teacher=dataclasses.replace(recipe.teacher, others=names, **changes)
    )


def silent(*_) -> None:
    pass


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source(ALONE.data)


def squeezed(recipe: Recipe, source: Source, folder: Path) -> WorkDir:
    """Runs the stage, as the pipeline does, if something has changed."""
    workdir = WorkDir(folder)
    workdir.open(recipe)
    if pipeline.status(pipeline.STAGES[0], recipe, source, workdir)[0]:
        squeeze.run(recipe, source, workdir)
    workdir.close()
    return workdir


@pytest.fixture(scope="module")
def made(source, tmp_path_factory) -> Path:
    """A run with two others; to be copied."""
    folder = tmp_path_factory.mktemp("others") / "run"
    squeezed(with_others(*TWO), source, folder)
    return folder


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """Names of the teachers that are trained, "" for the first."""
    names: list[str] = []
    real = real_images.train

    def train(*args):
        names.append(args[4])
        return real(*args)

    monkeypatch.setattr(real_images, "train", train)
    return names


def manifest_of(folder: Path) -> dict:
    return files.read_json(folder / "manifest.json")


def hashes(folder: Path) -> dict[str, str]:
    """Of the listed others, by folder."""
    return {o["folder"]: o["hash"] for o in manifest_of(folder / "teacher").get("others", ())}


# --- names ---


def test_names_of_folders_are_distinct_and_say_what_they_hold(made):
    taken = str(made / "teachers/conv3_6")
    asked = with_others("conv4", "conv4:64", "conv4", "conv4:064", "shufflenet_v2_x1_0", taken)
    alone = ensemble.recipes(asked)
    names = ["conv4", "conv4_64", "conv4-2", "conv4_64-2", "shufflenet_v2_x1_0", "conv3_6"]
    assert list(alone) == names
    assert [(r.teacher.model, r.teacher.width) for r in alone.values()][:4] == [
        *(("conv4", 0), ("conv4", 64), ("conv4", 0), ("conv4", 64)),
    ]
    assert alone["conv3_6"].teacher.weights == taken
    assert all(r.teacher.others == () for r in alone.values())
    assert ensemble.recipes(ALONE) == {}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("conv", r"'conv', which is neither .* There are conv3, "),
        ("", r"'', which is neither"),
        ("conv4:", r"'conv4:', but a width is a whole number from 1; .* conv4:64"),
        ("conv4:0", "a width is a whole number"),
        ("conv4:-3", "a width is a whole number"),
        ("tests", r"lists tests: .*manifest.json is missing"),
        ("vgg11", "cannot have vgg11: .*at least 32 px"),
        ("vit_b_16", "cannot have vit_b_16: .*multiple of 16"),
    ],
)
def test_what_cannot_be_a_teacher_is_refused_before_anything_runs(
    entry, message, source, monkeypatch
):
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(UserError, match=message):
        checks.check(with_others(entry), source)


def test_an_architecture_without_statistics_is_refused(source):
    large = dataclasses.replace(source, image_size=32)
    with pytest.raises(UserError, match=r"cannot have vgg11: .*vgg11 has no BatchNorm"):
        squeeze.check_others(with_others("vgg11"), large)


def test_finished_teachers_must_fit_and_differ(made, source, tmp_path):
    first, second = str(made / "teacher"), str(made / "teachers/conv3_6")
    squeeze.check_others(with_others(first, second), source)
    with pytest.raises(UserError, match=r"conv3_6-2: .* is listed before"):
        squeeze.check_others(with_others(second, second), source)
    with pytest.raises(UserError, match="is listed before"):
        squeeze.check_others(with_others(first, weights=first), source)
    renamed = dataclasses.replace(source, class_names=("zero", *source.class_names[1:]))
    with pytest.raises(UserError, match=r"cannot have conv3_6: .*0: '0' against 'zero'"):
        squeeze.check_others(with_others(second), renamed)
    larger = dataclasses.replace(source, image_size=16)
    with pytest.raises(UserError, match="cannot have conv3_6: The teacher takes 8 px"):
        squeeze.check_others(with_others(second), larger)


def test_a_flag_lists_them_by_commas():
    config = config_lib.default_config()
    config.teacher.others = ("conv4:64, conv3",)
    assert config_lib.from_config(config).teacher.others == ("conv4:64", "conv3")


# --- the squeeze stage ---


def test_every_teacher_has_its_folder_and_the_first_lists_them(made, source):
    first = manifest_of(made / "teacher")
    assert [o["folder"] for o in first["others"]] == ["teachers/conv3_4", "teachers/conv3_6"]
    loaded = teacher_lib.load_others(made / "teacher")
    assert [t.spec.width for t in loaded] == [4, 6]
    for entry, other in zip(first["others"], loaded, strict=True):
        own = manifest_of(made / entry["folder"])
        assert entry["hash"] == own["hash"] == other.hash
        assert entry["accuracy"] == own["accuracy"] == other.accuracy > 0.2
        assert own["inputs"]["teacher.width"] == other.spec.width
    # The same architecture with the same settings is another teacher.
    assert loaded[0].hash != first["hash"]
    assert not list(made.rglob("*.partial"))
    lines = (made / "metrics.jsonl").read_text().splitlines()
    stages = {json.loads(line)["stage"] for line in lines}
    assert stages == {"squeeze", "squeeze/conv3_4", "squeeze/conv3_6"}


def test_the_first_teacher_is_the_one_of_a_run_without_others(made, source, tmp_path):
    alone = squeezed(ALONE, source, tmp_path / "alone")
    first, theirs = manifest_of(alone.path / "teacher"), manifest_of(made / "teacher")
    assert first["hash"] == theirs["hash"]
    assert theirs["inputs"].pop("teacher.others")[0].startswith("conv3_4 ")
    assert first["inputs"] == theirs["inputs"]
    assert first.keys() == theirs.keys() - {"others"}
    assert teacher_lib.load_others(alone.path / "teacher") == ()


def test_order_and_initialisation_are_other_draws(source, tmp_path, monkeypatch):
    init_keys, orders, names = [], [], ("", "conv3", "conv3-2")

    def note(model, optimiser, key, image_shape):
        init_keys.append(tuple(jax.random.key_data(key).tolist()))
        raise KeyboardInterrupt

    monkeypatch.setattr(state, "init_state", note)
    spec = squeeze.spec_of(ALONE, source)
    output = TrainingOutput("squeeze", tmp_path, WorkDir(tmp_path).log)
    for name in names:
        with pytest.raises(KeyboardInterrupt):
            real_images.train(ALONE, source, spec, output, name)
        orders.append(real_images.epoch_order(ALONE.seed, name, 0, len(source.train), 64))
    assert len(set(init_keys)) == 3
    assert len({tuple(order.reshape(-1)) for order in orders}) == 3


def test_what_is_unchanged_is_kept(copy, source, trained):
    before = hashes(copy)
    first = manifest_of(copy / "teacher")
    squeezed(with_others(*TWO, "conv3:5"), source, copy)
    assert trained == ["conv3_5"]
    assert hashes(copy).items() > before.items()
    assert manifest_of(copy / "teacher")["hash"] == first["hash"]
    assert manifest_of(copy / "teacher")["seconds"] == first["seconds"]
    squeezed(with_others("conv3:6"), source, copy)
    assert list(hashes(copy)) == ["teachers/conv3_6"]
    squeezed(ALONE, source, copy)
    assert "others" not in manifest_of(copy / "teacher")
    squeezed(with_others(*TWO), source, copy)
    assert hashes(copy) == before
    assert trained == ["conv3_5"]
    squeezed(with_others(*reversed(TWO)), source, copy)
    assert list(hashes(copy).items()) == list(reversed(before.items()))
    assert trained == ["conv3_5"]
    squeezed(with_others(*TWO, epochs=1), source, copy)
    assert trained == ["conv3_5", "conv3_4", "conv3_6", ""]
    assert hashes(copy)["teachers/conv3_4"] != before["teachers/conv3_4"]


def test_one_that_is_missing_or_damaged_is_made_again(copy, source, trained, capsys):
    before, recipe = hashes(copy), with_others(*TWO)
    shutil.rmtree(copy / "teachers/conv3_6")
    status = pipeline.status(pipeline.STAGES[0], recipe, source, WorkDir(copy))
    assert status == (True, "redone because teachers/conv3_6 is missing")
    with pytest.raises(UserError, match=r"conv3_6/manifest\.json is missing"):
        teacher_lib.load_others(copy / "teacher")
    weights = copy / "teachers/conv3_4/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    squeezed(recipe, source, copy)
    assert trained == ["conv3_4", "conv3_6"]
    assert hashes(copy) == before
    assert "teachers/conv3_4 is made again" in capsys.readouterr().out


def test_another_than_the_listed_one_is_refused(copy):
    shutil.rmtree(copy / "teachers/conv3_4")
    shutil.copytree(copy / "teachers/conv3_6", copy / "teachers/conv3_4")
    with pytest.raises(UserError, match=r"conv3_4 is not the one .*--stages=squeeze"):
        teacher_lib.load_others(copy / "teacher")


@pytest.mark.exhaustive  # one teacher's is in training/test_real_images.py
def test_a_kill_loses_no_finished_teacher_and_no_epoch(made, source, tmp_path, monkeypatch):
    real, epochs = real_images.epoch_order, []

    def killed(seed, name, epoch, *sizes):
        epochs.append((name, epoch))
        # After every batch of the epoch before the first kill; saving takes longer than a batch.
        seconds = -1 if len(epochs) == 3 else 60
        monkeypatch.setattr(real_images, "SECONDS_BETWEEN_CHECKPOINTS", seconds)
        if len(epochs) in (4, 6):  # in the second epoch of the second other, and of the first
            raise KeyboardInterrupt
        return real(seed, name, epoch, *sizes)

    monkeypatch.setattr(real_images, "epoch_order", killed)
    recipe, folder = with_others(*TWO), tmp_path / "run"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            squeezed(recipe, source, folder)
        assert not (folder / "teacher").exists()
    squeezed(recipe, source, folder)
    assert epochs == [
        *(("conv3_4", 0), ("conv3_4", 1), ("conv3_6", 0), ("conv3_6", 1)),
        *(("conv3_6", 1), ("", 0)),
        *(("", 0), ("", 1)),
    ]
    assert hashes(folder) == hashes(made)
    assert manifest_of(folder / "teacher")["hash"] == manifest_of(made / "teacher")["hash"]
    assert not list(folder.rglob("*.partial"))


def test_finished_teachers_are_taken(made, source, tmp_path, trained):
    recipe = with_others(str(made / "teachers/conv3_6"), weights=str(made / "teacher"))
    folder = squeezed(recipe, source, tmp_path / "run").path
    assert trained == []
    assert hashes(folder) == {"teachers/conv3_6": hashes(made)["teachers/conv3_6"]}
    assert (
        manifest_of(folder / "teachers/conv3_6")["inputs"]["teacher.weights"]
        == (manifest_of(made / "teachers/conv3_6")["hash"])
    )
    assert not pipeline.status(pipeline.STAGES[0], recipe, source, WorkDir(folder))[0]
    # Beside an imported first one, others are trained as the settings say, and again with others.
    inputs = [
        squeeze.inputs(
            with_others("conv3:6", weights=str(made / "teacher"), epochs=e), source, folder
        )
        for e in (2, 3)
    ]
    assert inputs[0] != inputs[1]
    assert inputs[0].keys() == {"data", "class_names", "teacher.weights", "teacher.others"}


def test_inputs_of_a_run_without_others_are_as_ever(source, tmp_path):
    assert "teacher.others" not in squeeze.inputs(ALONE, source, WorkDir(tmp_path))


# --- sharing ---


def test_each_is_shared_on_its_own(made, source, tmp_path, trained, capsys):
    recipe = with_others("conv3:6", "conv3:5")
    workdir = WorkDir(tmp_path / "ours")
    reuse.link_finished(recipe, source, workdir, [WorkDir(made)])
    said = capsys.readouterr().out
    assert "squeeze: taken from run" in said
    assert "squeeze: teachers/conv3_6 taken from run" in said
    weights = "teachers/conv3_6/weights.safetensors"
    assert (workdir.path / weights).samefile(made / weights)
    before = manifest_of(made / "teacher")
    squeezed(recipe, source, workdir.path)
    assert trained == ["conv3_5"]
    assert list(hashes(workdir.path)) == ["teachers/conv3_6", "teachers/conv3_5"]
    assert manifest_of(made / "teacher") == before  # theirs is whole without ours
    third = WorkDir(tmp_path / "third")
    reuse.link_finished(recipe, source, third, [WorkDir(made), workdir])  # the same list goes first
    assert not pipeline.status(pipeline.STAGES[0], recipe, source, third)[0]


def test_different_teachers_are_counted_once_each(source, tmp_path):
    recipes = [with_others("conv3:6"), with_others("conv3:6", "conv4")]
    folders = [WorkDir(tmp_path / name) for name in "ab"]
    cells = [
        grid.Cell(name, config_lib, dataclasses.replace(r, ipc=1), source, folder)
        for name, r, folder in zip("ab", recipes, folders, strict=True)
    ]
    cells[0] = dataclasses.replace(cells[0], arguments=type("A", (), {"command": "x"}))
    assert grid.describe(cells)[0] == "Grid of 2 cells, 3 different teacher(s), each made once"
