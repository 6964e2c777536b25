"""Good inputs of every kind, small, from which faults.py makes bad ones."""

import gzip
import io
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import forks
import numpy as np
from PIL import Image

NAMES = ("cat", "dog", "owl")
MEAN_STD = ("0.305755", "0.376105")
# A run of seconds on eight virtual devices or one, with all stages and all regimes.
TINY = (
    f"--config={forks.ROOT / 'configs/digits.py'}",
    "--config.ipc=2",
    "--config.teacher.width=8",
    "--config.teacher.epochs=2",
    "--config.teacher.batch_size=64",
    "--config.recover.iterations=4",
    "--config.recover.round_iterations=2",
    "--config.recover.batch_size=10",
    "--config.evaluate.width=8",
    "--config.relabel.rand_augment=",
    "--config.evaluate.epochs=1",
    "--config.evaluate.batch_size=10",
    "--config.evaluate.seeds=1",
    "--config.evaluate.regimes=stored,hard",
    "--config.evaluate.images=recovered,random",
)


def pixels(count: int, side: int = 8, channels: int = 3) -> np.ndarray:
    """Noise, uint8 [count, side, side, channels], the same every time."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), np.uint8)


def make_data(folder: Path) -> None:
    """Real images: npz with and without a split, idx plain and zipped, folders, TFDS, names."""
    folder.mkdir()
    images, labels = pixels(24), np.repeat(np.arange(3), 8)
    np.savez(folder / "whole.npz", images=images, labels=labels, class_names=np.array(NAMES))
    np.savez_compressed(
        folder / "split.npz",
        train_images=images[..., 0],
        train_labels=labels,
        test_images=images[::4, :, :, 0],
        test_labels=labels[::4],
    )
    for name, pack in (("plain", bytes), ("zipped", gzip.compress)):
        (folder / name).mkdir()
        for split, step in (("train", 1), ("t10k", 4)):
            grey, own = images[::step, :, :, 0], labels[::step].astype(np.uint8)
            ending = ".gz" if name == "zipped" else ""
            head = struct.pack(">BBBB3I", 0, 0, 8, 3, *grey.shape)
            path = folder / name / f"{split}-images-idx3-ubyte{ending}"
            path.write_bytes(pack(head + grey.tobytes()))
            head = struct.pack(">BBBBI", 0, 0, 8, 1, len(own))
            path = folder / name / f"{split}-labels-idx1-ubyte{ending}"
            path.write_bytes(pack(head + own.tobytes()))
    write_pictures(folder / "flat", images)
    write_pictures(folder / "splits/train", images)
    write_pictures(folder / "splits/val", images[::2])
    (folder / "classes.txt").write_text("owl\ncat\n", encoding="utf-8")
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    make_tfds(folder / "tfds", images, labels)


def write_pictures(folder: Path, images: np.ndarray) -> None:
    """Class folders with pictures of every kind."""
    kinds = ("png", "jpg", "jpeg", "webp", "bmp", "ppm")
    for i, image in enumerate(images):
        path = folder / NAMES[i * 3 // len(images)] / f"{i:03}.{kinds[i % len(kinds)]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def make_tfds(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """A data set that TFDS has prepared as array_record."""
    sys.path.insert(0, str(forks.ROOT / "tests"))
    from tfds_sets import features, png, prepare

    examples = [{"image": png(i), "label": int(n)} for i, n in zip(images, labels, strict=True)]
    prepare(folder, "tiny_animals", features((8, 8, 3)), {"train": examples, "test": examples[::4]})


def make_sets(folder: Path) -> None:
    """A distilled set in every layout; .pt by hand, as torch may be missing."""
    from delt_jax.formats import FORMATS
    from delt_jax.formats.distilled import DistilledSet

    folder.mkdir()
    draw = np.random.default_rng(1)
    soft = draw.normal(size=(6, 3)).astype(np.float32)
    labels = np.repeat(np.arange(3, dtype=np.int32), 2)
    manifest = {"normalisation": {"mean": [0.5], "std": [0.2]}, "ipc": 2, "settings": {}}
    content = DistilledSet(pixels(6), labels, NAMES, manifest, soft)
    for name, layout in FORMATS.items():
        if name == "pt":
            continue
        path = folder / f"{name}{layout.suffix}"
        if not layout.suffix:
            path.mkdir()
        layout.write(path, content, 0)
    first = np.moveaxis(content.images, 3, 1)
    state = {"images": first, "labels": labels.astype(np.int64), "soft_labels": soft}
    write_torch(folder / "set.pt", state)
    write_legacy(folder / "legacy.pt", state)
    (folder / "mtt").mkdir()
    write_torch(folder / "mtt/images_best.pt", (first / np.float32(255) - 0.5) / 0.25)
    write_torch(folder / "mtt/labels_best.pt", labels.astype(np.int64))


def make_teachers(folder: Path) -> None:
    """Weights of a ConvNet of the digits under torch's names, in torch's and the Hub's formats."""
    import jax
    from flax.traverse_util import unflatten_dict

    from delt_jax.models import ModelSpec, torch_files, torch_weights

    del jax
    folder.mkdir()
    spec = ModelSpec("conv3", 10, 8, 1, 8)
    draw = np.random.default_rng(2)
    variables = unflatten_dict(
        {
            entry.path: draw.normal(0, 0.1, entry.shape).astype(np.float32)
            for entry in torch_weights.entries(spec)
        }
    )
    state = torch_weights.to_torch(variables, spec)
    torch_files.write(folder / "teacher.safetensors", state)
    write_torch(folder / "teacher.pth", state)
    write_torch(folder / "wrapped.pth", {"state_dict": state})
    write_legacy(folder / "legacy.pth", state)


