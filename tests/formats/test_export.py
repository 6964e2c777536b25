"""Distilled sets in other layouts: writing them, reading them back, the command line."""

import io
import json
import os
import pickletools
import signal
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import delt_jax
from delt_jax import export, formats
from delt_jax.core import stopping
from delt_jax.errors import UserError
from delt_jax.formats import conversion, distilled
from delt_jax.formats.distilled import DistilledSet
from delt_jax.labels import soft_labels
from delt_jax.store import files

ROOT = Path(__file__).parents[2]
NAMES = ("T-shirt/top", "ant bear", "日本")


def make_set(class_names=NAMES, ipc=2, size=5, channels=3, soft=True, seed=0) -> DistilledSet:
    draw = np.random.default_rng(seed)
    classes = len(class_names)
    count = classes * ipc
    return DistilledSet(
        draw.integers(0, 256, (count, size, size, channels), np.uint8),
        np.repeat(np.arange(classes, dtype=np.int32), ipc),
        class_names,
        {"normalisation": {"mean": [0.5], "std": [0.2]}, "ipc": ipc},
        draw.normal(size=(count, classes)).astype(np.float32) if soft else None,
    )


def written(folder: Path, content: DistilledSet, to: str, quality: int = 0) -> Path:
    """A path of this layout, made by the layout's own function."""
    layout = formats.FORMATS[to]
    path = folder / f"set{layout.suffix}"
    if not layout.suffix:
        path.mkdir()
    layout.write(path, content, quality)
    return path


def check_same(read: DistilledSet, content: DistilledSet) -> None:
    np.testing.assert_array_equal(read.images, content.images, strict=True)
    np.testing.assert_array_equal(read.labels, content.labels, strict=True)
    assert read.class_names == content.class_names
    if content.soft_labels is None:
        assert read.soft_labels is None
    else:
        np.testing.assert_array_equal(read.soft_labels, content.soft_labels, strict=True)


NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@pytest.mark.parametrize("to", formats.FORMATS)
@settings(max_examples=12, deadline=None)
@given(
    class_names=st.lists(NAME, min_size=1, max_size=4),
    ipc=st.integers(1, 3),
    channels=st.sampled_from([1, 3]),
    soft=st.booleans(),
    seed=st.integers(0, 99),
)
@example(["T-shirt/top", "..", " padded ", "a\nb"], 2, 1, True, 0)
@example(["crane", "crane"], 1, 3, False, 0)  # as two classes of ImageNet are called
def test_every_layout_reads_back_as_it_was(to, class_names, ipc, channels, soft, seed):
    content = make_set(tuple(class_names), ipc, 4, channels, soft and to != "distilled", seed)
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), content, to)
        assert formats.find(path) == to
        read = delt_jax.load(path)
    check_same(read, content)
    assert {k: read.manifest[k] for k in content.manifest} == content.manifest
    assert read.ipc == ipc


def files_of(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_names_of_files(tmp_path):
    content = make_set(soft=False)
    new000 = written(tmp_path, content, "new000")
    assert files_of(new000) == [
        "delt_jax.json",
        *(f"new{c:03}/class{c:03}_id{r:03}.png" for c in range(3) for r in range(2)),
    ]
    new000.rename(tmp_path / "kept")
    relabel_from_zero = written(tmp_path, content, "folder", quality=90)
    assert files_of(relabel_from_zero) == [
        *(f"{c:05}/{r:05}.jpg" for c in range(3) for r in range(2)),
        "delt_jax.json",
    ]
    assert Image.open(relabel_from_zero / "00002/00001.jpg").size == (5, 5)


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("cat", "cow", "dog"), ["cat", "cow", "dog"]),
        (("dog", "cat", "cow"), ["0_dog", "1_cat", "2_cow"]),
        (("Ankle boot", "T-shirt/top", ".x"), ["Ankle boot", "T-shirt_top", "_x"]),
        (("cat", "Cat", "dog"), ["0_cat", "1_Cat", "2_dog"]),
        (("1", "2", "3"), ["0_1", "1_2", "2_3"]),
        (("newt", "newton", "news"), ["0_newt", "1_newton", "2_news"]),
    ],
)
def test_folders_have_the_names_of_classes_in_the_order_of_labels(tmp_path, names, folders):
    path = written(tmp_path, make_set(names, soft=False), "named")
    found = [p.name for p in path.iterdir() if p.is_dir()]
    assert sorted(found) == folders  # which is torchvision's order
    assert delt_jax.load(path).class_names == names


