"""The cells of a comparison: each runs one recipe at one number of images per class."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delt_jax.comparison import charts as comparison_charts
from delt_jax.comparison import figures as comparison_figures
from delt_jax.comparison import page as comparison_page
from delt_jax.comparison import reuse, sizes
from delt_jax.comparison import tables as comparison_tables
from delt_jax.comparison import verdict as comparison_verdict
from delt_jax.comparison.page import ComparedImages
from delt_jax.config import derive, from_config
from delt_jax.config.arguments import Arguments, of_a_recipe
from delt_jax.data import Source, read
from delt_jax.data.classes import in_words
from delt_jax.errors import UserError
from delt_jax.evaluation.rows import rows_of, skipped
from delt_jax.formats import distilled
from delt_jax.recipe import DataRecipe, Recipe
from delt_jax.recovery import schedule
from delt_jax.recovery.selection import random_images
from delt_jax.reporting import svg, tables
from delt_jax.reporting.figures import SHEET_CLASSES
from delt_jax.runtime import compile_cache
from delt_jax.stages import checks, pipeline, recover, report, room, squeeze
from delt_jax.stages import run as run_lib
from delt_jax.store import artefact, files, locks
from delt_jax.store.identity import identity
from delt_jax.store.workdir import WorkDir

CELLS, SCORES, FIGURES = "cells", "scores", "figures"  # folders
MARKER, LOCK = "comparison.json", ".lock"
_FORMAT = "delt_jax comparison, version 1"
_SHOWN = 3  # images of a class on a sheet


@dataclass(frozen=True)
class Cell:
    """A run of the grid, finished or not.

    Attributes:
      method: name of its recipe.
      arguments: of the command line that makes this cell alone.
      recipe: complete, with all derived settings.
      source: its data, one object for all cells with the same data.
      folder: its work directory.
    """

    method: str
    arguments: Arguments
    recipe: Recipe
    source: Source
    folder: WorkDir

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.path.name

    def state(self) -> tuple[bool, str]:
        """Whether work is left, and the first stage that must run and why."""
        for stage in pipeline.of_recipe(self.recipe):
            needed, why = pipeline.status(stage, self.recipe, self.source, self.folder)
            if needed:  # later stages cannot be judged before this one has run
                return True, f"{stage.name}: {why}"
        folder, summary = self.folder.path / report.ARTEFACT, f"../{report.SUMMARY}"
        manifest = self.folder.manifest(f"{report.ARTEFACT}/manifest.json") or {}
        if artefact.lists_files(manifest) and not artefact.is_intact(folder, summary, manifest):
            return True, f"report: redone because {report.SUMMARY} is damaged"
        return False, "finished"

    def run(self) -> None:
        """Makes the cell; reuses what other cells have made from the same inputs.

        Raises:
          UserError: for the first thing that cannot work.
        """
        paths = sorted(self.folder.path.parent.iterdir())
        others = [WorkDir(path) for path in paths if path != self.folder.path]
        reuse.link_finished(self.recipe, self.source, self.folder, others)
        a = self.arguments
        try:
            run_lib.run(a.config, a.workdir, command=a.command, verify=True)
        finally:
            compile_cache.free()


def method_of(config: str) -> str:
    """Name of a recipe in tables, e.g. "digits:x" of "configs/digits.py:x"."""
    file, colon, variants = config.partition(":")
    return Path(file).stem + colon + variants


def folder_of(method: str) -> str:
    """Beginning of the names of a recipe's folders."""
    return re.sub(r"[^\w.=+-]+", "-", method).strip("-")