_KINDS = {"float32": "Float", "uint8": "Byte", "int64": "Long", "int32": "Int"}


def _tensor(key: str, array: np.ndarray, legacy: bool) -> bytes:
    """Opcodes of one tensor."""

    def numbers(values) -> bytes:
        return b"(" + b"".join(f"I{v}\n".encode() for v in values) + b"t"

    kind = f"ctorch\n{_KINDS[str(array.dtype)]}Storage\n".encode()
    view = b"N" if legacy else b""
    stored = b"(Vstorage\n" + kind + f"V{key}\nVcpu\nI{array.size}\n".encode() + view + b"tQ"
    steps = [s // array.itemsize for s in array.strides]
    hooks = b"I00\nccollections\nOrderedDict\n(tR"
    arguments = stored + b"I0\n" + numbers(array.shape) + numbers(steps) + hooks
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def _pickled(content, legacy: bool) -> tuple[bytes, dict[str, np.ndarray]]:
    """Opcodes of dictionaries of tensors, and the storages that they name."""
    storages: dict[str, np.ndarray] = {}

    def opcodes(value) -> bytes:
        if isinstance(value, Mapping):
            items = (f"V{k}\n".encode() + opcodes(v) + b"s" for k, v in value.items())
            return b"(d" + b"".join(items)
        array = np.ascontiguousarray(value)
        key = str(len(storages))
        storages[key] = array
        return _tensor(key, array, legacy)

    return opcodes(content), storages


def write_torch(path: Path, content) -> None:
    """A file as torch.save writes it since 1.6: a zip archive of a pickle and its storages."""
    code, storages = _pickled(content, legacy=False)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + code + b".")
        archive.writestr("archive/byteorder", "little")
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")


def write_legacy(path: Path, content) -> None:
    """A file as torch.save wrote it before 1.6: pickles one after the other, then storages."""
    code, storages = _pickled(content, legacy=True)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"long": 4}}
    stream = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, system):
        pickle.dump(part, stream, protocol=2)
    stream.write(b"\x80\x02" + code + b".")
    pickle.dump(list(storages), stream, protocol=2)
    for array in storages.values():
        stream.write(struct.pack("<q", array.size) + array.tobytes())
    path.write_bytes(stream.getvalue())


def make_config(folder: Path) -> None:
    """A config file with a variant."""
    folder.mkdir()
    own = (forks.ROOT / "configs/digits.py").read_text(encoding="utf-8")
    (folder / "own.py").write_text(own, encoding="utf-8")


def make_run(folder: Path) -> None:
    """A finished run with all stages.

    Raises:
      RuntimeError: if it did not finish.
    """
    from delt_jax import main

    status = main.main(["main", *TINY, f"--workdir={folder}"])
    if status:
        raise RuntimeError(f"the run ended with {status}")
    os.sync()


MAKERS = {
    "data": make_data,
    "sets": make_sets,
    "teachers": make_teachers,
    "config": make_config,
    "run": make_run,
}
