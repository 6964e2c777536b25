"""What can be known before the first stage is said before it, and by a dry run."""

import os
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_run import tiny

from delt_jax import main
from delt_jax.config import derive, from_config
from delt_jax.core.normalisation import Normalisation
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.data import open_source
from delt_jax.errors import UserError
from delt_jax.formats import distilled, own
from delt_jax.formats.distilled import DistilledSet
from delt_jax.recipe import DataRecipe
from delt_jax.runtime import host_memory
from delt_jax.stages import checks, room
from delt_jax.store.workdir import WorkDir

SOURCE = open_source(DataRecipe("digits"))


def recipe(**changes):
    return derive.complete(from_config(tiny(**changes)), SOURCE)[0]


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("relabel.rand_augment", "nonsense", "augmentation 'nonsense' is not understood"),
        ("relabel.rand_augment", "rand-m99999999999", "section 'm99999999999'"),
        ("relabel.shuffle", 100, r"relabel.shuffle \(100\) .* set it to 8 or less"),
        ("evaluate.devices_per_student", 7, "7, which does not divide a batch of 15 images"),
        ("seed", 2**64, "seed must be at most 4294967295"),
        ("seed", 2**32, "seed must be at most 4294967295"),
        ("teacher.crop_padding", 8, r"teacher.crop_padding \(8\) must be below .* 8 px"),
        ("recover.jitter", 9, r"recover.jitter \(9\) must be at most the images' side"),
        ("recover.crop_padding", 8, r"recover.crop_padding \(8\) must be below"),
        ("evaluate.accumulate", 5, "would never take a gradient step"),
        ("evaluate.students", ("conv3", ""), None),
        ("evaluate.students", ("conv4",), "halves the image 4 times"),
        ("teacher.weights", "nowhere", "does not exist"),
        ("teacher.weights", __file__, "does not say how its images were normalised"),
        ("teacher.weights", "pkg:none_such/a.pth", "run pip install none-such"),
        ("teacher.weights", "hf:a/b", "does not say how its images were normalised"),
        ("evaluate.scores_folder", __file__ + "/scores", "is no folder"),
        (
            "data.mean",
            (77.97,),
            r"data.mean must be that of pixels in \[0, 1\], but holds 77.97; div",
        ),
    ],
)
def test_nothing_is_begun(setting, value, message, dry_run, tmp_path):
    config = tiny(**{setting: value})
    if message is None:
        config.teacher.model = ""
        message = "lists 'conv3' more than once"
    with pytest.raises(UserError, match=message) as raised:
        main.run(config, str(tmp_path / "run"), dry_run=dry_run)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_stages_that_do_not_run_may_have_what_they_cannot_use():
    odd = recipe(**{"evaluate.devices_per_student": 7})
    checks.check(odd, SOURCE, ("squeeze", "rank"))
    with pytest.raises(UserError, match="devices_per_student"):
        checks.check(odd, SOURCE, ("evaluate",))


def test_a_term_names_the_extra_that_it_needs(monkeypatch):
    matched = recipe(**{"recover.terms": ("barycentre=1",)})
    checks.check(matched, SOURCE)
    monkeypatch.setitem(sys.modules, "ot", None)
    checks.check(matched, SOURCE, ("evaluate",))
    with pytest.raises(UserError, match=r"needs POT: pip install 'delt_jax\[wmdd\]'\."):
        checks.check(matched, SOURCE)


def test_devices_that_divide_every_batch_pass():
    good = {"evaluate.devices_per_student": 5, "evaluate.batch_size": 15}
    checks.check(recipe(**good), SOURCE)


def test_common_statistics_need_as_many_devices_as_shares():
    many = {"evaluate.devices_per_student": 15}
    checks.check(recipe(**many), SOURCE)
    with pytest.raises(UserError, match=r"batch_norm .* there are only 8"):
        checks.check(recipe(**many, **{"evaluate.batch_norm": "shared"}), SOURCE)


