"""What an export may replace: its own files, as it wrote them, and nothing else."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from torch_pickles import dictionary, storage, tensor, write_pth

import delt_jax
from delt_jax import export
from delt_jax.errors import UserError
from delt_jax.formats import FORMATS, ownership, pt
from delt_jax.stages import pipeline
from delt_jax.store import mirror

FOLDERS = ("folder", "new000", "parquet", "tfds")


@pytest.fixture
def source(tmp_path) -> Path:
    """A set of two classes, two images of each."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), np.uint8)
    (tmp_path / "source").mkdir()
    np.savez(tmp_path / "source/set.npz", images=pixels, labels=[0, 0, 1, 1])
    return tmp_path / "source/set.npz"


def run(source: Path, to: str, out: Path, **more) -> None:
    export.run(export.ExportOptions(source, to, out, **more))


def snapshot(folder: Path) -> dict[str, bytes | str | None]:
    """Everything below a folder: contents of files, targets of links."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def refuse(tmp_path: Path, says: str, source: Path, to: str, out: Path) -> None:
    """Refused with and without --overwrite, before the set is read, and nothing is touched."""
    before = snapshot(tmp_path)
    for overwrite in (True, False):
        with pytest.raises(UserError, match=says) as e:
            run(source, to, out, overwrite=overwrite)
        assert "\n" not in str(e.value)
    assert snapshot(tmp_path) == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delt_jax, "load", None)
        with pytest.raises(UserError, match=says):
            run(source, to, out, overwrite=True)


NOT_OURS = "is there and no export of delt_jax"


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.zeros((1, 2, 2), np.uint8), "labels": np.zeros(1, int)},
        {"x": np.zeros(3)},
        {"images": 0, "labels": 0, "class_names": ["a"], "manifest": "no JSON"},
        {"images": 0, "labels": 0, "class_names": ["a"], "manifest": "[]"},
        {"images": 0, "labels": 0, "class_names": ["a"], "manifest": "{}", "mine": 1},
    ],
)
def test_an_npz_of_others_stays(source, tmp_path, arrays):
    np.savez(tmp_path / "mine.npz", **arrays)
    refuse(tmp_path, NOT_OURS, source, "npz", tmp_path / "mine.npz")


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"my notes", bytes(1000)])
@pytest.mark.parametrize("to", ["npz", "pt"])
def test_any_file_of_others_stays(source, tmp_path, content, to):
    out = tmp_path / f"mine.{to}"
    out.write_bytes(content)
    refuse(tmp_path, NOT_OURS, source, to, out)


def test_a_pt_of_others_stays_and_ours_is_known(source, tmp_path):
    images = tensor(storage("ByteStorage", count=12), (4, 3, 1, 1), (3, 1, 1, 1))
    labels = tensor(storage("ByteStorage", count=12), (4,), (1,))
    numbers = np.arange(12, dtype=np.uint8)
    two = {"images": images, "labels": labels}
    for content in (
        dictionary(model=images),
        dictionary(**two),
        dictionary(**two, class_names=b"]", manifest=b"V[]\n"),
        dictionary(**two, class_names=b"]", manifest=b"V{}\n", mine=b"N"),
    ):
        path = write_pth(tmp_path / "mine.pt", content, numbers)
        refuse(tmp_path, NOT_OURS, source, "pt", path)
    for more in ({}, {"soft_labels": labels}):
        content = dictionary(**two, class_names=b"]", manifest=b"V{}\n", **more)
        assert pt.is_ours(write_pth(tmp_path / "ours.pt", content, numbers))


@pytest.mark.parametrize("to", [*FOLDERS, "npz", "distilled"])
def test_an_export_replaces_its_own(source, tmp_path, to):
    out = tmp_path / f"out{FORMATS[to].suffix}"
    run(source, to, out, per_class=1)
    with pytest.raises(UserError, match="is there already; choose another --out, or add"):
        run(source, to, out)
    run(source, to, out, overwrite=True)
    assert delt_jax.load(out).ipc == 2


@pytest.mark.parametrize("to", FOLDERS)
def test_a_folder_is_replaced_by_another_layout(source, tmp_path, to):
    run(source, to, tmp_path / "out")
    run(source, "folder", tmp_path / "out", overwrite=True)
    assert len(delt_jax.load(tmp_path / "out").images) == 4


def add_file(out: Path) -> None:
    (out / "notes.txt").write_text("mine")


def add_hidden(out: Path) -> None:
    (out / ".git").mkdir()
    (out / ".git/HEAD").write_text("mine")


def add_picture(out: Path) -> None:
    """Named as the export's, but none of its own."""
    (out / "00001/00007.png").parent.mkdir(exist_ok=True)
    (out / "00001/00007.png").write_bytes(b"mine")


def add_link(out: Path) -> None:
    (out / "elsewhere").symlink_to("/")


def change(out: Path) -> None:
    first = next(p for p in sorted(out.rglob("*")) if p.is_file() and p.name != "delt_jax.json")
    first.write_bytes(first.read_bytes()[:-1] + b"!")


def to_link(out: Path) -> None:
    first = next(p for p in sorted(out.rglob("*")) if p.is_file() and p.name != "delt_jax.json")
    first.rename(out.parent / "kept")
    first.symlink_to(out.parent / "kept")


@pytest.mark.parametrize("to", FOLDERS)
@pytest.mark.parametrize("spoil", [add_file, add_hidden, add_picture, add_link, change, to_link])
def test_other_files_in_an_export_stay(source, tmp_path, to, spoil):
    out = tmp_path / "out"
    run(source, to, out)
    spoil(out)
    refuse(tmp_path, "no export wrote 1 of its files as they are", source, to, out)


