"""Distilled sets that others made: reading their layouts, and evaluating one in a run."""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tfds_sets import NAMES, examples, features, pixels_of, prepare

import delt_jax
from delt_jax import config as config_lib
from delt_jax import data, export, formats, main, models
from delt_jax.data import Normalisation
from delt_jax.errors import UserError
from delt_jax.formats.distilled import DistilledSet
from delt_jax.models import ModelSpec
from delt_jax.stages import report
from delt_jax.store import files
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher


def picture(path: Path, pixels, **how) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **how)


def flat(level: int, size=4) -> np.ndarray:
    return np.full((size, size, 3), level, np.uint8)


def levels(content: DistilledSet) -> list[int]:
    """Grey level of every image, where all are flat."""
    assert (content.images == content.images[:, :1, :1, :1]).all()
    return content.images[:, 0, 0, 0].tolist()


# --- folders of pictures ---


@pytest.mark.parametrize(
    "name",
    [
        "new{c:03}/class{c:03}_id{i:03}.jpg",  # SRe2L, CDA, DELT
        "new{c:05}/class{c:05}_id{i:05}.jpg",  # CDA on ImageNet-21K
        "{c:05}/class{c:05}_id{i:05}.jpg",  # RDED
        "new{c}/class{c}_id{i}.png",  # numbers count, not text
    ],
)
def test_published_layouts(tmp_path, name):
    for c in range(11):
        for i in range(11):
            picture(tmp_path / name.format(c=c, i=i), flat(20 * c + i))
    content = delt_jax.load(tmp_path)
    assert formats.find(tmp_path) == ("new000" if name.startswith("new") else "folder")
    assert levels(content) == [20 * c + i for c in range(11) for i in range(11)]
    assert content.labels.tolist() == [c for c in range(11) for _ in range(11)]
    assert content.class_names == tuple(map(str, range(11)))
    assert content.manifest == {}
    assert content.soft_labels is None


def test_named_folders_are_classes_in_torchvisions_order(tmp_path):
    for level, name in enumerate(("n02", "ant", "class10", "class9", "Zebra")):
        picture(tmp_path / name / "x.png", flat(level))
        (tmp_path / name / "notes.txt").write_text("not a picture")
    (tmp_path / "README.md").write_text("hello")
    content = delt_jax.load(tmp_path)
    assert content.class_names == ("Zebra", "ant", "class10", "class9", "n02")
    assert levels(content) == [4, 1, 2, 3, 0]
    named = delt_jax.load(tmp_path, class_names=["a", "b", "c", "d", "e"])
    assert named.class_names == ("a", "b", "c", "d", "e")
    with pytest.raises(UserError, match="has the label 4, but 5 images and 4 class names"):
        delt_jax.load(tmp_path, class_names=["a", "b", "c", "d"])
    with pytest.raises(UserError, match=r"1 images of class 0 \(a\) but 0 of class 5 \(f\)"):
        delt_jax.load(tmp_path, class_names=["a", "b", "c", "d", "e", "f"])


def test_grey_among_colours_becomes_colour(tmp_path):
    picture(tmp_path / "a/0.png", flat(7)[..., 0])
    assert delt_jax.load(tmp_path).images.shape == (1, 4, 4, 1)
    picture(tmp_path / "b/0.png", flat(9))
    content = delt_jax.load(tmp_path)
    assert content.images.shape == (2, 4, 4, 3)
    assert levels(content) == [7, 9]


def gap(folder):
    picture(folder / "00003/0.png", flat(0))


def twice(folder):
    picture(folder / "1/0.png", flat(0))


def another_size(folder):
    picture(folder / "00001/0.png", flat(0, size=5))


def one_more(folder):
    picture(folder / "00001/1.png", flat(0))


def empty(folder):
    (folder / "00002").mkdir()


def broken(folder):
    (folder / "00001/0.png").write_bytes(b"\x89PNG no")


def sixteen_bits(folder):
    Image.fromarray(np.full((4, 4), 999, np.uint16)).save(folder / "00001/0.png")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (gap, "00003 is folder 2 in order; numbered class folders count from 0 without a gap"),
        (twice, "a class is missing or there twice"),
        (another_size, "0.png is 4x4 px but .*0.png is 5x5 px; .* resize them first"),
        (one_more, r"has 2 images of class 1 \(1\) but 1 of class 0 \(0\)"),
        (empty, "00002 has no pictures"),
        (broken, "0.png is no picture, or damaged"),
        (sixteen_bits, "more than 8 bits per channel"),
    ],
)
def test_folders_that_are_no_set(tmp_path, spoil, says):
    for c in range(2):
        picture(tmp_path / f"{c:05}/0.png", flat(c))
    spoil(tmp_path)
    with pytest.raises(UserError, match=says):
        delt_jax.load(tmp_path)


