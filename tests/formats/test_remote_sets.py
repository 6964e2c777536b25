"""Sets in object stores: loaded, exported to, replaced; whole or not there."""

import numpy as np
import pytest

import delt_jax
from delt_jax import export, formats
from delt_jax.errors import UserError
from delt_jax.formats.distilled import DistilledSet
from delt_jax.labels import soft_labels
from delt_jax.store import files, local_copies, remote


def make_set(ipc=2, seed=0) -> DistilledSet:
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (3 * ipc, 5, 5, 3), np.uint8)
    labels = np.repeat(np.arange(3, dtype=np.int32), ipc)
    return DistilledSet(images, labels, ("a", "b c", "d"), {"ipc": ipc})


def convert(to, out, source="gs://b/run", **more):
    export.run(export.ExportOptions(remote.path_of(source), to, remote.path_of(out), **more))


@pytest.fixture
def run_there(tmp_path, bucket):
    """What a mirror has of a run with a set, its soft labels and other things."""
    content, folder = make_set(), tmp_path / "run"
    formats.FORMATS["distilled"].write(folder / "distilled", content, 0)
    made = files.read_json(folder / "distilled/manifest.json")["hash"]
    logits = np.zeros((6, 3), np.float32)
    (folder / "soft_labels").mkdir()
    soft_labels.write(folder / "soft_labels", logits, {"distilled": made})
    for name in ("soft_labels/views.npz", "teacher/weights.safetensors", "cache/large"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"large")
    files.write_json(folder / "config.json", {"format": "delt_jax work directory, version 1"})
    bucket.put(folder, "gs://b/run")
    return content


def test_a_run_is_loaded_with_its_labels_and_nothing_else(run_there, bucket):
    for url in ("gs://b/run", "gs://b/run/distilled/"):
        found = delt_jax.load(url)
        np.testing.assert_array_equal(found.images, run_there.images)
        assert found.soft_labels is not None
        assert found.class_names == run_there.class_names
    read = bucket.calls["cat"]
    delt_jax.load("gs://b/run")
    assert bucket.calls["cat"] == read
    assert not any(p.read_bytes() == b"large" for p in files_below(local_copies.folder()))


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("to", ["npz", "pt", "parquet", "tfds", "new000", "folder", "distilled"])
def test_every_layout_is_written_read_and_replaced_there(to, run_there, bucket, tmp_path):
    out = f"s3://b/sets/one{formats.FORMATS[to].suffix}"
    convert(to, out)
    np.testing.assert_array_equal(delt_jax.load(out).images, run_there.images)
    before = dict(bucket.below("s3://b/sets"))
    with pytest.raises(UserError, match=f"{out} is there already.*--overwrite"):
        convert(to, out)
    convert(to, out, per_class=1, overwrite=True)
    assert delt_jax.load(out).ipc == 1
    assert bucket.below("s3://b/sets").keys() <= before.keys()
    assert not list(tmp_path.rglob("one*.tmp"))
    if not formats.FORMATS[to].suffix:
        bucket.objects["b/sets/one/mine.txt"] = b"dear"
        with pytest.raises(UserError, match=f"{out} is there and no export .*mine.txt"):
            convert(to, out, overwrite=True)


def test_a_set_there_is_whole_or_says_nothing(run_there, bucket):
    convert("folder", "gs://b/out")
    held = bucket.objects["b/out/delt_jax.json"]
    bucket.works = lambda call, path: not (call == "put" and "00002" in path)
    with pytest.raises(UserError, match=r"gs://b/out/.*503.*connection"):
        convert("folder", "gs://b/out", per_class=1, overwrite=True)
    assert bucket.objects.get("b/out/delt_jax.json") != held
    assert "b/out/delt_jax.json" not in bucket.objects


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("gs://b/run/report", "belongs to the run that gs://b/run mirrors"),
        ("gs://b/run", "is, holds or lies within what is read"),
        ("gs://b/run/distilled/x", "is, holds or lies within what is read"),
    ],
)
def test_places_that_are_refused(run_there, bucket, out, words):
    source = "gs://b/run/distilled" if out.endswith("report") else "gs://b/run"
    with pytest.raises(UserError, match=words):
        convert("folder", out, source)


def test_what_lies_in_a_store_needs_a_place_for_its_export(run_there, bucket, tmp_path):
    with pytest.raises(UserError, match="--out is missing"):
        export.default_out(remote.path_of("gs://b/run"), "npz")
    with pytest.raises(UserError, match=r"There is nothing at gs://b/other; check the name[.]"):
        delt_jax.load("gs://b/other")
    with pytest.raises(UserError, match="az://b/x is a URL of a kind"):
        delt_jax.load("az://b/x")
    (tmp_path / "names.txt").write_text("x\ny\nz\n")
    bucket.put(tmp_path / "names.txt", "gs://b/names.txt")
    out = tmp_path / "named.npz"
    convert("npz", str(out), class_names=remote.path_of("gs://b/names.txt"))
    assert delt_jax.load(out).class_names == ("x", "y", "z")