def plan(
    configs: Sequence[str],
    ipcs: Sequence[int],
    folder: Path,
    flags: Sequence[str] = (),
    dry_run: bool = False,
) -> list[Cell]:
    """Lists and checks all cells, those of the first IPC first; writes nothing.

    Args:
      configs: recipes, as --config takes them.
      ipcs: images per class; 0 for a recipe's own.
      folder: of the comparison.
      flags: settings of every run, --config.NAME=VALUE each.
      dry_run: whether published numbers may stand in for data that are missing.

    Raises:
      UserError: for the first cell that cannot work.
    """
    sources: dict[DataRecipe, Source] = {}
    cells: dict[str, Cell] = {}
    configs_of: dict[str, str] = {}

    def planned(config: str, ipc: int) -> Cell:
        # A recipe's own IPC is known only once its settings are derived: then plan it again.
        method = method_of(config)
        workdir = folder / CELLS / f"{folder_of(method)}-ipc{ipc}"
        own = [f"--config.evaluate.scores_folder={folder / SCORES}"]
        own += [f"--config.ipc={ipc}"] if ipc else []
        arguments = of_a_recipe(config, str(workdir), [*own, *flags])
        recipe, run = from_config(arguments.config), WorkDir(workdir, arguments.command)
        run.check()
        if recipe.data not in sources:
            cache = run.path / "cache"
            sources[recipe.data] = run_lib.open_data(recipe.data, cache, dry_run)
        source = sources[recipe.data]
        recipe, _ = derive.complete(recipe, source)
        if not ipc:
            return planned(config, recipe.ipc)
        _check_cell(recipe, source, run)
        return Cell(method, arguments, recipe, source, run)

    for ipc in ipcs:
        for config in configs:
            try:
                cell = planned(config, ipc)
            except UserError as e:
                raise UserError(f"{method_of(config)}{f' at ipc {ipc}' * (ipc > 0)}: {e}") from e
            if configs_of.setdefault(cell.name, config) != config:
                raise UserError(
                    f"{configs_of[cell.name]} and {config} would share the folder {cell.name}; "
                    f"give one of the files another name."
                )
            cells[cell.name] = cell  # a recipe's own IPC may be listed, too
    return list(cells.values())


def _check_cell(recipe: Recipe, source: Source, run: WorkDir) -> None:
    """Raises a UserError if a cell cannot work, or would have no scores to compare."""
    if why := skipped(recipe):
        raise UserError(f"A comparison is one of scores, but {why}; give it what is missing.")
    checks.check(recipe, source)
    checks.check_imported((), recipe, source, run)
    checks.check_places(recipe, source, run)
    room.check(recipe, source, run)


def check(folder: Path) -> None:
    """Raises a UserError if the folder belongs to something else than a comparison."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--workdir {folder} is a file; choose a folder.")
    try:
        ours = files.read_object(folder / MARKER)["format"] == _FORMAT
    except FileNotFoundError:
        # A comparison that was killed in its first moment leaves these; anyone may take them.
        names = [p.name for p in folder.iterdir()] if folder.exists() else []
        rest = [name for name in names if name not in (CELLS, LOCK)]
        ours = all(files.is_temporary_of(name, folder / MARKER) for name in rest)
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise UserError(
            f"--workdir {folder} holds files that are not a comparison's (no valid {MARKER}); "
            f"choose a new or empty folder."
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A context in which this process alone works on a comparison, whose folder it makes.

    Raises:
      UserError: if another process does, or the folder cannot be written.
    """
    with files.disk_errors_as_user_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = locks.take(folder / LOCK)
    except locks.LockHeldElsewhere as e:
        raise UserError(
            f"Another comparison is at work in {folder}; wait for it or choose another --workdir."
        ) from e
    with lock:
        yield


def mark(folder: Path, cells: Sequence[Cell], command: str) -> None:
    """Marks a folder as a comparison's and records its cells."""
    with files.disk_errors_as_user_errors(folder):
        (folder / CELLS).mkdir(parents=True, exist_ok=True)
    listed = [{"name": c.name, "method": c.method, "ipc": c.recipe.ipc} for c in cells]
    files.clear_leftovers(folder / MARKER)
    files.write_json(folder / MARKER, {"format": _FORMAT, "command": command, "cells": listed})