# --- npz ---


@pytest.mark.parametrize("shape", [(4, 2, 5, 3), (4, 3, 2, 5), (4, 2, 5)])
def test_npz_in_any_axis_order_and_class_order(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, shape)
    np.savez(tmp_path / "x.npz", images=images, labels=np.array([1, 0, 0, 1], np.uint8))
    content = delt_jax.load(tmp_path / "x.npz")
    last = np.moveaxis(images, 1, 3) if shape[1] == 3 else images.reshape(4, 2, 5, -1)
    np.testing.assert_array_equal(content.images, last[[1, 2, 0, 3]])
    assert content.labels.tolist() == [0, 0, 1, 1]


def test_the_order_within_a_class_is_kept(tmp_path):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 40))
    images = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 2, 2))
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    found = levels(delt_jax.load(tmp_path / "x.npz"))
    assert found == [i for c in range(5) for i in range(200) if labels[i] == c]


PIXELS = np.zeros((2, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": PIXELS}, "no labels"),
        ({"x": PIXELS}, "has the arrays x but no images and labels"),
        ({"images": PIXELS, "labels": [[0], [1]]}, "labels of shape"),
        ({"images": PIXELS, "labels": [0.0, 1.0]}, "one whole number per image"),
        ({"images": PIXELS, "labels": [0, -1]}, "has the label -1; labels count from 0"),
        ({"images": PIXELS, "labels": [0, 10**15]}, "has the label 1000000000000000"),
        ({"images": PIXELS, "labels": [0, 2], "class_names": list("abc")}, "0 of class 1"),
        ({"images": PIXELS + np.int64(256), "labels": [0, 1]}, "beyond 0 to 255"),
        ({"images": PIXELS[..., :2], "labels": [0, 1]}, "have the shape"),
        ({"images": PIXELS[:0], "labels": np.zeros(0, int)}, "which is no set"),
        ({"images": PIXELS, "labels": [0, 1], "soft_labels": np.eye(3)}, "soft labels in"),
        ({"images": PIXELS, "labels": [0, 1], "manifest": "no"}, "manifest in .* not JSON"),
        ({"images": PIXELS / 255, "labels": [0, 1]}, "normalised floats; give the mean and std"),
        ({"images": np.array([{}]), "labels": [0]}, "cannot be read"),  # would be unpickled
    ],
)
def test_npz_that_is_no_set(tmp_path, arrays, says):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=says):
        delt_jax.load(tmp_path / "x.npz")


def test_damaged_npz(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK no zip")
    with pytest.raises(UserError, match="cannot be read"):
        delt_jax.load(tmp_path / "x.npz")


def test_floats_become_pixels(tmp_path):
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.1])
    images = ((pixels / 255 - mean) / std).astype(np.float32)
    images[0, 0, 0] = (-9, 9, 9)  # beyond black and white
    np.savez(tmp_path / "x.npz", images=images, labels=[0, 1])
    kept = delt_jax.load(tmp_path / "x.npz", mean=mean, std=std)
    np.testing.assert_array_equal(kept.images, images)
    content = kept.rounded()
    pixels[0, 0, 0] = (0, 255, 255)
    np.testing.assert_array_equal(content.images, pixels)
    assert content.manifest["clipped"] == pytest.approx(3 / images.size)
    assert content.manifest["normalisation"]["std"] == [0.2, 0.3, 0.1]
    for wrong in ({"mean": [0]}, {"mean": [0, 0], "std": [1, 1]}, {"mean": [0], "std": [0]}):
        with pytest.raises(UserError, match="one value or 3 each"):
            delt_jax.load(tmp_path / "x.npz", **wrong)
    np.savez(tmp_path / "x.npz", images=np.full_like(images, np.nan), labels=[0, 1])
    with pytest.raises(UserError, match="not finite"):
        delt_jax.load(tmp_path / "x.npz", mean=[0], std=[1])
    np.savez(tmp_path / "x.npz", images=pixels, labels=[0, 1])
    with pytest.raises(UserError, match="are for normalised floats"):
        delt_jax.load(tmp_path / "x.npz", mean=[0], std=[1])


# --- torch files, made without torch ---


_KINDS = {"float32": "FloatStorage", "int64": "LongStorage", "uint8": "ByteStorage"}


def numbers(values) -> bytes:
    return b"(" + b"".join(f"I{v}\n".encode() for v in values) + b"t"


