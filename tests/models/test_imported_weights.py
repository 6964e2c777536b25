"""Weights brought along for a teacher, by the command line: cut to the data, or refused."""

import json
import pickle
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from small_models import random_state
from torch_pickles import Attack, dictionary, storage, tensor

from delt_jax import main, models
from delt_jax.config import cli
from delt_jax.data.classes import positions, wanted_classes
from delt_jax.models import ModelSpec, torch_files, torch_weights
from delt_jax.teachers import teacher as teacher_lib

CONFIG = "--config=configs/digits.py"
WEIGHTS = "--config.teacher.weights="
CONSTANTS = ("--config.data.mean=0.5,", "--config.data.std=0.5,")
SMALL = ("--stages=squeeze", "--config.teacher.width=8", "--config.evaluate.width=8")
CLASSES = (19, 3, 0, 7, 12, 5, 4, 18, 9, 10)  # of twenty, in the order of the digits
HEAD = f"--config.teacher.head_classes={','.join(map(str, CLASSES))}"


def command(workdir: Path, *arguments) -> int:
    """The command line in this process."""
    return main.main(["delt_jax", CONFIG, f"--workdir={workdir}", *SMALL, *map(str, arguments)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a teacher of the digits."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert command(folder, "--config.teacher.epochs=2") == 0
    return folder / "teacher"


def widen(trained: Path, count: int, places, path: Path) -> Path:
    """A file of its weights whose head has `count` outputs, the digits' at `places`."""
    state = torch_files.read(trained / teacher_lib.WEIGHTS)
    for name in ("classifier.weight", "classifier.bias"):
        rows = np.random.default_rng(0).standard_normal((count, *state[name].shape[1:]))
        rows[list(places)] = state[name]
        state[name] = rows.astype(np.float32)
    torch_files.write(path, state)
    return path


@pytest.fixture(scope="module")
def wide(trained, tmp_path_factory) -> Path:
    """A head of twenty outputs, the digits' at CLASSES."""
    return widen(trained, 20, CLASSES, tmp_path_factory.mktemp("wide") / "wide.safetensors")


def refused(status: int, capsys, *words: str) -> None:
    """One sentence on stderr and status 1."""
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert status == 1
    assert line.startswith("delt_jax: ")
    for word in words:
        assert word in line


def constants(folder: Path) -> list[str]:
    made = json.loads((folder / "manifest.json").read_text())["normalisation"]
    return [f"--config.data.{k}={v[0]!r}," for k, v in made.items()]


def test_a_wide_head_is_cut_to_the_teacher_it_was_made_from(
    trained, wide, tmp_path, capsys, monkeypatch
):
    arguments = (f"{WEIGHTS}{wide}", *constants(trained))
    assert command(tmp_path / "run", *arguments, HEAD) == 0
    assert teacher_lib.load(tmp_path / "run/teacher").hash == teacher_lib.describe(trained).hash
    capsys.readouterr()
    assert command(tmp_path / "run", *arguments, HEAD) == 0
    assert "squeeze: done, nothing changed" in capsys.readouterr().out
    monkeypatch.syspath_prepend(wide.parents[1])  # where its folder is a package
    packaged = f"{WEIGHTS}pkg:{wide.parent.name}/{wide.name}"
    assert command(tmp_path / "run", packaged, *constants(trained), HEAD) == 0
    assert "squeeze: done, nothing changed" in capsys.readouterr().out
    swapped = HEAD.replace("19,3", "3,19")
    assert command(tmp_path / "run", *arguments, swapped, "--dry_run") == 0
    assert "teacher.head_classes was [19, 3, 0" in capsys.readouterr().out


def test_a_head_of_all_imagenet_is_cut_to_the_datas_wnids(trained, tmp_path, capsys):
    wnids = wanted_classes("imagewoof")
    rows = positions(wnids, wanted_classes("imagenet"))
    head = widen(trained, 1000, rows, tmp_path / "imagenet.safetensors")
    names = f"--config.data.class_names={wnids!r}"
    arguments = (f"{WEIGHTS}{head}", *constants(trained))
    assert command(tmp_path / "run", *arguments, names) == 0
    assert "10 of the teacher's 1000 outputs are kept" in capsys.readouterr().out
    assert teacher_lib.load(tmp_path / "run/teacher").hash == teacher_lib.describe(trained).hash
    refused(command(tmp_path / "other", *arguments), capsys, "classifier.weight (1000x")


def test_logits_of_a_cut_head_are_those_of_its_classes():
    wide, cut = (ModelSpec("conv3", n, 8, 3, 8) for n in (1000, 3))
    state, classes = random_state(wide), (0, 217, 482)
    images = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype(np.float32)

    def logits(spec, variables):
        return jax.jit(lambda v: models.create(spec).apply(v, images, train=False))(variables)

    expected = logits(wide, torch_weights.from_torch(state, wide))[:, classes]
    measured = logits(cut, torch_weights.from_torch(state, cut, classes))
    np.testing.assert_allclose(measured, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("flag", "value"),
    [("0,217,482", (0, 217, 482)), ("(0,217)", (0, 217)), ("5", (5,)), ("[1, 2]", (1, 2))],
)
def test_flags_of_whole_numbers(flag, value):
    arguments = ["delt_jax", CONFIG, "--workdir=x", f"--config.teacher.head_classes={flag}"]
    assert cli.parse(arguments).config.teacher.head_classes == value


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("0,1", "lists 2 outputs, but the data have 10 classes"),
        (HEAD.partition("=")[2].replace("19", "20"), "classes 0 to 19, but 20 are to be kept"),
        (HEAD.partition("=")[2].replace("19", "-1"), "must be at least 0, not -1"),
        (HEAD.partition("=")[2].replace("19", "3"), "lists 3 more than once"),
        ("1,a", "must be a tuple of whole numbers, not ('1,a',)"),
        ("0.5,1", "must be a tuple of whole numbers, not (0.5, 1)"),
        ("True,1", "must be a tuple of whole numbers, not (True, 1)"),
    ],
)
def test_heads_that_cannot_be_cut(trained, wide, tmp_path, capsys, flag, says):
    status = command(
        tmp_path / "run",
        f"{WEIGHTS}{wide}",
        *constants(trained),
        f"--config.teacher.head_classes={flag}",
    )
    refused(status, capsys, says)
    assert not (tmp_path / "run/teacher").exists()


