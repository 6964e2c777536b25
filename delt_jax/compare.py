"""Compares recipes: `python -m delt_jax.compare --configs=A.py:x,A.py:y --ipc=1,10 --workdir=W`.

Every recipe runs at every number of images per class, each in its own work directory below W;
--config.NAME=VALUE changes a setting of all of them. See docs/compare.md.
"""

from delt_jax.core import stopping
from delt_jax.runtime import host_memory

if __name__ == "__main__":
    host_memory.restart_with_huge_pages()
    stopping.listen()  # before what takes time to import

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from delt_jax.config import command, paths, sentences
from delt_jax.errors import UserError

if TYPE_CHECKING:
    from delt_jax.comparison.cells import Cell
    from delt_jax.stages.mirroring import Mirror

_FLAGS = flags.FlagValues()  # not absl's global ones, which hold the flags of a single run
_CONFIGS = flags.DEFINE_string(
    "configs",
    "",
    "Recipes with commas between, e.g. A.py,A.py:x,y,B.py; a part that names no .py file is one "
    "more variant of the recipe before it.",
    _FLAGS,
)
_IPC = flags.DEFINE_list(
    "ipc", ["0"], "Images per class; 0 for a recipe's own.", flag_values=_FLAGS
)
_SEEDS = flags.DEFINE_integer(
    "seeds", None, "Students per row; default the recipes'.", 1, flag_values=_FLAGS
)
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder that holds all cells and tables.", _FLAGS)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the grid; touch nothing.", _FLAGS)
_MIRROR = flags.DEFINE_string(
    "mirror", "", "Place in an object store where finished cells and tables are copied.", _FLAGS
)
_KEEP_GOING = flags.DEFINE_bool(
    "keep_going", False, "After a cell that fails, go on with the others.", _FLAGS
)
_HELP = flags.DEFINE_bool("help", False, "Show this help.", _FLAGS)
_OURS = {"config.ipc": "ipc", "config.evaluate.seeds": "seeds"}  # settings that are flags here


class CompareOptions(NamedTuple):
    """The command line, parsed; the flags explain the fields."""

    configs: tuple[str, ...]
    ipcs: tuple[int, ...]
    folder: Path
    settings: tuple[str, ...]
    dry_run: bool
    keep_going: bool
    command: str
    mirror: str = ""


def parse(arguments: Sequence[str]) -> CompareOptions:
    """Parses the command line, program name first.

    Raises:
      UserError: one sentence about the first thing that is wrong.
      SystemExit: for --help.
    """
    settings = tuple(a for a in arguments if re.match(r"--?config\.", a))
    _FLAGS.unparse_flags()
    try:
        rest = _FLAGS([a for a in arguments if a not in settings])
    except flags.Error as e:
        raise UserError(sentences.sentence(e)) from e
    if _HELP.value:
        print(f"{__doc__}\n{_FLAGS.get_help(include_special_flags=False)}")
        raise SystemExit(0)
    for setting in settings:
        name, equals, _ = setting.lstrip("-").partition("=")
        if not equals:
            raise UserError(f"--{name} has no value; write --{name}=VALUE.")
        if name in _OURS:
            raise UserError(f"--{name} is --{_OURS[name]} here, as it is the same for all recipes.")
    if len(rest) > 1:
        raise UserError(f"Unexpected argument {rest[1]!r}; options begin with --.")
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; try --workdir=runs/compare.")
    if _SEEDS.value:
        settings = (f"--config.evaluate.seeds={_SEEDS.value}", *settings)
    return CompareOptions(
        split_configs(_CONFIGS.value),
        _numbers(_IPC.value),
        Path(paths.expand_workdir(_WORKDIR.value)),
        settings,
        _DRY_RUN.value,
        _KEEP_GOING.value,
        shlex.join(["python", "-m", "delt_jax.compare", *arguments[1:]]),
        paths.expand_mirror(_MIRROR.value),
    )


def split_configs(text: str) -> tuple[str, ...]:
    """The recipes of --configs, e.g. ("A.py", "A.py:x,y") of "A.py,A.py:x,y".

    Raises:
      UserError: if there is none.
    """
    configs: list[str] = []
    for part in filter(None, text.split(",")):
        file = part.split(":")[0]
        if not configs or (file.endswith(".py") and "=" not in file):
            configs.append(part)
        else:
            configs[-1] += f",{part}"
    if not configs:
        raise UserError("--configs is missing; try --configs=configs/digits.py.")
    return tuple(paths.expand_recipe(config, "--configs") for config in configs)


def _numbers(values: Sequence[str]) -> tuple[int, ...]:
    wrong = [value for value in values if not re.fullmatch(r"[0-9]{1,9}", value.strip())]
    if wrong or not values:
        raise UserError(
            f"--ipc takes whole numbers with commas between, such as 1,10,50, not "
            f"{wrong[0] if wrong else ''!r}."
        )
    return tuple(dict.fromkeys(map(int, values)))


def run(options: CompareOptions) -> list[str]:
    """Runs or describes the grid, and writes the comparison after every cell.

    Returns:
      Names of the cells that failed.

    Raises:
      UserError: for settings, data or folders that cannot work, before anything is written; for
        the first cell that fails, unless `keep_going`.
    """
    # Imported here so that a mistyped flag is answered at once.
    from delt_jax.runtime import environment

    environment.import_jax()
    from delt_jax.comparison import cells as grid
    from delt_jax.runtime import compile_cache, numerics
    from delt_jax.stages.mirroring import Mirror

    compile_cache.use()
    environment.check_devices()
    with stopping.listening(), numerics.fixed():
        grid.check(options.folder)
        mirror = Mirror(options.folder.absolute(), options.mirror, (grid.CELLS,))
        mirror.check()
        cells = grid.plan(*options[:4], options.dry_run)
        if options.dry_run:
            print("\n".join(grid.describe(cells)))
            return []
        with grid.locked(options.folder):
            grid.mark(options.folder, cells, options.command)
            failed = _run_cells(options, cells, mirror)
            for part in (*(mirror.within(cell.folder.path) for cell in cells), mirror):
                part.finish()
            return failed


def _run_cells(options: CompareOptions, cells: Sequence["Cell"], mirror: "Mirror") -> list[str]:
    """Runs the cells that are not finished; returns the names of those that failed."""
    from delt_jax.comparison import cells as grid
    from delt_jax.core.progress import say

    failed, written = [], 0
    for number, cell in enumerate(cells, 1):
        head = f"cell {number} of {len(cells)}, {cell.name}"
        if not cell.state()[0]:
            say(f"{head}: finished before")
            continue
        say(f"{head}: {cell.arguments.command}")
        try:
            cell.run()
        except UserError as e:
            if not options.keep_going:
                raise UserError(f"{head}: {e}") from e
            print(f"delt_jax: {head}: {e}", file=sys.stderr)
            failed.append(cell.name)
            continue
        grid.write(options.folder, cells)
        for part in (mirror.within(cell.folder.path), mirror):
            part.follow()
        written += 1
    if not written:
        grid.write(options.folder, cells)
    if len(failed) < len(cells):
        say(f"comparison: {options.folder / 'comparison.html'}")
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of a command line, as `command.exit_status` has it; 1 if a cell failed."""
    return command.exit_status(
        lambda: parse(sys.argv if argv is None else argv), lambda options: not run(options)
    )


if __name__ == "__main__":
    sys.exit(main())
