"""Damaged files of a finished run: they are named, and made again as they were."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
from tiny_run import read_json, tiny

from delt_jax import main
from delt_jax.config import cli
from delt_jax.errors import UserError
from delt_jax.formats import distilled
from delt_jax.recovery.run import driver
from delt_jax.store import artefact, files
from delt_jax.training import student_loop

STUDENT = "evaluation/students/conv3-stored-recovered-0"
TIMES = ("seconds", "cost_seconds", "made", "files", "checksum")


def setting(**changes):
    """One student with stored labels; mosaics, so that start files are there, too."""
    return tiny(
        **{
            "recover.batch_size": 6,
            "select.start": "rded",
            "select.mosaic": 1,
            "select.candidates": 4,
            "evaluate.epochs": 2,
            "evaluate.seeds": 1,
            "evaluate.regimes": ("stored",),
            "evaluate.images": ("recovered",),
            "evaluate.keep_students": True,
            "relabel.stored_epochs": 2,
        }
        | changes
    )


@pytest.fixture(scope="module")
def finished(tiny_ranked, tmp_path_factory) -> Path:
    """A finished run, never to be changed."""
    folder = shutil.copytree(tiny_ranked, tmp_path_factory.mktemp("damage") / "run")
    main.run(setting(), str(folder))
    return folder


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def without_times(value):
    """A value of a JSON file without what takes another time, and the checksums of that."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def content_of(folder: Path) -> dict[str, object]:
    """All files but logs; those that have times in them without these."""
    found: dict[str, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".json":
            found[name] = without_times(read_json(path))
        elif name not in (".lock", "metrics.jsonl", "report/report.html"):
            found[name] = path.read_bytes()
        else:
            found[name] = None
    return found


def check_mended(copy: Path, finished: Path) -> None:
    assert content_of(copy) == content_of(finished)
    for path in copy.rglob("manifest.json"):
        assert artefact.damage(path, artefact.read(path), contents=True) == ""
    assert not list(copy.glob("*.partial"))


DAMAGES = [
    ("teacher/weights.safetensors", truncate, "squeeze: redone because teacher/weights"),
    ("teacher/manifest.json", flip, "squeeze: redone because teacher/manifest.json is damaged"),
    ("ranking.csv", Path.unlink, "rank: redone because ranking.csv is missing"),
    ("ranking.csv", make_a_folder, "rank: redone because ranking.csv is damaged (it is no file)"),
    ("ranking.json", truncate, "rank: redone because ranking.json is damaged"),
    ("distilled/images/00004/00001.png", truncate, "recover: redone because distilled/images/"),
    (
        "distilled/losses.npz",
        Path.unlink,
        "recover: redone because distilled/losses.npz is missing",
    ),
    ("distilled/patches.npz", truncate, "recover: redone because distilled/patches.npz is damaged"),
    ("soft_labels/logits.npz", truncate, "relabel: redone because soft_labels/logits.npz"),
    ("soft_labels/views.bin", truncate, "relabel: redone because soft_labels/views.bin"),
    ("evaluation/scores.json", Path.unlink, "evaluate: redone because evaluation/scores.json"),
    ("scores", Path.unlink, "evaluate: redone because scores/"),
    (f"{STUDENT}/weights.safetensors", truncate, "evaluate: redone because evaluation/students"),
    ("evaluation/manifest.json", Path.unlink, "evaluate: not done yet"),
    ("report/report.html", Path.unlink, "report: redone because report/report.html is missing"),
    ("report/scores.csv", make_a_folder, "report: redone because report/scores.csv is damaged"),
    ("summary.json", truncate, "report: redone because summary.json is damaged (it has"),
]


@pytest.mark.parametrize(("name", "damage", "sentence"), DAMAGES)
def test_what_a_look_at_sizes_finds(copy, finished, capsys, name, damage, sentence):
    path = copy / name
    damage(next(path.iterdir()) if path.is_dir() else path)
    main.run(setting(), str(copy))
    assert sentence in capsys.readouterr().out
    check_mended(copy, finished)


FLIPPED = [
    "teacher/weights.safetensors",
    "ranking.csv",
    "distilled/images/00003/00000.png",
    "distilled/losses.npz",
    "soft_labels/views.bin",
    "evaluation/scores.json",
    f"{STUDENT}/manifest.json",
    "report/report.html",
    "summary.json",
]


def test_a_flipped_byte_is_found_by_verify(copy, finished, capsys):
    for name in FLIPPED:
        flip(copy / name)
    main.run(setting(), str(copy))
    assert capsys.readouterr().out.count("done, nothing changed") == 6  # sizes are right
    main.run(setting(), str(copy), dry_run=True, verify=True)
    out = capsys.readouterr().out
    before = "would run: redone because "
    assert f"squeeze   {before}teacher/weights.safetensors is damaged (its content has" in out
    for name in ("ranking.csv", "distilled/images/00003/00000.png", "soft_labels/views.bin"):
        assert f"would run: {name} is damaged (its content has changed)" in out
    main.run(setting(), str(copy), verify=True)
    check_mended(copy, finished)
    capsys.readouterr()
    main.run(setting(), str(copy), verify=True)
    assert capsys.readouterr().out.count("done, nothing changed") == 6


def test_verify_is_a_flag():
    line = ["delt_jax.main", "--config=configs/digits.py", "--workdir=W"]
    assert not cli.parse(line).verify
    assert cli.parse([*line, "--verify"]).verify


def test_a_flipped_byte_is_found_where_it_is_read(copy, finished, capsys):
    """Each stage reads what the stages before it made."""
    flip(copy / "ranking.csv")
    shutil.rmtree(copy / "distilled")
    flip(copy / "teacher/weights.safetensors")
    main.run(setting(), str(copy))
    out = capsys.readouterr().out
    assert "squeeze: redone because The weights in teacher are not those its manifest" in out
    assert "rank: redone because ranking.csv was changed since it was written" in out
    shutil.rmtree(copy / "report")
    for name in ("distilled/losses.npz", "evaluation/scores.json"):
        flip(copy / name)
    main.run(setting(), str(copy))
    out = capsys.readouterr().out
    assert "recover: redone because distilled/losses.npz is damaged" in out
    assert "evaluate: redone because evaluation/scores.json is damaged" in out
    check_mended(copy, finished)


def test_without_the_stage_that_mends_it_is_named(copy, capsys):
    shutil.rmtree(copy / "soft_labels")
    flip(copy / "distilled/images/00003/00000.png")
    with pytest.raises(UserError, match=r"00000.png is damaged .*--stages=recover,relabel\)"):
        main.run(setting(), str(copy), ["relabel"])
    truncate(copy / "ranking.json")
    with pytest.raises(UserError, match=r"ranking.json is damaged .*--stages=rank,recover\)"):
        main.run(setting(), str(copy), ["recover"])
    with pytest.raises(UserError, match=r"is damaged.*; add recover to --stages"):
        main.run(setting(), str(copy), ["squeeze", "rank", "report"], verify=True)
    main.run(setting(), str(copy), ["rank", "recover", "relabel"])
    assert "relabel: not done yet" in capsys.readouterr().out


def test_only_what_is_damaged_is_made_again(copy, finished, capsys, monkeypatch):
    begun, whole = [], driver.DeviceGroup.run
    monkeypatch.setattr(
        driver.DeviceGroup, "run", lambda group: (begun.extend(group.indices), whole(group))
    )
    monkeypatch.setattr(student_loop, "train", None)  # no student is trained
    (copy / "distilled/images/00009/00002.png").unlink()
    truncate(copy / "soft_labels/views.bin")
    (copy / "evaluation/scores.json").unlink()
    shutil.rmtree(copy / "scores")
    main_manifest = copy / "evaluation/manifest.json"
    main.run(setting(), str(copy), ["recover", "relabel"])
    out = capsys.readouterr().out
    assert "4 of 5 batches are intact and kept" in out
    assert begun == [4]
    assert "1 of 2 epochs were labelled before" in out
    monkeypatch.undo()
    main.run(setting(), str(copy))
    assert (
        read_json(main_manifest)["hash"] == read_json(finished / "evaluation/manifest.json")["hash"]
    )
    check_mended(copy, finished)


def test_what_an_older_version_made_stays_valid(copy, finished, capsys):
    for path in (*copy.rglob("manifest.json"), copy / "ranking.json", *copy.glob("scores/*")):
        path.write_text(json.dumps(artefact.unsealed(read_json(path))))
    main.run(setting(), str(copy))
    assert capsys.readouterr().out.count("done, nothing changed") == 6
    shutil.rmtree(copy / "report")
    (copy / "distilled/images/00009/00002.png").unlink()
    main.run(setting(), str(copy))
    assert "recover: redone because images are missing" in capsys.readouterr().out
    assert (
        distilled.read(copy / "distilled").manifest["hash"]
        == (distilled.read(finished / "distilled").manifest["hash"])
    )


def test_files_of_others_stay(copy, finished):
    notes = [copy / name for name in ("report/notes.txt", "distilled/images/notes/a.txt")]
    for path in notes:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    for _ in range(2):  # they never become ours
        (copy / "report/report.html").unlink()
        (copy / "distilled/images/00009/00002.png").unlink()
        main.run(setting(), str(copy))
    assert all(path.read_text() == "mine" for path in notes)
    for path in notes:
        path.unlink()
    check_mended(copy, finished)


def test_linked_folders_are_mended_where_they_lie(copy, finished, tmp_path):
    disk = tmp_path / "disk"
    for name in ("teacher", "distilled", "soft_labels", "evaluation", "report"):
        shutil.move(copy / name, disk / name)
        (copy / name).symlink_to(disk / name)
    (disk / "teacher/weights.safetensors").unlink()
    (disk / "distilled/images/00009/00002.png").unlink()
    flip(copy / "ranking.csv")
    for name in ("soft_labels/logits.npz", "evaluation/scores.json", "report/report.html"):
        truncate(disk / name)
    main.run(setting(), str(copy), verify=True)
    assert sorted(p.name for p in copy.iterdir()) == sorted(p.name for p in finished.iterdir())
    assert sorted(p.name for p in disk.iterdir()) == sorted(
        p.name for p in copy.iterdir() if p.is_symlink()
    )
    for path in disk.iterdir():
        (copy / path.name).unlink()
        shutil.move(path, copy / path.name)
    check_mended(copy, finished)


def test_damage_that_comes_back_ends_the_run(copy, monkeypatch):
    shutil.rmtree(copy / "soft_labels")
    flip(copy / "distilled/images/00003/00000.png")
    real, numbers = files.file_checksum, itertools.count()

    def never_the_same(path):  # as a disk that does not give back what was written
        return str(next(numbers)) if path.suffix == ".png" else real(path)

    monkeypatch.setattr(files, "file_checksum", never_the_same)
    with pytest.raises(UserError, match="although it was made again just now; check the disk"):
        main.run(setting(), str(copy), ["recover", "relabel"])


def test_an_imported_set_is_never_made_again(copy):
    manifest = read_json(copy / "distilled/manifest.json") | {"imported": {"layout": "npz"}}
    artefact.seal(copy / "distilled/manifest.json", manifest)
    shutil.rmtree(copy / "soft_labels")
    flip(copy / "distilled/images/00003/00000.png")
    with pytest.raises(UserError, match=r"the set was imported, so import it again"):
        main.run(setting(), str(copy), ["relabel"])
    truncate(copy / "distilled/manifest.json")
    for names in ([], ["relabel"]):
        with pytest.raises(UserError, match=r"the set was imported, so import it again"):
            main.run(setting(), str(copy), names)