def write_pt(path: Path, array: np.ndarray | None = None, **named: np.ndarray | str) -> Path:
    """What torch.save makes of one tensor, or of a dictionary of tensors and strings."""
    with zipfile.ZipFile(path, "w") as archive:

        def tensor(key: str, a: np.ndarray) -> bytes:
            archive.writestr(f"archive/data/{key}", np.ascontiguousarray(a).tobytes())
            kind = _KINDS[str(a.dtype)]
            storage = f"(Vstorage\nctorch\n{kind}\nV{key}\nVcpu\nI{a.size}\ntQ".encode()
            strides = [s // a.itemsize for s in np.ascontiguousarray(a).strides]
            shape = numbers(a.shape) + numbers(strides)
            hooks = b"I00\nccollections\nOrderedDict\n(tR"
            return (
                b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"I0\n" + shape + hooks + b"tR"
            )

        if array is not None:
            content = tensor("0", array)
        else:
            content = b"(d"
            for name, value in named.items():
                text = isinstance(value, str)
                item = f"V{value}\n".encode() if text else tensor(name, value)
                content += f"V{name}\n".encode() + item + b"s"
        archive.writestr("archive/data.pkl", content + b".")
    return path


def test_our_dictionary_is_read_without_torch(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), np.uint8)
    path = write_pt(
        tmp_path / "x.pt",
        images=pixels,
        labels=np.array([1, 0]),
        manifest='{"a": 1}',
        soft_labels=np.array([[1, 2], [3, 4]], np.float32),
    )
    content = delt_jax.load(path)
    np.testing.assert_array_equal(content.images, pixels[::-1].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(content.soft_labels, [[3, 4], [1, 2]])
    assert content.manifest == {"a": 1}


def test_channels_come_first_in_torch_and_last_in_numpy(tmp_path):
    pixels, labels = np.zeros((2, 1, 5, 3), np.uint8), np.array([0, 1])
    path = write_pt(tmp_path / "x.pt", images=pixels, labels=labels)
    assert delt_jax.load(path).images.shape == (2, 5, 3, 1)
    np.savez(tmp_path / "x.npz", images=pixels, labels=labels)
    assert delt_jax.load(tmp_path / "x.npz").images.shape == (2, 1, 5, 3)


def test_whole_numbers_in_rows_are_no_labels(tmp_path):
    pixels = np.zeros((2, 1, 4, 5), np.uint8)
    path = write_pt(tmp_path / "x.pt", images=pixels, labels=np.eye(2, dtype=np.int64))
    with pytest.raises(UserError, match="expected one whole number per image"):
        delt_jax.load(path)


def test_logits_of_no_class_and_files_of_nothing(tmp_path):
    pixels = np.zeros((2, 1, 4, 5), np.uint8)
    path = write_pt(tmp_path / "x.pt", images=pixels, labels=np.zeros((2, 0), np.float32))
    with pytest.raises(UserError, match="must be classes or logits"):
        delt_jax.load(path)
    odd = np.array([[0, np.nan], [1, 0]], np.float32)
    path = write_pt(tmp_path / "x.pt", images=pixels, labels=odd)
    with pytest.raises(UserError, match="must be classes or logits"):
        delt_jax.load(path)
    with pytest.raises(UserError, match="holds nothing, but no tensor called images or labels"):
        delt_jax.load(write_pt(tmp_path / "y.pt"))


def test_float_labels_of_torch_are_logits_only_in_rows(tmp_path):
    pixels = np.zeros((2, 1, 4, 5), np.uint8)
    path = write_pt(tmp_path / "x.pt", images=pixels, labels=np.array([0, 1], np.float32))
    with pytest.raises(UserError, match="expected one whole number per image"):
        delt_jax.load(path)


@pytest.mark.parametrize(("learned", "before"), [(False, ""), (True, ""), (False, "ema_")])
def test_sets_of_trajectory_matching(tmp_path, learned, before):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 4, 4), np.uint8)
    images = (pixels.astype(np.float32) / 255 - 0.5) / 0.25
    write_pt(tmp_path / f"{before}images_best.pt", images)
    labels, logits = np.array([0, 0, 1, 1]), np.array([[2, 1], [2, 1], [0, 3], [0, 3]], np.float32)
    write_pt(tmp_path / f"{before}labels_best.pt", logits if learned else labels)
    with pytest.raises(UserError, match="normalised floats; give the mean and std"):
        delt_jax.load(tmp_path)
    for path in (tmp_path, tmp_path / f"{before}images_best.pt"):
        content = delt_jax.load(path, mean=[0.5], std=[0.25])
        np.testing.assert_array_equal(content.rounded().images, pixels.transpose(0, 2, 3, 1))
        assert content.labels.tolist() == [0, 0, 1, 1]
        assert content.soft_labels is None
        if learned:
            np.testing.assert_array_equal(content.learned_labels, logits)
            assert content.label_form == "logits"
        else:
            assert content.learned_labels is None
    (tmp_path / f"{before}labels_best.pt").unlink()
    with pytest.raises(UserError, match=rf"no file .*{before}labels_best\.pt"):
        delt_jax.load(tmp_path)