# --- classes smaller than IPC ---


def test_noise_needs_no_real_images():
    smallest = int(np.bincount(SOURCE.train.labels).min())
    more = {"ipc": smallest + 1, "select.start": "noise", "evaluate.batch_size": 10}
    checks.check(recipe(**more, **{"evaluate.images": ("recovered",)}), SOURCE)
    checks.check(recipe(**more, **{"evaluate.images": ("recovered", "full")}), SOURCE)
    checks.check(recipe(**more), SOURCE, ("squeeze", "rank", "recover"))
    for image_set in ("random", "selected", "herding", "kmeans"):
        with pytest.raises(UserError, match=rf"ipc is {smallest + 1}, but class .* has only"):
            checks.check(recipe(**more, **{"evaluate.images": ("recovered", image_set)}), SOURCE)
    real = recipe(**more | {"select.start": "real", "evaluate.images": ("recovered",)})
    with pytest.raises(UserError, match="has only"):
        checks.check(real, SOURCE)


def test_a_class_without_images_is_named_whatever_the_start():
    empty = replace(SOURCE, class_names=(*SOURCE.class_names, "unicorn"))
    noise = recipe(**{"select.start": "noise", "evaluate.images": ("recovered",)})
    with pytest.raises(UserError, match="'unicorn' has only 0 training images"):
        checks.check(noise, empty)


# --- files and folders ---


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """A folder that cannot be written to, even by root."""
    folder, access = tmp_path / "locked", os.access
    folder.mkdir()
    monkeypatch.setattr(
        os, "access", lambda p, mode: access(p, mode) and not (mode & os.W_OK and p == folder)
    )
    return folder


@pytest.mark.parametrize("dry_run", [False, True])
def test_folders_must_be_writable(read_only, tmp_path, dry_run):
    for workdir in (read_only, read_only / "a" / "b"):
        with pytest.raises(UserError, match=r"--workdir .*locked.* cannot be written to; choose"):
            main.run(tiny(), str(workdir), dry_run=dry_run)
    config = tiny(**{"evaluate.scores_folder": str(read_only / "scores")})
    with pytest.raises(UserError, match=r"evaluate.scores_folder .*locked, which cannot be wri"):
        main.run(config, str(tmp_path / "run"), dry_run=dry_run)
    checks.check_places(recipe(), SOURCE, WorkDir(tmp_path / "run" / "deep"))


def test_a_disk_mounted_for_reading_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(UserError, match="cannot be written to"):
        checks.check_writable("--workdir", tmp_path / "run")


def test_a_dangling_link_is_no_folder(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="is no folder"):
        checks.check_writable("--workdir", tmp_path / "run")


@pytest.mark.parametrize("setting", ["teacher.weights", "teacher.others", "relabel.teachers"])
def test_imported_teachers_must_be_whole(setting, tiny_ranked, tmp_path):
    folder = shutil.copytree(tiny_ranked / "teacher", tmp_path / "theirs")
    value = str(folder) if setting == "teacher.weights" else (str(folder),)
    good, workdir = recipe(**{setting: value}), WorkDir(tmp_path / "run")
    checks.check(good, SOURCE)
    checks.check_places(good, SOURCE, workdir)
    weights = folder / "weights.safetensors"
    if setting != "relabel.teachers":
        content = bytearray(weights.read_bytes())
        content[-8] ^= 0x40
        weights.write_bytes(bytes(content))
        with pytest.raises(UserError, match="weights"):
            checks.check_places(good, SOURCE, workdir)
    weights.unlink()
    with pytest.raises(UserError, match="weights"):
        checks.check_places(good, SOURCE, workdir)


# --- disk and memory ---


def free(monkeypatch, number):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(free=number))


