"""Reads and writes distilled sets in our layout and in those of other tools.

May import `labels` and every floor below it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from delt_jax.core.preprocessing import Preprocessing
from delt_jax.core.progress import say
from delt_jax.errors import UserError
from delt_jax.formats import (
    class_folders,
    flax_checkpoint,
    learned_arrays,
    npz,
    own,
    parquet,
    pt,
    tfds_directory,
)
from delt_jax.formats.decoding import Decoding
from delt_jax.formats.distilled import DistilledSet
from delt_jax.formats.remote_sets import local_set
from delt_jax.formats.stored import SIDECAR, Stored, to_set
from delt_jax.store.foreign import ForeignFileError, shown

__all__ = ["FORMATS", "SIDECAR", "Format", "find", "load"]


class Format(NamedTuple):
    """A layout.

    Attributes:
      suffix: of its file; empty if it is a folder.
      detect: tells whether a path has this layout.
      read: reads a path of this layout, unchecked.
      write: writes a set into an empty folder, or to the file; the last argument is the quality
        of JPEG, 0 for lossless.
      jpeg: whether the layout can store JPEG.
      floats: whether it can store float images.
      is_ours: of a single file: tells whether `write` made it.
    """

    suffix: str
    detect: Callable[[Path], bool]
    read: Callable[[Path], Stored]
    write: Callable[[Path, DistilledSet, int], None]
    jpeg: bool = False
    floats: bool = False
    is_ours: Callable[[Path], bool] = lambda path: False


# In the order in which `find` asks. Class folders are last: they claim any folder of pictures.
FORMATS = {
    "distilled": Format("", own.detect, own.read, own.write, floats=True),
    "npz": Format(".npz", npz.detect, npz.read, npz.write, floats=True, is_ours=npz.is_ours),
    "pt": Format(".pt", pt.detect, pt.read, pt.write, floats=True, is_ours=pt.is_ours),
    "parquet": Format("", parquet.detect, parquet.read, parquet.write, floats=True),
    "tfds": Format("", tfds_directory.detect, tfds_directory.read, tfds_directory.write),
    "new000": Format(
        "", class_folders.detect_new000, class_folders.read, class_folders.write_new000, jpeg=True
    ),
    "named": Format(
        "", class_folders.detect_named, class_folders.read, class_folders.write_named, jpeg=True
    ),
    "folder": Format(
        "", class_folders.detect, class_folders.read, class_folders.write_numbered, jpeg=True
    ),
}


# Read, but not written: the layout of FRePo's and RCIG's releases.
_FLAX = "flax"


def find(path: Path) -> str:
    """Name of the layout of a path, here or in an object store.

    Raises:
      UserError: if there is nothing, or no known layout.
    """
    path = local_set(path)
    if not path.exists():
        raise UserError(f"There is no {path}; check the path.")
    for name, layout in FORMATS.items():
        if layout.detect(path):
            return name
    if flax_checkpoint.detect(path):
        return _FLAX
    raise UserError(
        f"{path} is no distilled set that is understood: a work directory or its distilled/, a "
        f".npz, .pt or .parquet file, a folder of parquet files, a TFDS directory, or a folder of "
        f"class folders with pictures."
    )


def load(
    path: str | Path,
    class_names: Sequence[str] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    preprocessing: str | Path = "",
    decoding: Decoding | None = None,
) -> DistilledSet:
    """Loads a distilled set of any layout; `delt_jax.load` explains the arguments.

    Its factor and its mirrored copies are those of `decoding` here.
    """
    path = local_set(path)
    class_names = _given_names(class_names) if len(class_names) else ()
    space = space_of(preprocessing) if preprocessing else None
    try:
        name = find(path)
        stored = flax_checkpoint.read(path) if name == _FLAX else FORMATS[name].read(path)
    except OSError as e:
        raise UserError(f"{e.filename or path} cannot be read: {e.strerror or e}.") from e
    if stored.unnamed and not class_names:
        raise UserError(stored.unnamed)
    content = to_set(stored, str(path), class_names, mean, std, space)
    for note in stored.notes:
        say(f"{path}: {note}")
    if decoding is None or decoding.copies == 1:
        return content
    return _decoded(content, decoding, str(path))


def space_of(path: str | Path) -> Preprocessing:
    """The preprocessing in a file of its own, or that of a set of float images.

    Args:
      path: a `.npz` of the arrays mean and std and, of whitened images, matrix and centre; or any
        set of float images.

    Raises:
      UserError: if it is neither.
    """
    path = local_set(path)
    if npz.detect(path) and "images" not in (named := npz.read_arrays(path)):
        try:
            return learned_arrays.parsed_space(named)
        except ForeignFileError as e:
            raise UserError(f"{path} holds no preprocessing: {e}.") from e
    found = load(path).preprocessing
    if found is None:
        raise UserError(f"{path} is a set of pixels, which has no preprocessing.")
    return found


def _given_names(names: Sequence[str]) -> tuple[str, ...]:
    """Class names that the user gave; raises a UserError unless each is a name of its own."""
    from delt_jax.data.classes import check_names  # brings JAX, which nothing else here needs

    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"class_names is {shown(repr(names))}; give a list of texts, one for each class."
        )
    check_names(names, "class_names")
    return tuple(names)


def _decoded(content: DistilledSet, decoding: Decoding, where: str) -> DistilledSet:
    """A set whose stored images are several each, which its file does not say."""
    if content.preprocessing is None or content.decoding is not None:
        why = (
            "says itself what its images become"
            if content.decoding
            else "holds pixels, which are used as they are"
        )
        raise UserError(f"{where} {why}; give neither a factor nor mirrored.")
    if not 1 <= decoding.factor <= min(content.images.shape[1:3]):
        raise UserError(f"The factor is {decoding.factor}; it must be from 1 to the images' side.")
    said = {"decoding": decoding.as_dict()}
    return replace(content, decoding=decoding, manifest=content.manifest | said)