@pytest.mark.parametrize("to", FOLDERS)
def test_exports_from_before_their_files_were_listed(source, tmp_path, to):
    out = tmp_path / "out"
    run(source, to, out)
    about = json.loads((out / "delt_jax.json").read_text())
    assert set(about.pop("files")) == set(snapshot_of_files(out)) - {"delt_jax.json"}

    def grow_old() -> None:
        (out / "delt_jax.json").write_text(json.dumps(about))
        (out / "sheet.png").unlink(missing_ok=True)  # of a card; came later

    grow_old()
    run(source, to, out, overwrite=True)
    grow_old()
    add_file(out)
    refuse(tmp_path, r"notes\.txt", source, to, out)


def snapshot_of_files(folder: Path) -> list[str]:
    return [name for name, content in snapshot(folder).items() if content is not None]


def test_an_imported_set_is_replaced_but_not_with_other_files(source, tmp_path):
    out = tmp_path / "run/distilled"
    run(source, "distilled", out, per_class=1)
    run(source, "distilled", out, overwrite=True)
    add_file(out)
    refuse(tmp_path, r"notes\.txt", source, "distilled", out)


@pytest.fixture
def made(source, tmp_path) -> Path:
    """A work directory with a set of its own."""
    workdir = tmp_path / "run"
    run(source, "distilled", workdir / "distilled")
    manifest = json.loads((workdir / "distilled/manifest.json").read_text())
    del manifest["imported"]
    (workdir / "distilled/manifest.json").write_text(json.dumps(manifest))
    (workdir / "config.json").write_text('{"format": "delt_jax work directory, version 1"}')
    return workdir


@pytest.mark.parametrize("to", [*FOLDERS, "distilled"])
def test_a_runs_own_set_is_no_target(source, made, tmp_path, to):
    (tmp_path / "link").symlink_to(made)
    for out in (
        made / "distilled",
        tmp_path / "link/distilled",
        made / "cache/../distilled",
        made / "distilled/images",
        made / "distilled/new",
        made / "distilled.partial",
        made / "teacher",
        made / "soft_labels/x",
        made / "report",
        made / "experts",
        made / "experts.partial",
        made / "profile",
        made / "mirror.json",
        made / ".tmp",
    ):
        refuse(tmp_path, "belongs to the run in", source, to, out)
    refuse(tmp_path, NOT_OURS, source, to, made)


def test_all_that_stages_write_is_a_runs_own():
    owned = {name for stage in pipeline.STAGES for name in stage.owns}
    made = {Path(stage.manifest).parts[0] for stage in pipeline.STAGES}
    assert {*owned, *made, mirror.RECORD} <= set(ownership.STAGES)


def test_files_of_a_run_are_no_target(source, made, tmp_path):
    for name in ("cache/x.npz", "distilled/losses.npz", "soft_labels/logits.npz"):
        refuse(tmp_path, "belongs to the run in", source, "npz", made / name)
    run(source, "npz", made / "exports/x.npz")  # beside what stages own


def test_a_set_that_left_its_run_stays(source, made, tmp_path):
    (made / "distilled").rename(tmp_path / "kept")
    for to in ("folder", "distilled"):
        refuse(tmp_path, "is a set that a run made and no export", source, to, tmp_path / "kept")


def test_a_set_is_not_imported_over_one_in_the_making(source, tmp_path):
    workdir = tmp_path / "run"
    (workdir / "distilled.partial").mkdir(parents=True)
    (workdir / "config.json").write_text('{"format": "delt_jax work directory, version 1"}')
    refuse(tmp_path, "has made or begun a set", source, "distilled", workdir / "distilled")
    (workdir / "distilled.partial").rmdir()
    run(source, "distilled", workdir / "distilled")
    run(source, "distilled", workdir / "distilled", overwrite=True)


@pytest.mark.parametrize("to", ["npz", "folder"])
def test_links_are_not_followed(source, tmp_path, to):
    target = tmp_path / f"target{FORMATS[to].suffix}"
    run(source, to, target)
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("link", "gone", "loop"):
        refuse(tmp_path, "is a symbolic link to", source, to, tmp_path / name)


def test_the_source_is_no_target(source, tmp_path):
    own = tmp_path / "own.npz"
    run(source, "npz", own)
    refuse(tmp_path, "is or holds what is read", own, "npz", own)
    refuse(tmp_path, "is or holds what is read", own, "npz", tmp_path / "source/../own.npz")
    os.link(own, tmp_path / "hard.npz")
    refuse(tmp_path, "is or holds what is read", own, "npz", tmp_path / "hard.npz")
    run(own, "folder", tmp_path / "folder")
    for out in (tmp_path / "folder", tmp_path / "folder/../folder"):
        refuse(tmp_path, "is or holds what is read", tmp_path / "folder", "folder", out)
    refuse(tmp_path, "is within what", tmp_path / "folder", "npz", tmp_path / "folder/x.npz")
    refuse(tmp_path, "is or holds", tmp_path / "folder/00000", "folder", tmp_path / "folder")


@pytest.mark.parametrize("to", ["npz", "folder"])
def test_targets_that_no_disk_takes(source, tmp_path, to):
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(UserError, match="cannot be"):
            run(source, to, tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=NOT_OURS):
        run(source, to, tmp_path / "pipe", overwrite=True)
