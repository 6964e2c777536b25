"""Runs the cells of a comparison one after the other."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from delt_jax.core import stopping
from delt_jax.core.progress import say
from delt_jax.errors import UserError
from delt_jax.runtime import environment

if TYPE_CHECKING:
    from delt_jax.comparison.cells import Cell
    from delt_jax.stages.mirroring import Mirror


class CompareOptions(NamedTuple):
    """What to compare, and how.

    Attributes:
      configs: recipes, as --config takes them.
      ipcs: images per class; 0 for a recipe's own.
      folder: of the comparison.
      settings: of all recipes, --config.NAME=VALUE each.
      dry_run: print the grid and write nothing.
      keep_going: after a cell that fails, go on with the others.
      command: command line that makes the comparison.
      mirror: URL in an object store where finished cells and tables are copied; empty for none.
    """

    configs: tuple[str, ...]
    ipcs: tuple[int, ...]
    folder: Path
    settings: tuple[str, ...]
    dry_run: bool
    keep_going: bool
    command: str
    mirror: str = ""


class Compared(NamedTuple):
    """What came of a comparison.

    Attributes:
      cells: all of them, finished or not.
      failed: names of those that failed.
    """

    cells: "Sequence[Cell]"
    failed: Sequence[str]


def run(options: CompareOptions) -> Compared:
    """Runs or describes the grid, and writes the comparison after every cell.

    Raises:
      UserError: for settings, data or folders that cannot work, before anything is written; for
        the first cell that fails, unless `keep_going`.
    """
    environment.import_jax()
    from delt_jax.comparison import cells as grid  # only then: it imports JAX
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
            return Compared(cells, ())
        with grid.locked(options.folder):
            grid.mark(options.folder, cells, options.command)
            failed = _run_cells(options, cells, mirror)
            for part in (*(mirror.within(cell.folder.path) for cell in cells), mirror):
                part.finish()
            return Compared(cells, failed)


def _run_cells(options: CompareOptions, cells: Sequence["Cell"], mirror: "Mirror") -> list[str]:
    """Runs the cells that are not finished; returns the names of those that failed."""
    from delt_jax.comparison import cells as grid

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