def test_torch_files_that_are_no_set(tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(UserError, match="no dictionary of images and labels"):
        delt_jax.load(write_pt(path, np.zeros(3, np.float32)))
    with pytest.raises(UserError, match="holds images, but no tensor called labels"):
        delt_jax.load(write_pt(path, images=np.zeros((1, 3, 4, 4), np.uint8)))
    two = {"images": np.zeros((1, 3, 4, 4), np.uint8), "labels": np.zeros(1, np.int64)}
    with pytest.raises(UserError, match="class_names or manifest"):
        delt_jax.load(write_pt(path, **two, manifest="no"))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="damaged"):
        delt_jax.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(Vfalse\ntR.")
    with pytest.raises(UserError, match="refused"):
        delt_jax.load(path)


# --- parquet and TFDS ---


def encoded(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(flat(level)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_set_from_the_hub(tmp_path):
    def write(name, rows, **metadata):
        (tmp_path / "data").mkdir(exist_ok=True)
        table = pa.table(
            {
                "image": [{"bytes": encoded(v), "path": None} for v, _ in rows],
                "label": [label for _, label in rows],
            }
        )
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "data" / name)

    write("train-00000-of-00002.parquet", [(1, 1), (2, 0)])
    write("train-00001-of-00002.parquet", [(3, 0), (4, 1)])
    write("validation-00000-of-00001.parquet", [(5, 0)])
    content = delt_jax.load(tmp_path)
    assert levels(content) == [2, 3, 1, 4]
    assert content.class_names == ("0", "1")
    info = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    write("train-00000-of-00002.parquet", [(1, 1), (2, 0)], huggingface=json.dumps(info))
    assert delt_jax.load(tmp_path).class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"image": [1], "label": [0]}, "not in the Hub's layout"),
        ({"image": [{"bytes": b"no"}], "label": [0]}, "row 0 is no picture"),
        ({"image": [{"bytes": None}], "label": [0]}, "row 0 is no picture"),
        ({"img": [1], "label": [0]}, "has the columns img, label but no image"),
        ({"image": pa.array([], pa.int64()), "label": pa.array([], pa.int64())}, "no rows"),
    ],
)
def test_parquet_that_is_no_set(tmp_path, columns, says):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=says):
        delt_jax.load(tmp_path / "x.parquet")


def test_damaged_parquet(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="cannot be read"):
        delt_jax.load(tmp_path / "x.parquet")


def test_tfds_directory_of_others(tmp_path):
    prepare(tmp_path, "tiny", features(), {"train": examples(range(9))})
    content = delt_jax.load(tmp_path / "tiny/1.0.0")
    assert content.class_names == NAMES
    assert content.ipc == 3
    for image, label in zip(content.images, content.labels, strict=True):
        number = int(image[0, 0, 0])  # red is the number
        assert number % 3 == label
        np.testing.assert_array_equal(image, pixels_of(number))
    (tmp_path / "tiny/1.0.0/features.json").write_text("no")
    with pytest.raises(UserError, match="is not a readable TFDS directory"):
        delt_jax.load(tmp_path / "tiny/1.0.0")


# --- a run on an imported set ---


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A teacher's folder; it knows nothing, but says so."""
    folder = tmp_path_factory.mktemp("teacher")
    spec = ModelSpec("conv3", 10, 8, 1, 8)
    variables = models.create(spec).init(
        jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32), train=False
    )
    variables = jax.tree.map(np.asarray, {k: variables[k] for k in ("params", "batch_stats")})
    names = tuple(map(str, range(10)))
    made = Teacher(spec, variables, Normalisation((0.3,), (0.4,)), names, accuracy=0.05)
    teacher_lib.save(folder, made, {"inputs": {}})
    return folder


def recipe(teacher: Path, **changes):
    config = config_lib.default_config()
    config.ipc = 2
    config.data.flip = False
    config.teacher.weights = str(teacher)
    config.teacher.model = "conv3"
    config.teacher.width = 8
    config.relabel.rand_augment = ""  # fewer operations to compile
    config.evaluate.width = 8
    config.evaluate.epochs = 1
    config.evaluate.seeds = 1
    config.evaluate.batch_size = 20
    config.evaluate.images = ("recovered", "random")
    config.evaluate.regimes = ("fixed",)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