def test_free_disk_is_compared_with_the_plan(tmp_path, monkeypatch):
    run, workdir = recipe(), WorkDir(tmp_path / "run")
    needed = sum(room.disk(run, SOURCE).values())
    free(monkeypatch, 2 * needed)
    assert room.check(run, SOURCE, workdir) == []
    free(monkeypatch, 2 * needed - 1)
    (note,) = room.check(run, SOURCE, workdir)
    assert note.startswith(f"The run needs about {room.amount(needed, 'B')} on disk, and ")
    free(monkeypatch, needed // 2 - 1)
    with pytest.raises(UserError, match="free the disk or choose another --workdir"):
        room.check(run, SOURCE, workdir)
    assert room.check(run, SOURCE, workdir, ["relabel"]) == []  # which writes far less


def test_what_is_finished_needs_no_more_disk(tmp_path, monkeypatch):
    run, workdir = recipe(), WorkDir(tmp_path / "run")
    workdir.path.mkdir()
    (workdir.path / "all").write_bytes(bytes(sum(room.disk(run, SOURCE).values())))
    free(monkeypatch, 0)
    assert room.check(run, SOURCE, workdir) == []


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, r"float images .* labels of a teacher \(online, fixed\)"),
        (
            {"evaluate.regimes": ("hard",), "relabel.rand_augment": "rand-m6-n2-mstd1.0"},
            "RandAugment .* knows only pixels",
        ),
        ({"evaluate.regimes": ("learned",)}, "values for a squared error"),
    ],
)
def test_students_of_imported_floats_are_checked_before_a_teacher(tmp_path, changes, says, dry_run):
    images = np.random.default_rng(0).normal(size=(10, 8, 8, 1)).astype(np.float32)
    space = Preprocessing("standardise", Normalisation((0.5,), (0.2,)))
    manifest = distilled.manifest_of_learned(space, None, "centred")
    labels = np.arange(10, dtype=np.int32)
    values = (np.eye(10) - 0.1).astype(np.float32)
    (tmp_path / "distilled").mkdir()
    own.write(
        tmp_path / "distilled",
        DistilledSet(
            *(images, labels, SOURCE.class_names, manifest),
            preprocessing=space,
            learned_labels=values,
        ),
    )
    asked = tiny(**{"ipc": 1, "evaluate.images": ("recovered",), **changes})
    with pytest.raises(UserError, match=says):
        main.run(asked, str(tmp_path), ["squeeze", "relabel", "evaluate"], dry_run=dry_run)
    assert [path.name for path in tmp_path.iterdir()] == ["distilled"]


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_full_disk_is_known_before_the_first_stage(dry_run, tmp_path, monkeypatch):
    free(monkeypatch, 1000)
    with pytest.raises(UserError, match="has 1 kB free"):
        main.run(tiny(), str(tmp_path / "run"), dry_run=dry_run)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"teacher.width": 2**14}, "the teacher conv3 need at least"),
        ({"evaluate.width": 2**14}, "a student conv3 need at least"),
        ({"ipc": 100}, r"the 1,000 distilled images \(ipc 100\) need at least"),
    ],
)
def test_memory_is_compared_before_it_is_taken(change, what, tmp_path, monkeypatch):
    monkeypatch.setattr(host_memory, "total", lambda: 10**8 if "width" in str(change) else 10**5)
    with pytest.raises(UserError, match=what):
        room.check(recipe(**change), SOURCE, WorkDir(tmp_path))


def test_a_plan_for_another_machine_is_only_told(tmp_path, monkeypatch):
    monkeypatch.setattr(host_memory, "total", lambda: 1000)
    (note,) = room.check(recipe(), replace(SOURCE, fingerprint=""), WorkDir(tmp_path))
    assert "There are 1 kB of memory" in note


def test_images_kept_in_memory_must_fit(monkeypatch):
    monkeypatch.setattr(host_memory, "available", lambda: 10**6)
    with pytest.raises(UserError, match=r"data.image_size 64 makes 0.0 GiB of the 1,797 images"):
        open_source(DataRecipe("digits", image_size=64))


def test_the_machine_tells_its_memory():
    assert 10**8 < host_memory.available() <= host_memory.total()
