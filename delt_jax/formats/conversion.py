"""Converts a distilled set from one layout to another, and reads back what was written."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax import formats
from delt_jax.core import stopping
from delt_jax.core.progress import say
from delt_jax.errors import UserError
from delt_jax.formats import hub, learned_arrays, ownership, remote_sets, resizing
from delt_jax.formats.decoding import Decoding
from delt_jax.formats.distilled import DistilledSet
from delt_jax.formats.stored import floats_of
from delt_jax.store import files, regular, remote
from delt_jax.store.local_copies import local

_SUMMARY = "summary.json"  # of a work directory
_OF_A_REPORT = ("data", "teacher", "scores", "protocols", "scored_on", "verdict", "made")
_NAMES_BYTES = 16 * 2**20  # of a file of class names


@dataclass(frozen=True)
class ExportOptions:
    """What to convert, and how.

    Attributes:
      source: a work directory or its distilled/ folder, an export, or a published set.
      to: name of the layout to write.
      out: where to.
      per_class: keep the first so many images of every class; 0 for all.
      quality: of JPEG, for the layouts that have it; 0 for lossless PNG.
      class_names: names in label order, or a file of them, one a line; empty for the set's own.
      mean, std: of a set of normalised floats, one value or one a channel.
      overwrite: whether an earlier export may be replaced.
      push: data set on the Hugging Face Hub that gets the export, too, OWNER/NAME; empty for none.
      preprocessing: file or set with the whitening of normalised floats; None where there is none.
      factor: images along a side of each stored one, of floats whose file does not say it.
      mirrored: whether students train on mirrored copies, too, of floats whose file does not say
        it.
      rounds: whether float images become pixels, rounded and clipped.
      size: side in pixels that images are resized to, after they are cut square; 0 keeps theirs.
    """

    source: Path
    to: str
    out: Path
    per_class: int = 0
    quality: int = 0
    class_names: Path | tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    overwrite: bool = False
    push: str = ""
    preprocessing: Path | None = None
    factor: int = 1
    rounds: bool = False
    size: int = 0
    mirrored: bool = False


def default_out(source: Path, to: str) -> Path:
    """Beside what is read, e.g. runs/digits.npz or runs/digits-folder for runs/digits.

    Raises:
      UserError: for what is read from an object store, which has no place beside it here.
    """
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
    check_layout(options.to, options.quality, options.size)
    hub.check(options.push, options.to)
    _check_target(options)
    given = options.class_names
    names = _read_names(given) if isinstance(given, os.PathLike) else given
    content = formats.load(
        options.source,
        names,
        options.mean,
        options.std,
        options.preprocessing or "",
        Decoding(options.factor, options.mirrored),
    )
    layout = formats.find(options.source)
    content = replace(content, manifest=content.manifest | reported(options.source, content))
    count, height, width, channels = content.images.shape
    say(
        f"{options.source} ({layout}): {count} images, {content.ipc} of each of "
        f"{len(content.class_names)} classes, {width}x{height} px, {channels} channel(s)"
    )
    if content.preprocessing is not None:
        content = _as_asked(content, options)
    if options.per_class:
        content = content.per_class(options.per_class)
        say(f"  kept the first {options.per_class} of each class")
    if options.size and content.preprocessing is not None:
        raise UserError("--size is for pixels, and these are float images; add --round.")
    if options.size and (changed := resizing.change(content.images, options.size)):
        of_them = ", and left out the soft labels, which are of the images as they were"
        say(f"  resized {changed}{of_them if content.soft_labels is not None else ''}")
        content = resizing.resized_set(content, options.size)
    if content.soft_labels is not None and (options.quality or options.to == "distilled"):
        why = "are of the uncompressed images" if options.quality else "come from the relabel stage"
        content = replace(content, soft_labels=None)
        say(f"  left out the soft labels, which {why}")
    if options.to == "distilled":
        origin = {"layout": layout, "name": options.source.name}
        content = replace(content, manifest=content.manifest | {"imported": origin})
    say(f"  {_write(options, content)}")
    say(f"wrote {options.out} ({options.to})")
    if options.push:
        say(f"pushed to {hub.push(remote_sets.local_set(options.out), options.push)}")


def _as_asked(content: DistilledSet, options: ExportOptions) -> DistilledSet:
    """Float images as they are, or as pixels where that is asked for; says which.

    Raises:
      UserError: if the layout has only pixels, and nobody asked for these.
    """
    space = content.preprocessing
    assert space is not None
    form = "" if content.learned_labels is None else f", with learned labels ({content.label_form})"
    say(f"  float images in a space of their own ({space.kind}){form}")
    if options.rounds:
        if content.copies > 1:
            content = _taken_apart(content)
        content = content.rounded()
        share = content.manifest["clipped"]
        say(f"  rounded to 8 bits, as asked; {share:.2%} of the values were clipped")
        return content
    if not formats.FORMATS[options.to].floats:
        can = ", ".join(name for name, layout in formats.FORMATS.items() if layout.floats)
        raise UserError(
            f"The layout {options.to} stores pixels, and {options.source} holds float images, of "
            f"which rounding would lose some; take one of {can}, or ask for it (--round)."
        )
    return content


def _taken_apart(content: DistilledSet) -> DistilledSet:
    """The images that students see, which pixels must hold themselves; says how many there are."""
    apart = content.taken_apart()
    said = f"  took the images apart into those that students see, {content.copies} of each"
    lost = content.soft_labels is not None
    of_them = ", and left out the soft labels, which are of the images as they were"
    say(f"{said}: {apart.ipc} of each class{of_them if lost else ''}")
    return apart


def reported(source: Path, content: DistilledSet) -> dict[str, Any]:
    """Entry "report" for the manifest of a run's set: what its summary.json has measured of it."""
    folder = source if (source / "distilled").is_dir() else source.absolute().parent
    try:
        summary = files.read_object(folder / _SUMMARY)
    except (OSError, ValueError, UserError):
        return {}
    if not content.manifest.get("hash") or summary.get("distilled") != content.manifest["hash"]:
        return {}
    return {"report": {name: summary[name] for name in _OF_A_REPORT if name in summary}}


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
    same = stored.class_names == content.class_names and (stored.labels == content.labels).all()
    if content.preprocessing is not None:
        if not same or not _same_floats(content, stored):
            raise UserError("What was written reads back as another set; check the disk.")
        return "lossless: reads back bit for bit"
    difference = np.abs(stored.images.astype(np.int16) - content.images)
    if not same or (not quality and difference.any()):
        raise UserError("What was written reads back as another set; check the disk.")
    if not difference.any() and "clipped" in content.manifest:
        return "reads back as it was rounded"
    if not difference.any():
        return "lossless: reads back as it was"
    psnr = 20 * np.log10(255 / np.sqrt(np.mean(np.square(difference, dtype=np.float64))))
    return (
        f"JPEG of quality {quality} changed the pixels by {difference.mean():.2f} of 255 in the "
        f"mean and {difference.max()} at most; PSNR {psnr:.1f} dB"
    )