def test_many_classes_sort_as_text(tmp_path):
    content = make_set(tuple(map(str, range(1001))), 1, 1, 1, soft=False)
    path = written(tmp_path, content, "new000")
    folders = sorted(p.name for p in path.iterdir() if p.is_dir())
    assert folders == [f"new{c:05}" for c in range(1001)]  # torchvision's order is the labels'
    check_same(delt_jax.load(path), content)


def test_parquet_is_as_the_hub_has_it(tmp_path):
    content = make_set(channels=1)
    path = written(tmp_path, content, "parquet")
    table = pq.read_table(path / "data/train-00000-of-00001.parquet")
    assert table.schema.field("image").type.get_field_index("bytes") == 0
    assert str(table.schema.field("label").type) == "int64"
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"_type": "ClassLabel", "names": list(NAMES)}
    assert features["soft_label"]["_type"] == "Sequence"
    row = table.to_pylist()[3]
    pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
    np.testing.assert_array_equal(pixels, content.images[3, ..., 0])
    assert row["image"]["path"] == "00001_00001.png"
    yaml = pytest.importorskip("yaml")
    _, header, text = (path / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["license"] == "unknown"
    assert card["task_categories"] == ["image-classification"]
    assert card["size_categories"] == ["n<1K"]
    info = card["dataset_info"]
    assert info["features"][1]["dtype"]["class_label"]["names"]["0"] == "T-shirt/top"
    assert info["splits"][0]["num_examples"] == 6
    assert info["download_size"] == os.path.getsize(path / "data/train-00000-of-00001.parquet")
    assert "6 synthetic images, 2 of each of 3 classes" in text
    # One file of the folder is enough, names and all.
    check_same(delt_jax.load(path / "data/train-00000-of-00001.parquet"), content)


def test_tfds_reads_the_directory(tmp_path):
    import tensorflow_datasets as tfds

    content = make_set()
    builder = tfds.builder_from_directory(written(tmp_path, content, "tfds"))
    examples = list(builder.as_data_source("train"))
    np.testing.assert_array_equal([e["image"] for e in examples], content.images)
    assert [e["label"] for e in examples] == content.labels.tolist()
    assert builder.info.features["label"].names == list(NAMES)
    assert "tensorflow" not in sys.modules


def test_tfds_gets_numbers_for_names_it_cannot_keep(tmp_path):
    import tensorflow_datasets as tfds

    path = written(tmp_path, make_set(("a\nb", " padded ", "c")), "tfds")
    label = tfds.builder_from_directory(path).info.features["label"]
    assert label.num_classes == 3
    assert label.names == ["0", "1", "2"]


def test_torch_reads_its_file_without_unpickling(tmp_path):
    torch = pytest.importorskip("torch")
    content = make_set()
    values = torch.load(written(tmp_path, content, "pt"), weights_only=True)
    assert values["images"].dtype == torch.uint8
    np.testing.assert_array_equal(values["images"].permute(0, 2, 3, 1), content.images)
    assert values["labels"].dtype == torch.int64
    assert values["class_names"] == list(NAMES)


def test_numpy_reads_its_file_alone(tmp_path):
    content = make_set()
    with np.load(written(tmp_path, content, "npz"), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["images"], content.images, strict=True)
        np.testing.assert_array_equal(arrays["labels"], content.labels.astype(int), strict=True)
        assert arrays["class_names"].tolist() == list(NAMES)
        assert json.loads(str(arrays["manifest"])) == content.manifest


# --- loading our own ---


def make_workdir(folder: Path) -> DistilledSet:
    """Only what the recover and relabel stages leave of a set."""
    content = make_set(ipc=3)
    formats.FORMATS["distilled"].write(folder / "distilled", content, 0)
    manifest = files.read_json(folder / "distilled/manifest.json")
    (folder / "soft_labels").mkdir()
    soft_labels.write(folder / "soft_labels", content.soft_labels, {"distilled": manifest["hash"]})
    return content


def test_a_work_directory_brings_its_soft_labels(tmp_path, monkeypatch):
    content = make_workdir(tmp_path)
    check_same(delt_jax.load(tmp_path), content)
    monkeypatch.chdir(tmp_path)
    check_same(delt_jax.load("distilled"), content)
    labels = tmp_path / "soft_labels/manifest.json"
    manifest = files.read_json(labels)
    files.write_json(labels, manifest | {"distilled": "another set's"})
    assert delt_jax.load(tmp_path).soft_labels is None
    files.write_json(labels, manifest)
    (tmp_path / "soft_labels/logits.npz").write_bytes(b"no")
    with pytest.raises(UserError, match="damaged"):
        delt_jax.load(tmp_path)


def test_per_class_is_a_set_of_the_first(tmp_path):
    content = make_workdir(tmp_path)
    whole = delt_jax.load(tmp_path)
    two = whole.per_class(2)
    assert (two.ipc, whole.ipc) == (2, 3)
    first = [0, 1, 3, 4, 6, 7]
    np.testing.assert_array_equal(two.images, content.images[first], strict=True)
    np.testing.assert_array_equal(two.labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(two.soft_labels, content.soft_labels[first], strict=True)
    assert two.manifest["ipc"] == 2
    assert two.manifest["first_of"] == 3
    assert "hash" not in two.manifest
    assert "hash" in whole.manifest
    assert whole.per_class(3) is whole
    for k in (0, 4, -1):
        with pytest.raises(UserError, match=f"from 1 to 3, .* not {k}"):
            whole.per_class(k)


@pytest.mark.parametrize(
    "manifest", [[], {}, {"class_names": [], "ipc": 1, "storage": "png", "hash": ""}]
)
def test_another_manifest_is_no_sets(tmp_path, manifest):
    make_workdir(tmp_path)
    files.write_json(tmp_path / "distilled/manifest.json", manifest)
    with pytest.raises(UserError, match=r"is not a distilled set's|manifest\.json is damaged"):
        distilled.read(tmp_path / "distilled")


def test_loading_and_exporting_need_no_jax(tmp_path):
    make_workdir(tmp_path / "run")
    code = (
        "import sys, delt_jax\n"
        "assert 'numpy' not in sys.modules\n"
        "sys.modules |= dict.fromkeys(('jax', 'flax', 'chex', 'torch', 'tensorflow_datasets'))\n"
        f"print(delt_jax.load({str(tmp_path / 'run')!r}).images.shape)\n"
        "assert 'pyarrow' not in sys.modules\n"
        f"delt_jax.export_set({str(tmp_path / 'run')!r}, 'npz', {str(tmp_path / 'x.npz')!r})\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("(9, 5, 5, 3)\n")
    assert (tmp_path / "x.npz").is_file()


# --- the command ---


def options(source: Path, to: str, out: Path, **more) -> export.ExportOptions:
    return export.ExportOptions(source, to, out, **more)


def test_jpeg_tells_its_loss(tmp_path, capsys):
    ramp = np.add.outer(np.arange(0, 128, 8), np.arange(0, 128, 8)).astype(np.uint8)
    images = np.stack([ramp, ramp.T[::-1], 255 - ramp])[..., None].repeat(3, axis=3)
    images[..., 0] //= 2
    content = DistilledSet(images, np.arange(3, dtype=np.int32), NAMES, {}, np.eye(3))
    source = written(tmp_path, content, "npz")
    export.run(options(source, "new000", tmp_path / "out", quality=75))
    read = delt_jax.load(tmp_path / "out")
    assert read.soft_labels is None  # they were of other pixels
    difference = np.abs(read.images.astype(float) - images)
    assert difference.max() > 0
    psnr = 10 * np.log10(255**2 / (difference**2).mean())
    out = capsys.readouterr().out
    assert (
        f"JPEG of quality 75 changed the pixels by {difference.mean():.2f} of 255 in the mean and "
        f"{difference.max():.0f} at most; PSNR {psnr:.1f} dB"
    ) in out
    assert "left out the soft labels, which are of the uncompressed images" in out
    export.run(options(source, "new000", tmp_path / "png"))
    assert "lossless: reads back as it was" in capsys.readouterr().out


def test_importing_keeps_what_is_known(tmp_path, capsys):
    source = written(tmp_path, make_set(), "new000")
    export.run(options(source, "distilled", tmp_path / "run/distilled", per_class=1))
    assert "left out the soft labels, which come from the relabel stage" in capsys.readouterr().out
    read = delt_jax.load(tmp_path / "run")
    check_same(read, make_set(soft=False).per_class(1))
    assert read.manifest["imported"] == {"layout": "new000", "name": "set"}
    assert read.manifest["inputs"] == {"imported": read.manifest["imported"]}
    assert read.manifest["normalisation"] == make_set().manifest["normalisation"]
    assert (read.manifest["image_size"], read.manifest["channels"]) == (5, 3)


def test_images_that_are_not_square_stay_outside_the_work_directory(tmp_path):
    content = make_set(soft=False)
    wide = DistilledSet(content.images[:, :4], content.labels, NAMES, {})
    source = written(tmp_path, wide, "npz")
    with pytest.raises(UserError, match="5x4 px, and the stages take square ones"):
        export.run(options(source, "distilled", tmp_path / "out"))
    assert files_of(tmp_path) == ["set.npz"]
    export.run(options(source, "folder", tmp_path / "out"))
    check_same(delt_jax.load(tmp_path / "out"), wide)


@pytest.mark.parametrize("to", ["npz", "folder"])
def test_only_exports_are_overwritten_and_only_if_asked(tmp_path, to):
    source = tmp_path / "source"
    source.mkdir()
    source = written(source, make_set(), "parquet")
    out = tmp_path / ("out.npz" if to == "npz" else "out")
    export.run(options(source, to, out, per_class=1))
    with pytest.raises(UserError, match="is there already; choose another --out, or add"):
        export.run(options(source, to, out))
    assert delt_jax.load(out).ipc == 1
    export.run(options(source, to, out, overwrite=True))
    assert delt_jax.load(out).ipc == 2
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "holiday.png").write_bytes(b"dear")
    with pytest.raises(UserError, match="no export of delt_jax; choose another --out"):
        export.run(options(source, to, foreign, overwrite=True))
    assert files_of(foreign) == ["holiday.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["source", "photos", out.name])


@pytest.mark.parametrize("to", ["npz", "folder"])
def test_what_reads_back_wrong_is_not_kept(tmp_path, to, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    source = written(source, make_set(), "tfds")
    out = tmp_path / ("out.npz" if to == "npz" else "out")
    read = iter([make_set(), make_set(seed=1)])
    monkeypatch.setattr(formats, "load", lambda *_: next(read))
    with pytest.raises(UserError, match="reads back as another set"):
        export.run(options(source, to, out))
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "delt_jax.export", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def refused(result, status, *words):
    """One sentence on stderr, no traceback, the right exit status."""
    assert result.returncode == status, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("delt_jax: ")
    for word in words:
        assert word in lines[0]


def test_command_converts(tmp_path):
    make_workdir(tmp_path / "run")
    result = command(tmp_path / "run", "--to=npz", "--per_class=2")
    assert result.returncode == 0, result.stderr
    assert "(distilled): 9 images, 3 of each of 3 classes, 5x5 px, 3 channel(s)" in result.stdout
    assert f"wrote {tmp_path / 'run.npz'} (npz)" in result.stdout
    check_same(delt_jax.load(tmp_path / "run.npz"), make_set(ipc=3).per_class(2))


def test_command_names_and_normalises(tmp_path):
    content = make_set(soft=False, channels=1)
    np.savez(
        tmp_path / "floats.npz",
        images=((content.images / 255 - 0.5) / 0.2).astype(np.float32),
        labels=content.labels,
    )
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    result = command(
        "--to=folder",
        tmp_path / "floats.npz",
        f"--class_names={tmp_path / 'names.txt'}",
        "--mean=.5",
        "--std=.2",
        "--round",
    )
    assert result.returncode == 0, result.stderr
    assert "rounded to 8 bits, as asked; 0.00% of the values were clipped" in result.stdout
    read = delt_jax.load(tmp_path / "floats-folder")
    check_same(read, content)
    assert read.manifest["normalisation"] == {"mean": [0.5], "std": [0.2]}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["x"], 2, ["--to is missing", "npz"]),
        (["--to=zip", "x"], 2, ["--to=zip", "npz"]),
        (["--to=npz"], 2, ["Name one set", "0 paths"]),
        (["--to=npz", "x", "y"], 2, ["2 paths"]),
        (["--to=npz", "x", "--quality=75"], 2, ["new000, named, folder", "npz is lossless"]),
        (["--to=folder", "x", "--quality=101"], 2, ["--quality=101"]),
        (["--to=npz", "x", "--mean=a"], 2, ["--mean", "numbers"]),
        (["--to=npz", "x", "--push=a/b"], 2, ["--push is for --to=parquet"]),
        (["--to=parquet", "x", "--push=a"], 2, ["OWNER/NAME", "'a'"]),
        (["--to=npz", "x", "--per_clas=1"], 2, ["per_clas"]),
        (["--to=npz", "no/such/set"], 1, ["no/such/set", "check the path"]),
        (["--to=npz", "docs"], 1, ["docs is no distilled set", "class folders"]),
    ],
)
def test_command_refuses(arguments, status, words):
    refused(command(*arguments), status, *words)


def test_the_card_tells_how_the_set_was_made(tmp_path):
    def card(**manifest) -> str:
        path = tmp_path / "card"
        content = replace(make_set(), manifest=manifest)
        export.run(options(written_npz(content), "parquet", path, overwrite=True))
        return (path / "README.md").read_text()

    def written_npz(content: DistilledSet) -> Path:
        formats.FORMATS["npz"].write(tmp_path / "set.npz", content, 0)
        return tmp_path / "set.npz"

    assert "The set: how it was made is not recorded." in card()
    made = card(
        settings={},
        teacher={"spec": {"name": "conv3"}},
        schedule={"image_iterations": 7},
    )
    assert "made by delt_jax, with the teacher conv3, in 7 image-iterations." in made
    assert "imported from the layout new000." in card(imported={"layout": "new000"})
    assert "how it was made is not recorded" in card(teacher="odd", schedule=[], imported=None)


def test_the_card_of_a_runs_set_has_what_the_run_measured(tmp_path):
    row = {"student": "conv3", "regime": "hard", "images": "recovered", "ipc": 2, "seeds": 3}
    row |= {"last_mean": 0.5, "last_std": 0.01}
    report = {
        "data": "my cats",
        "teacher": {"accuracy": 0.75},
        "scores": [row],
        "protocols": ["delt: 300 epochs"],
        "scored_on": "test images",
        "verdict": ["Recovered | images win."],
        "made": {"date": "2026-11-26"},
    }
    content, run = make_set(soft=False), tmp_path / "run"
    (run / "distilled").mkdir(parents=True)
    made = {"hash": "ab", "teacher": {"spec": {"name": "conv3"}}} | content.manifest

    def card(summary) -> str:
        (run / "summary.json").write_text(json.dumps(summary))
        told = conversion.reported(run, replace(content, manifest=made))
        path = written(tmp_path, replace(content, manifest=made | told), "parquet")
        text = (path / "README.md").read_text()
        with Image.open(path / "sheet.png") as image:
            assert image.size == (2 * (100 + 2), 3 * (100 + 2))  # 5 px, 20 times
        path.rename(tmp_path / str(len(list(tmp_path.iterdir()))))
        return text

    text = card(report | {"distilled": "ab"})
    assert "# my cats, distilled" in text
    assert "| conv3 | recovered | 2 | `label` | 50.00 ± 1.00 | 3 |" in text
    assert "Recovered / images win." in text
    assert "with the teacher conv3 (75.00 %), on 2026-11-26." in text
    assert "(pixel / 255 - (0.5)) / (0.2)" in text
    for odd in ({"scores": "x"}, {"scores": [{}]}, {"verdict": 3}, {"teacher": []}):
        assert "# Distilled set" in card(report | {"distilled": "ab"} | odd)
    assert "# Distilled set" in card(report | {"distilled": "of another set"})


def test_an_export_is_put_on_the_hub(tmp_path, monkeypatch, capsys):
    import huggingface_hub

    calls = []

    class Api:
        def create_repo(self, name, **more):
            calls.append((name, more))
            return f"https://hub/datasets/{name}"

        def upload_folder(self, *, folder_path, repo_id, **more):
            calls.append((repo_id, sorted(os.listdir(folder_path)), more["repo_type"]))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    source = written(tmp_path, make_set(), "npz")
    export.run(options(source, "parquet", tmp_path / "out", push="me/set"))
    assert "pushed to https://hub/datasets/me/set" in capsys.readouterr().out
    assert calls[0] == ("me/set", {"repo_type": "dataset", "exist_ok": True})
    assert calls[1] == ("me/set", ["README.md", "data", "delt_jax.json", "sheet.png"], "dataset")

    def refuse(self, name, **more):
        raise RuntimeError("401 Unauthorized\nRepository Not Found")

    monkeypatch.setattr(Api, "create_repo", refuse)
    with pytest.raises(UserError, match=r"is written, but --push=me/set failed \(401 Unauth"):
        export.run(options(source, "parquet", tmp_path / "more", push="me/set"))
    assert (tmp_path / "more/README.md").exists()


def test_a_hub_that_is_not_there_is_one_sentence(tmp_path):
    source = written(tmp_path, make_set(), "npz")
    line = ["--to=parquet", str(source), f"--out={tmp_path / 'out'}", "--push=me/set"]
    result = command(*line, HF_ENDPOINT="http://127.0.0.1:9", HF_TOKEN="hf_x")
    refused(result, 1, "--push=me/set failed", "hf auth login")


@pytest.mark.parametrize("content", ["no", "[]", "{}", '{"format": "other"}'])
def test_damaged_sidecar(tmp_path, content):
    path = written(tmp_path, make_set(), "folder")
    (path / "delt_jax.json").write_text(content)
    with pytest.raises(UserError, match=r"delt_jax\.json is damaged .*; export again"):
        delt_jax.load(path)


def test_a_pt_file_is_written_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    content = make_set(soft=True)
    path = written(tmp_path, content, "pt")
    check_same(delt_jax.load(path), content)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        opcodes = [name.name for name, *_ in pickletools.genops(archive.read("archive/data.pkl"))]
    allowed = "PROTO GLOBAL REDUCE MARK TUPLE BINPERSID BININT BINUNICODE EMPTY_DICT SETITEMS"
    allowed += " EMPTY_LIST APPENDS EMPTY_TUPLE NEWFALSE STOP"  # of torch.load(weights_only=True)
    assert set(opcodes) <= set(allowed.split())


@pytest.mark.parametrize("names", ["", "a\n\nb\n", None])
def test_a_file_of_names_without_names(tmp_path, names):
    source = written(tmp_path, make_set(), "npz")
    path = tmp_path / "names.txt"
    if names is not None:
        path.write_text(names)
    with pytest.raises(UserError, match=r"--class_names=.*names\.txt (is empty or|cannot be read)"):
        export.run(options(source, "folder", tmp_path / "out", class_names=path))


@pytest.mark.parametrize("to", ["folder", "npz", "parquet", "distilled"])
def test_a_stop_while_writing_leaves_what_was_there(tmp_path, monkeypatch, capsys, to):
    source = written(tmp_path, make_set(), "folder")
    before, save = files_of(tmp_path), Image.Image.save

    def stopped(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return save(*arguments, **options)

    monkeypatch.setattr(Image.Image, "save", stopped)
    if to == "npz":  # has no pictures
        monkeypatch.setattr(np, "savez_compressed", lambda f, **a: os.kill(os.getpid(), 15))
    flags = [f"--to={to}", f"--out={tmp_path / 'out'}{'.npz' if to == 'npz' else ''}"]
    assert export.main(["export", *flags, str(source)]) == 143
    assert files_of(tmp_path) == before


def test_a_stop_is_answered_in_one_line(tmp_path, monkeypatch, capsys):
    def stop(parsed):
        os.kill(os.getpid(), signal.SIGTERM)
        stopping.check()

    monkeypatch.setattr(export, "run", stop)
    monkeypatch.setattr(export, "parse", lambda argv: None)
    assert export.main(["export"]) == 143
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("delt_jax: stopped; what was not finished was removed")