def published(folder: Path) -> np.ndarray:
    """A set of digits in SRe2L's layout; its pixels, class-major."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 2, 8, 8), np.uint8)
    for c in range(10):
        for i in range(2):
            picture(folder / f"new{c:03}/class{c:03}_id{i:03}.png", pixels[c, i])
    return pixels.reshape(20, 8, 8, 1)


STAGES = ("squeeze", "relabel", "evaluate", "report")


def files_of(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_an_imported_set_is_relabelled_evaluated_and_reported(teacher, tmp_path):
    pixels = published(tmp_path / "theirs")
    workdir = tmp_path / "run"
    export.run(export.ExportOptions(tmp_path / "theirs", "distilled", workdir / "distilled"))
    main.run(recipe(teacher), str(workdir), STAGES)
    read = delt_jax.load(workdir)
    expected = teacher_lib.logits_of(teacher_lib.load(teacher), pixels)
    np.testing.assert_array_equal(read.images, pixels)
    np.testing.assert_array_equal(read.soft_labels, expected)
    summary = files.read_json(workdir / "summary.json")
    assert summary["imported"] == {"layout": "new000", "name": "theirs"}
    assert {row["images"] for row in summary["scores"]} == {"recovered", "random"}
    assert set(summary["within_class_similarity"]) == {"real", "recovered"}
    page = (workdir / report.ARTEFACT / "report.html").read_text()
    assert "imported from the layout new000" in page
    assert "Schedule" not in page
    # The rest of the way out and in again changes nothing.
    for to in ("npz", "parquet", "tfds", "folder", "new000"):
        out = tmp_path / f"out{formats.FORMATS[to].suffix}"
        export.run(export.ExportOptions(workdir, to, out, overwrite=True))
        back = delt_jax.load(out)
        np.testing.assert_array_equal(back.soft_labels, expected)
        np.testing.assert_array_equal(
            teacher_lib.logits_of(teacher_lib.load(teacher), back.images), expected
        )
        if out.is_dir():
            out.rename(tmp_path / f"kept-{to}")


def test_runs_that_do_not_fit_an_imported_set(teacher, tmp_path):
    published(tmp_path / "theirs")
    workdir = tmp_path / "run"
    imported = export.ExportOptions(tmp_path / "theirs", "distilled", workdir / "distilled")
    export.run(imported)

    def refuse(says, stages=STAGES, **changes):
        with pytest.raises(UserError, match=says):
            main.run(recipe(teacher, **changes), str(workdir), stages)
        assert files_of(workdir) == ["distilled"]

    refuse("was imported and the recover stage would replace it", ())
    refuse("was imported and the recover stage would replace it", ("squeeze", "rank", "recover"))
    refuse("has 2 images per class, but ipc is 3; add --config.ipc=2", ipc=3)
    refuse("are 8 px of 1 channels, but the data are 16 px of 1", **{"data.image_size": 16})
    refuse("evaluate stage needs what rank makes", **{"evaluate.images": ("selected",)})
    (tmp_path / "names").write_text("\n".join("0132456789"))
    export.run(
        export.ExportOptions(
            tmp_path / "theirs",
            "distilled",
            workdir / "distilled",
            class_names=tmp_path / "names",
            overwrite=True,
        )
    )
    refuse("disagree on 2 classes .2: '3' against '2'; 3: '2' against '3'")


def test_numbered_classes_do_not_pass_for_named_ones(teacher, tmp_path, monkeypatch):
    published(tmp_path / "theirs")
    workdir = tmp_path / "run"
    export.run(export.ExportOptions(tmp_path / "theirs", "distilled", workdir / "distilled"))
    source = data.open_source(config_lib.from_config(recipe(teacher)).data)
    named = replace(source, class_names=tuple("abcdefghij"))
    monkeypatch.setattr(data, "open_source", lambda recipe, cache: named)
    with pytest.raises(UserError, match="only numbered; import it again with --class_names=FILE"):
        main.run(recipe(teacher), str(workdir), STAGES)


def test_a_foreign_set_does_not_make_a_folder_ours(teacher, tmp_path):
    (tmp_path / "distilled").mkdir()
    files.write_json(tmp_path / "distilled/manifest.json", {"inputs": {}})
    with pytest.raises(UserError, match="holds files that are not a delt_jax run's"):
        main.run(recipe(teacher), str(tmp_path), STAGES)


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/0.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"a/0\.png cannot be read: No such file"):
        delt_jax.load(tmp_path)
