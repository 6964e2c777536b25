"""Converts a distilled set: `python -m delt_jax.export --to=parquet runs/digits`.

What is read may be a work directory or its distilled/ folder, an earlier export, or a set that
others published; --to=distilled brings such a set into a work directory, so that the stages
relabel, evaluate and report can use it.
"""

from delt_jax.core import stopping
from delt_jax.runtime import host_memory

if __name__ == "__main__":
    host_memory.restart_with_huge_pages()
    stopping.listen()  # before what takes time to import

import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from absl import app, flags

import delt_jax
from delt_jax import formats
from delt_jax.config import command, paths
from delt_jax.core.progress import say
from delt_jax.data.classes import check_names
from delt_jax.errors import UserError
from delt_jax.formats import ownership, remote_sets
from delt_jax.formats.distilled import DistilledSet
from delt_jax.store import files, regular, remote
from delt_jax.store.local_copies import local

_NAMES_BYTES = 16 * 2**20  # of a file of class names

_TO = flags.DEFINE_enum("to", None, list(formats.FORMATS), "Layout to write.")
_OUT = flags.DEFINE_string("out", "", "Where to; default beside what is read.")
_PER_CLASS = flags.DEFINE_integer(
    "per_class", 0, "Only the first so many images of every class; 0 for all.", lower_bound=0
)
_QUALITY = flags.DEFINE_integer(
    "quality",
    0,
    "Of JPEG, for folder and new000 (published sets have 75); 0 for lossless PNG.",
    lower_bound=0,
    upper_bound=100,
)
_CLASS_NAMES = flags.DEFINE_string(
    "class_names", "", "File of class names in label order, one a line, for sets without names."
)
_MEAN = flags.DEFINE_list("mean", [], "Of a set of normalised floats: one value or one a channel.")
_STD = flags.DEFINE_list("std", [], "Of a set of normalised floats: one value or one a channel.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier export at --out.")


@dataclass(frozen=True)
class ExportOptions:
    """The command line, parsed; the flags explain the fields."""

    source: Path
    to: str
    out: Path
    per_class: int = 0
    quality: int = 0
    class_names: Path | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    overwrite: bool = False


def parse(arguments: Sequence[str]) -> ExportOptions:
    """Parses the command line, program name first.

    Raises:
      UserError: one sentence about the first thing that is wrong.
    """
    app.define_help_flags()
    flags.FLAGS.set_gnu_getopt(True)  # flags may follow the path
    try:
        rest = flags.FLAGS(list(arguments))[1:]
    except flags.Error as e:
        raise UserError(re.sub(r"\s+", " ", str(e)).strip()) from e
    if _TO.value is None:
        raise UserError(f"--to is missing; it takes one of {', '.join(formats.FORMATS)}.")
    if len(rest) != 1:
        raise UserError(f"Name one set to read, such as runs/digits; got {len(rest)} paths.")
    if _QUALITY.value and not formats.FORMATS[_TO.value].jpeg:
        jpeg = " and ".join(name for name, layout in formats.FORMATS.items() if layout.jpeg)
        raise UserError(f"--quality is for {jpeg}; {_TO.value} is lossless.")
    source = remote.path_of(paths.expand(rest[0], "The path"))
    return ExportOptions(
        source,
        _TO.value,
        _path("--out", _OUT.value) or default_out(source, _TO.value),
        _PER_CLASS.value,
        _QUALITY.value,
        _path("--class_names", _CLASS_NAMES.value),
        _numbers("mean", _MEAN.value),
        _numbers("std", _STD.value),
        _OVERWRITE.value,
    )


def _path(flag: str, text: str) -> Path | None:
    return remote.path_of(paths.expand(text, flag)) if text else None


def _numbers(name: str, values: Sequence[str]) -> tuple[float, ...]:
    try:
        return tuple(map(float, values))
    except ValueError as e:
        raise UserError(f"--{name} takes numbers with commas between, not {values}.") from e


def default_out(source: Path, to: str) -> Path:
    """Beside what is read, e.g. runs/digits.npz or runs/digits-folder for runs/digits."""
    if remote.is_remote(source):
        raise UserError(f"--out is missing: {source} is read from a store; say where to write.")
    suffix = formats.FORMATS[to].suffix
    stem = source.absolute().with_suffix("") if source.is_file() else source.absolute()
    return stem.with_name(stem.name + (suffix or f"-{to}"))