def describe(cells: Sequence[Cell]) -> list[str]:
    """The grid and its cost as lines of text; touches nothing."""
    body, teachers = [], set[str]()
    for cell in cells:
        r, source = cell.recipe, cell.source
        rows = [row for row in rows_of(r, r.ipc) if row.image_set != "full"]
        trained = len(rows) * r.evaluate.seeds * max(1, len(r.evaluate.learning_rates))
        body.append((cell.name, *_paid(r, source), str(trained), cell.state()[1]))
        if r.needs_teacher:
            teachers.update(map(identity, squeeze.parts(r, source).values()))
    head = ("cell", "image-iterations", "of full", "students", "state")
    return [
        f"Grid of {len(cells)} cells, {len(teachers)} different teacher(s), each made once",
        *tables.markdown(tables.Table(head, body)),
        "Equal baselines of several cells are trained once. More about a cell, and its hours:",
        f"  {cells[0].arguments.command} --dry_run",
    ]


def _paid(recipe: Recipe, source: Source) -> tuple[str, str]:
    """Image-iterations of a cell, and their share of full optimisation, which learned sets lack."""
    count = len(source.class_names)
    if recipe.synthesis == "learn":
        return f"{(recipe.learn.steps or 0) * count * recipe.ipc:,}", "-"
    paid = schedule.cost(recover.schedule_of(recipe, count), recipe.recover.iterations)
    return f"{paid.image_iterations:,}", f"{100 * paid.fraction:.2f} %"


def write(folder: Path, cells: Sequence[Cell]) -> None:
    """Writes tables, figures and the page of all finished cells; every file appears as a whole."""
    finished = [cell for cell in cells if not cell.state()[0]]
    if not finished:
        return
    missing = [cell.name for cell in cells if cell not in finished]
    sources = {cell.source.fingerprint: cell.source for cell in finished}
    real = {name: sizes.of_real_images(source) for name, source in sources.items()}
    results = [
        comparison_tables.read(cell.folder.path, cell.method, real[cell.source.fingerprint])
        for cell in finished
    ]
    verdict = comparison_verdict.sentences(results)
    charts, images = comparison_charts.of_cells(results), compared_images(finished)
    page = comparison_page.page(results, missing, verdict, charts, list(images.values()))
    parts = comparison_tables.sections(results, missing)
    with files.replacing_folder(folder / FIGURES) as drawn:
        for name, chart in charts.items():
            files.write_bytes(drawn / f"{name}.svg", svg.as_file(chart))
        for name, group in images.items():
            sheet = comparison_figures.side_by_side(group.rows, group.class_names)
            files.write_bytes(drawn / f"{name}.png", sheet)
    files.write_bytes(
        folder / "comparison.md", comparison_tables.as_markdown(verdict, parts).encode()
    )
    files.write_bytes(folder / "comparison.csv", comparison_tables.as_csv(results))
    files.write_bytes(folder / "comparison.html", page.encode())


def compared_images(cells: Sequence[Cell]) -> dict[str, ComparedImages]:
    """By the name of its sheet, for each IPC and data set: the same classes of all methods."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.recipe.ipc, cell.source.fingerprint), []).append(cell)
    found: dict[str, ComparedImages] = {}
    for (ipc, _), members in sorted(groups.items(), key=lambda group: group[0][0]):
        recipe, source = members[0].recipe, members[0].source
        num_classes = len(source.class_names)
        num_shown = min(SHEET_CLASSES, num_classes)
        ranks = np.unique(np.linspace(0, ipc - 1, min(_SHOWN, ipc)).astype(int))
        indices = (np.arange(num_shown)[:, None] * ipc + ranks).reshape(-1)
        rows = {}
        if len(source.train):
            drawn = random_images(source.train.labels, ipc, num_classes, recipe.seed)
            rows["real"] = read(source.train, drawn[:num_shown, : len(ranks)].reshape(-1))
        for cell in members:
            rows[cell.method] = distilled.read_images(cell.folder.path / "distilled", indices)
        rows = {
            name: images.reshape(num_shown, len(ranks), *images.shape[1:])
            for name, images in rows.items()
        }
        name = f"sheet_ipc{ipc}"
        if name in found:  # of other data
            name = f"sheet_ipc{ipc}_{folder_of(members[0].method)}"
        found[name] = ComparedImages(ipc, in_words(source.class_names[:num_shown]), rows)
    return found
