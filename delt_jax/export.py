"""Converts a distilled set: `delt_jax export --to=parquet runs/digits`.

What is read may be a work directory or its distilled/ folder, an earlier export, or a set that
others published; --to=distilled brings such a set into a work directory, so that the stages
relabel, evaluate and report can use it.
"""

from delt_jax.core import stopping
from delt_jax.runtime import host_memory

if __name__ == "__main__":
    host_memory.restart_with_huge_pages()
    stopping.listen()  # before what takes time to import

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from delt_jax import formats
from delt_jax.config import command, paths, usage
from delt_jax.errors import UserError
from delt_jax.formats import hub
from delt_jax.formats.conversion import ExportOptions, check_layout, default_out, loss_line, run
from delt_jax.store import remote

__all__ = ["ExportOptions", "default_out", "loss_line", "main", "parse", "run"]

_FLAGS = flags.FlagValues()  # not absl's global ones, which hold the flags of a run
_TO = flags.DEFINE_enum("to", None, list(formats.FORMATS), "Layout to write.", _FLAGS)
_OUT = flags.DEFINE_string("out", "", "Where to; default beside what is read.", _FLAGS)
_PER_CLASS = flags.DEFINE_integer(
    "per_class", 0, "Only the first so many images of every class; 0 for all.", 0, None, _FLAGS
)
_SIZE = flags.DEFINE_integer(
    "size",
    0,
    "Side in pixels that images are resized to, after they are cut square; 0 keeps theirs.",
    flag_values=_FLAGS,
)
_QUALITY = flags.DEFINE_integer(
    "quality",
    0,
    "Of JPEG, for folder, named and new000 (published sets have 75); 0 for lossless PNG.",
    lower_bound=0,
    upper_bound=100,
    flag_values=_FLAGS,
)
_CLASS_NAMES = flags.DEFINE_string(
    "class_names",
    "",
    "File of class names in label order, one a line, for sets without names.",
    _FLAGS,
)
_OF_FLOATS = "Of a set of normalised floats: one value or one a channel."
_MEAN = flags.DEFINE_list("mean", [], _OF_FLOATS, flag_values=_FLAGS)
_STD = flags.DEFINE_list("std", [], _OF_FLOATS, flag_values=_FLAGS)
_PREPROCESSING = flags.DEFINE_string(
    "preprocessing",
    "",
    "Of a set of whitened floats: a .npz with mean, std, matrix and centre, or a set that has it.",
    _FLAGS,
)
_FACTOR = flags.DEFINE_integer(
    "factor",
    1,
    "Of a set of floats: images along a side of each stored one (IDC), where its file does not "
    "say it.",
    lower_bound=1,
    upper_bound=16,
    flag_values=_FLAGS,
)
_MIRRORED = flags.DEFINE_bool(
    "mirrored",
    False,
    "Of a set of floats: students train on a mirrored copy of every image, too (RCIG's of colour "
    "images), where its file does not say it.",
    _FLAGS,
)
_ROUND = flags.DEFINE_bool("round", False, "Round and clip float images to pixels.", _FLAGS)
_PUSH = flags.DEFINE_string(
    "push", "", "OWNER/NAME of a data set on the Hugging Face Hub that gets the export.", _FLAGS
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier export at --out.", _FLAGS)


def parse(arguments: Sequence[str]) -> ExportOptions:
    """Parses the command line, program name first.

    Raises:
      UserError: one sentence about the first thing that is wrong.
      SystemExit: for --help and --version.
    """
    rest = usage.parsed(arguments, str(__doc__), _FLAGS)
    if _TO.value is None:
        raise UserError(f"--to is missing; it takes one of {', '.join(formats.FORMATS)}.")
    if len(rest) != 1:
        raise UserError(f"Name one set to read, such as runs/digits; got {len(rest)} paths.")
    check_layout(_TO.value, _QUALITY.value, _SIZE.value)
    hub.check(_PUSH.value, _TO.value)
    source = remote.path_of(paths.expand(rest[0], "The path"))
    return ExportOptions(
        source,
        _TO.value,
        _path("--out", _OUT.value) or default_out(source, _TO.value),
        _PER_CLASS.value,
        _QUALITY.value,
        _path("--class_names", _CLASS_NAMES.value) or (),
        _numbers("mean", _MEAN.value),
        _numbers("std", _STD.value),
        _OVERWRITE.value,
        _PUSH.value,
        _path("--preprocessing", _PREPROCESSING.value),
        _FACTOR.value,
        _ROUND.value,
        _SIZE.value,
        _MIRRORED.value,
    )


def _path(flag: str, text: str) -> Path | None:
    return remote.path_of(paths.expand(text, flag)) if text else None


def _numbers(name: str, values: Sequence[str]) -> tuple[float, ...]:
    try:
        return tuple(map(float, values))
    except ValueError as e:
        raise UserError(f"--{name} takes numbers with commas between, not {values}.") from e


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
