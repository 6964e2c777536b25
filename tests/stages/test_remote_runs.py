"""Runs whose data, teacher and mirror lie in object stores."""

import numpy as np
import pytest
from PIL import Image
from tiny_run import read_json, tiny

import delt_jax
from delt_jax import main
from delt_jax.errors import UserError
from delt_jax.formats import distilled

URL = "s3://bucket/runs/one"
STAGES = ["squeeze", "rank", "recover"]


def config(**changes):
    """A tiny recipe of pictures in a bucket."""
    return tiny(
        **{
            "data.name": "folder",
            "data.path": "gs://data/shapes",
            "data.workers": 0,
            "data.image_size": 8,
            "data.channels": 1,
            "ipc": 1,
            "teacher.epochs": 1,
            "recover.iterations": 1,
            "recover.round_iterations": 1,
            "evaluate.regimes": ("hard",),
            "evaluate.images": ("recovered",),
            "evaluate.seeds": 1,
            "report.nearest": False,
        }
        | changes
    )


@pytest.fixture
def shapes(tmp_path, bucket):
    draw = np.random.default_rng(0)
    for label, name in enumerate(("bar", "dot")):
        folder = tmp_path / "shapes" / name
        folder.mkdir(parents=True)
        for n in range(12):
            pixels = draw.integers(0, 90, (28, 28)).astype(np.uint8)
            pixels[10:18, (0 if label else 10) : (28 if label else 18)] = 200
            Image.fromarray(pixels).save(folder / f"{n}.png")
    bucket.put(tmp_path / "shapes", "gs://data/shapes")
    return bucket


def test_a_run_reads_and_mirrors_there(shapes, tmp_path, capsys):
    work = tmp_path / "run"
    main.run(config(), str(work), dry_run=True, mirror=URL)
    assert not work.exists()
    assert "shapes" in capsys.readouterr().out
    assert not shapes.below(URL)

    # The store fails after the first stage: the run goes on, and copies the rest later.
    fails = iter([True])
    shapes.works = lambda call, path: not (call == "put" and "teacher" in path and next(fails, 0))
    main.run(config(), str(work), STAGES, mirror=URL)
    said = capsys.readouterr().out
    assert "503 at bucket/runs/one/teacher" in said
    assert f"the work is kept in {work}, and the next run copies what is missing." in said
    assert "teacher/weights.safetensors" in shapes.below(URL)

    # At the end a failure is the run's.
    shapes.works = lambda call, path: call != "put"
    again = config(ipc=2)
    with pytest.raises(UserError, match=f"{URL}/.*503.*the work is kept in {work}, and the next"):
        main.run(again, str(work), STAGES, mirror=URL)
    assert "distilled/manifest.json" not in shapes.below(URL)
    shapes.works = lambda call, path: True
    capsys.readouterr()
    main.run(again, str(work), STAGES, mirror=URL)
    assert "mirror: copied" in capsys.readouterr().out
    there = shapes.below(URL)
    assert not any(name.startswith(("cache", ".")) or ".partial" in name for name in there)
    manifests = {name for name in there if name.endswith("manifest.json")}
    assert manifests == {"teacher/manifest.json", "distilled/manifest.json"}
    there.pop("mirror.json")
    assert all((work / name).read_bytes() == content for name, content in there.items())
    held = distilled.read(work / "distilled")
    np.testing.assert_array_equal(delt_jax.load(URL).images, held.images)

    # Its teacher is that of another run, whatever changes in the store meanwhile.
    second = tmp_path / "second"
    taken = config(**{"teacher.weights": f"{URL}/teacher", "teacher.model": "conv3"})
    main.run(taken, str(second), ["squeeze"])
    mine, theirs = (read_json(folder / "teacher/manifest.json") for folder in (work, second))
    assert mine["hash"] == theirs["hash"]
    local = config(**{"teacher.weights": str(work / "teacher"), "data.path": "gs://data/shapes"})
    capsys.readouterr()
    main.run(local, str(second), ["squeeze"])
    assert "squeeze: done, nothing changed" in capsys.readouterr().out


def test_what_cannot_work_is_said_before_anything_is_written(shapes, tmp_path):
    work = tmp_path / "run"
    for settings, mirror, words in (
        ({"teacher.weights": "gs://data/none"}, "", "There is nothing at gs://data/none; check"),
        ({}, "gs://data/shapes", "--mirror gs://data/shapes holds files that no mirror"),
        ({}, "/somewhere", "--mirror /somewhere is a local path"),
        ({"data.path": "gs://data/other"}, "", "There is no folder gs://data/other"),
    ):
        with pytest.raises(UserError, match=words):
            main.run(config(**settings), str(work), mirror=mirror)
        assert not work.exists()
    with pytest.raises(UserError, match=r"--workdir gs://b/run is a URL.*--mirror=gs://b/run to"):
        main.run(config(), "gs://b/run")
