"""Which files and folders an export may replace: only what an earlier export wrote.

Nothing is known of a file but its content, so a folder's sidecar lists the files of the export
with sizes and checksums, and single files are recognised by what they hold.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from delt_jax.errors import UserError
from delt_jax.formats import distilled
from delt_jax.formats.stored import FORMAT, SIDECAR, file_record
from delt_jax.store import foreign
from delt_jax.store.foreign import ForeignFileError

_WORKDIR = "delt_jax work directory"  # how the format in a run's config.json begins
# What stages write into a work directory.
STAGES = (
    *("config.json", "summary.json", "metrics.jsonl", "ranking.csv", "ranking.json", "cache"),
    *("teacher", "teachers", "experts", "distilled", "soft_labels", "evaluation", "scores"),
    *("report", "profile", "tensorboard", "wandb", "mirror.json"),
)
# Files of exports from before their sidecars listed them.
_KINDS = re.compile(
    r"delt_jax\.json|soft_labels\.npz|README\.md|data/train-00000-of-00001\.parquet"
    r"|[0-9]{5}/[0-9]{5}\.(png|jpg)|new[0-9]{3,5}/class[0-9]{3,5}_id[0-9]{3,5}\.(png|jpg)"
    r"|(dataset_info|features)\.json|label\.labels\.txt"
    r"|distilled_set-train\.array_record-[0-9]{5}(-of-[0-9]{5})?"
)
_OF_A_SET = re.compile(r"manifest\.json|learned\.npz|images/[0-9]{5}/[0-9]{5}\.(png|jpg)")
_FOREIGN = "is there and no export of delt_jax; choose another --out"


def check_place(source: Path, out: Path, layout: str) -> None:
    """Checks where an export would go, whether or not something is there.

    Args:
      source: of the set that is exported.
      out: the target.
      layout: of the target.

    Raises:
      UserError: if the target is a symbolic link, the source, or a place that a run's stages own.
    """
    if out.is_symlink():
        raise UserError(
            f"{out} is a symbolic link to {os.readlink(out)}; name that place, or choose another "
            f"--out."
        )
    target, read = out.resolve(), source.resolve()
    if target == read or target in read.parents or _same(out, source):
        raise UserError(f"{out} is or holds what is read; choose another --out.")
    if read in target.parents and read.is_dir() and not _is_workdir(read):
        raise UserError(f"{out} is within what is read; choose another --out.")
    for folder in target.parents:
        if not _is_workdir(folder):
            continue
        name = target.relative_to(folder).parts[0]
        stem = name.removesuffix(".partial")
        importing = layout == "distilled" and target == folder / "distilled"
        if importing:
            _check_import(folder, out)
        elif stem in STAGES or name.startswith("."):
            raise UserError(
                f"{out} belongs to the run in {folder}, whose stages write {name}; choose another "
                f"--out."
            )


def check_file(out: Path, is_ours: Callable[[Path], bool], overwrite: bool) -> None:
    """Raises a UserError if there is a file that may not, or is not to be, replaced."""
    if not out.exists():
        return
    if not out.is_file() or not is_ours(out):
        raise UserError(f"{out} {_FOREIGN}.")
    _check_asked(out, overwrite)


def check_folder(out: Path, overwrite: bool) -> None:
    """Raises a UserError if there is a folder that may not, or is not to be, replaced.

    Every file in it must be one that an export wrote, as it was written.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} {_FOREIGN}.")
    names = _files(out)
    if not names:
        return
    if distilled.is_set(out) and not (out / SIDECAR).exists():
        if not _is_imported(out):
            raise UserError(
                f"{out} is a set that a run made and no export of delt_jax; choose another --out."
            )
        odd = [name for name in names if not _OF_A_SET.fullmatch(name)]
    else:
        odd = _not_ours(out, names)
    if odd:
        listed = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "")
        raise UserError(
            f"{out} is there and no export of delt_jax alone: no export wrote {len(odd)} of its "
            f"files as they are ({listed}); choose another --out, or move them away."
        )
    _check_asked(out, overwrite)


def _same(out: Path, source: Path) -> bool:
    """Whether both are one file, also by hard links."""
    return out.exists() and source.exists() and out.samefile(source)


def _check_asked(out: Path, overwrite: bool) -> None:
    if not overwrite:
        raise UserError(f"{out} is there already; choose another --out, or add --overwrite.")


def _is_workdir(folder: Path) -> bool:
    return is_a_workdirs(_json(folder / "config.json"))


def is_a_workdirs(config: Mapping[str, Any]) -> bool:
    """Whether the content of a config.json says that its folder is a run's."""
    return str(config.get("format", "")).startswith(_WORKDIR)


def _is_imported(folder: Path) -> bool:
    """Whether a distilled set was imported, not made by a run."""
    return "imported" in _json(folder / "manifest.json")


def _check_import(workdir: Path, out: Path) -> None:
    """Raises a UserError if a run has made, or begun, a set of its own."""
    made = (workdir / "distilled/manifest.json").exists() and not _is_imported(
        workdir / "distilled"
    )
    if made or (workdir / "distilled.partial").exists():
        raise UserError(
            f"{out} belongs to the run in {workdir}, which has made or begun a set of its own; "
            f"choose another work directory."
        )


def _not_ours(out: Path, names: Mapping[str, Path]) -> list[str]:
    """Files of a folder that no export wrote, or that were changed; all if it is no export."""
    about = _json(out / SIDECAR)
    if about.get("format") != FORMAT:
        raise UserError(f"{out} {_FOREIGN}.")
    listed = about.get("files")
    if not isinstance(listed, dict):
        return [name for name in names if not _KINDS.fullmatch(name)]

    def is_ours(name: str, path: Path) -> bool:
        record = file_record(path)
        return record is not None and (name == SIDECAR or listed.get(name) == record)

    return [name for name, path in names.items() if not is_ours(name, path)]


def _files(folder: Path) -> dict[str, Path]:
    """Everything below a folder but its folders, by name; links are not followed."""
    found = {}
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in sorted([*names, *links]):
            path = Path(parent) / name
            found[path.relative_to(folder).as_posix()] = path
    return found


def _json(path: Path) -> dict[str, Any]:
    """A dictionary in a file; empty if there is none."""
    try:
        content = foreign.read_json(path)
    except (OSError, ForeignFileError):
        return {}
    return content if isinstance(content, dict) else {}