def run(options: ExportOptions) -> None:
    """Reads, converts and writes a set, and reads back what was written.

    Raises:
      UserError: for a set that is not understood, or a target that is in the way.
    """
    _check_target(options)
    names = _read_names(options.class_names) if options.class_names else ()
    content = delt_jax.load(options.source, names, options.mean, options.std)
    layout = formats.find(options.source)
    count, height, width, channels = content.images.shape
    say(
        f"{options.source} ({layout}): {count} images, {content.ipc} of each of "
        f"{len(content.class_names)} classes, {width}x{height} px, {channels} channel(s)"
    )
    if isinstance(content.manifest.get("clipped"), float):
        say(f"  rounded to 8 bits; {content.manifest['clipped']:.2%} of the values were clipped")
    if options.per_class:
        content = content.per_class(options.per_class)
        say(f"  kept the first {options.per_class} of each class")
    if content.soft_labels is not None and (options.quality or options.to == "distilled"):
        why = "are of the uncompressed images" if options.quality else "come from the relabel stage"
        content = replace(content, soft_labels=None)
        say(f"  left out the soft labels, which {why}")
    if options.to == "distilled":
        origin = {"layout": layout, "name": options.source.name}
        content = replace(content, manifest=content.manifest | {"imported": origin})
    say(f"  {_write(options, content)}")
    say(f"wrote {options.out} ({options.to})")


def _write(options: ExportOptions, content: DistilledSet) -> str:
    """Writes the set, reads it back, and returns a line on what was lost."""
    layout, out = formats.FORMATS[options.to], options.out
    if remote.is_remote(out):
        with remote_sets.replacing(out) as here:
            return _write(replace(options, out=here), content)
    with files.disk_errors_as_user_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    if not layout.suffix:
        with files.replacing_folder(out) as folder:
            layout.write(folder, content, options.quality)
            line = loss_line(content, formats.load(folder), options.quality)
            stopping.check()  # the last moment in which nothing is written
            return line
    # Written to a folder beside the target, so that a file appears only after it was read back.
    folder = out.with_name(f".{out.name}.new")
    with files.disk_errors_as_user_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    try:
        path = folder / f"set{layout.suffix}"
        layout.write(path, content, options.quality)
        line = loss_line(content, formats.load(path), options.quality)
        stopping.check()
        with files.disk_errors_as_user_errors(out):
            path.replace(out)
        return line
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def loss_line(content: DistilledSet, stored: DistilledSet, quality: int) -> str:
    """Says what storing lost, in grey levels of 255.

    Raises:
      UserError: if a lossless layout, read back, gives another set.
    """
    difference = np.abs(stored.images.astype(np.int16) - content.images)
    same = stored.class_names == content.class_names and (stored.labels == content.labels).all()
    if not same or (not quality and difference.any()):
        raise UserError("What was written reads back as another set; check the disk.")
    if not difference.any():
        return "lossless: reads back as it was"
    psnr = 20 * np.log10(255 / np.sqrt(np.mean(np.square(difference, dtype=np.float64))))
    return (
        f"JPEG of quality {quality} changed the pixels by {difference.mean():.2f} of 255 in the "
        f"mean and {difference.max()} at most; PSNR {psnr:.1f} dB"
    )


def _read_names(path: Path) -> tuple[str, ...]:
    """Class names from a text file in UTF-8, one a line."""
    try:
        text = regular.read_bytes(local(path), _NAMES_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise UserError(
            f"--class_names={path} cannot be read: it is no text in UTF-8 ({e.reason} at byte "
            f"{e.start}); save it as UTF-8."
        ) from e
    except (OSError, ValueError) as e:
        raise UserError(f"--class_names={path} cannot be read: {e}.") from e
    names = tuple(line.strip() for line in text.splitlines())
    if not names or "" in names:
        raise UserError(f"--class_names={path} is empty or has an empty line; one name a line.")
    check_names(names, f"--class_names={path}")
    return names


def _check_target(options: ExportOptions) -> None:
    """Refuses a target that is in the way, unless it is an export and may be overwritten."""
    layout = formats.FORMATS[options.to]
    try:
        remote_sets.check_place(options.source, options.out, options.to)
        with remote_sets.standing_in(options.out) as out:
            if layout.suffix:
                ownership.check_file(out, layout.is_ours, options.overwrite)
            else:
                ownership.check_folder(out, options.overwrite)
    except (OSError, RuntimeError, ValueError) as e:  # loops of links, names that no disk takes
        raise UserError(f"--out={options.out} cannot be used: {e}.") from e


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of a command line, as `command.exit_status` has it."""

    def go(options: ExportOptions) -> bool:
        run(options)
        return True

    return command.exit_status(
        lambda: parse(sys.argv if argv is None else argv),
        go,
        "stopped; what was not finished was removed, and --out is whole or as it was.",
    )


if __name__ == "__main__":
    sys.exit(main())