def _same_floats(content: DistilledSet, stored: DistilledSet) -> bool:
    """Whether images, space, learned labels and decoding are the same, bit for bit."""
    pairs = [floats_of(content), floats_of(stored)]
    if None in pairs or content.label_form != stored.label_form:
        return False
    ours, theirs = (learned_arrays.content_hash(floats) for floats in pairs if floats is not None)
    return ours == theirs


def _read_names(path: Path) -> tuple[str, ...]:
    """Class names from a text file in UTF-8, one a line."""
    from delt_jax.data.classes import check_names  # brings JAX, which nothing else here needs

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


def check_layout(to: str, quality: int, size: int = 0) -> None:
    """Raises a UserError unless there is such a layout, and JPEG in it where that is asked for.

    Args:
      to: name of the layout.
      quality: of JPEG, 0 for lossless PNG.
      size: that images are resized to, in pixels; 0 keeps theirs.
    """
    if to not in formats.FORMATS:
        raise UserError(f"--to takes one of {', '.join(formats.FORMATS)}, not {to!r}.")
    if not 0 <= quality <= 100:
        raise UserError(f"--quality is from 0 to 100, not {quality}.")
    if not 0 <= size <= resizing.LARGEST:
        raise UserError(f"--size is from 1 to {resizing.LARGEST} px, or 0, not {size}.")
    if quality and not formats.FORMATS[to].jpeg:
        jpeg = ", ".join(name for name, layout in formats.FORMATS.items() if layout.jpeg)
        raise UserError(f"--quality is for {jpeg}; {to} is lossless.")


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