def test_heads_of_what_is_no_file(trained, tmp_path, capsys):
    refused(command(tmp_path / "run", HEAD), capsys, "teacher.weights is empty")
    status = command(tmp_path / "run", HEAD, f"{WEIGHTS}{trained}")
    refused(status, capsys, f"teacher.weights {trained} is a folder")
    assert not (tmp_path / "run").exists()


def resnet_command(tmp_path: Path, weights: Path) -> int:
    return command(
        tmp_path / "run",
        f"{WEIGHTS}{weights}",
        *CONSTANTS,
        "--config.teacher.model=resnet18",
        "--config.data.image_size=32",
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_checkpoint_with_a_renamed_and_a_misshapen_key(tmp_path, capsys, suffix):
    state = random_state(ModelSpec("resnet18", 10, 32, 1, 8))
    state["layer2.0.convolution1.weight"] = state.pop("layer2.0.conv1.weight")
    state["fc.weight"] = state["fc.weight"][:, :-1]
    path = tmp_path / f"resnet18{suffix}"
    if suffix == ".pth":
        write_pth_of(path, state)
    else:
        torch_files.write(path, state)
    refused(
        resnet_command(tmp_path, path),
        capsys,
        "not those of a resnet18 with 10 classes for 32 px images of 1 channels",
        "missing layer2.0.conv1.weight; unexpected layer2.0.convolution1.weight; ",
        "of another shape fc.weight (10x63 instead of 10x64).",
    )
    assert not (tmp_path / "run/teacher").exists()


def write_pth_of(path: Path, state: dict[str, np.ndarray]) -> None:
    """A .pth as torch writes it, pickle spelled out."""
    items = {}
    with zipfile.ZipFile(path, "w") as archive:
        for key, (name, array) in enumerate(state.items()):
            array = np.ascontiguousarray(array)
            strides = [s // array.itemsize for s in array.strides]
            items[name] = tensor(storage(key=str(key), count=array.size), array.shape, strides)
            archive.writestr(f"any/data/{key}", array.tobytes())
        archive.writestr("any/data.pkl", dictionary(**items) + b".")


def test_a_checkpoint_that_runs_code(tmp_path, capsys):
    victim = tmp_path / "victim"
    with zipfile.ZipFile(tmp_path / "resnet18.pth", "w") as archive:
        archive.writestr("any/data.pkl", pickle.dumps({"model": Attack(victim)}, protocol=2))
    refused(
        resnet_command(tmp_path, tmp_path / "resnet18.pth"),
        capsys,
        "resnet18.pth is refused: its pickle refers to ",
        "only tensors are read; save model.state_dict() alone",
    )
    assert not victim.exists()


def test_a_checkpoint_of_a_tool_gives_the_teacher_of_its_moving_average(trained, tmp_path, capsys):
    state = torch_files.read(trained / teacher_lib.WEIGHTS)
    files = {name: tmp_path / f"{name}.pth" for name in ("plain", "average")}
    write_pth_of(files["plain"], {f"model.{k}": v for k, v in state.items()})
    keys = {f"model.{k}": v * 0 for k, v in state.items()}
    write_pth_of(files["average"], keys | {f"ema_model.module.{k}": v for k, v in state.items()})
    for name, path in files.items():
        path = path.rename(tmp_path / f"{name}.ckpt")  # the ending does not matter
        assert command(tmp_path / name, f"{WEIGHTS}{path}", *constants(trained)) == 0
        made = teacher_lib.load(tmp_path / name / "teacher")
        assert made.hash == teacher_lib.describe(trained).hash
        said = "average.ckpt: the moving average of the weights (ema_model) is taken"
        assert (said in capsys.readouterr().out) == (name == "average")
