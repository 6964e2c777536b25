"""Our own layout: `distilled/` of a work directory, with soft labels beside it."""

from pathlib import Path

from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.formats import distilled
from delt_jax.formats.distilled import DistilledSet
from delt_jax.formats.stored import Stored, floats_of
from delt_jax.labels import soft_labels
from delt_jax.store import artefact


def _set_folder(path: Path) -> Path:
    """The folder of the set: distilled/ of a work directory, or `path` itself."""
    inner = path / "distilled"
    return inner if (inner / "manifest.json").is_file() else path


def detect(path: Path) -> bool:
    """Whether this is a distilled set's folder or a work directory with one."""
    return distilled.is_set(_set_folder(path))


def read(path: Path) -> Stored:
    """Reads a set, and its soft labels if the relabel stage has made them for this very set."""
    folder = _set_folder(path)
    found = distilled.read(folder)
    beside = folder.absolute().parent / soft_labels.FOLDER
    try:
        theirs = artefact.read(beside / "manifest.json").get("distilled")
    except (OSError, DamagedArtefact):
        theirs = None
    ours = found.manifest["hash"]
    logits = soft_labels.read(beside, ours) if theirs == ours else None
    return Stored(
        found.images,
        found.labels,
        found.class_names,
        found.manifest,
        logits,
        floats=floats_of(found),
    )


def write(folder: Path, content: DistilledSet, quality: int = 0) -> None:
    """Writes the set, and a manifest that calls it imported, into an empty folder.

    Keeps what the set's own manifest says. Leaves out soft labels, which the relabel stage makes.

    Raises:
      UserError: if the images are not square, as the stages need them.
    """
    del quality  # lossless
    height, width, channels = content.images.shape[1:]
    if height != width:
        raise UserError(
            f"The images are {width}x{height} px, and the stages take square ones; add "
            f"--size={min(height, width)}, which cuts squares, or another size."
        )
    imported = content.manifest.get("imported", {})
    floats = floats_of(content)
    if floats is None:
        stored = {
            "storage": "png",
            "hash": distilled.write_images(folder, content.images, content.ipc),
        }
    else:
        stored = {"storage": distilled.FLOATS, "hash": distilled.write_learned(folder, *floats)}
    manifest = {
        **content.manifest,
        "inputs": {"imported": imported},
        "imported": imported,
        "class_names": list(content.class_names),
        "ipc": content.ipc,
        "image_size": height,
        "channels": channels,
        **stored,
    }
    artefact.seal(folder / "manifest.json", manifest)
