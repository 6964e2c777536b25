"""What the functions of `delt_jax` do: runs, comparisons and exports for programs and notebooks.

The commands do the same work. Here no flags are read, and nothing ends the process.
"""

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import ml_collections

from delt_jax import formats
from delt_jax.comparison import runner
from delt_jax.comparison.runner import CompareOptions
from delt_jax.config import overrides as overrides_lib
from delt_jax.config import paths, reading
from delt_jax.config.arguments import command_line
from delt_jax.core import stopping
from delt_jax.errors import UserError
from delt_jax.formats import conversion
from delt_jax.formats.conversion import ExportOptions
from delt_jax.formats.distilled import DistilledSet
from delt_jax.runtime import environment, host_memory
from delt_jax.store import remote

if TYPE_CHECKING:
    from delt_jax.evaluation.metrics import ScoreRow

_ARGUMENTS = {"ipc": "ipc", "evaluate.seeds": "seeds"}  # settings that a comparison has apart


@dataclass(frozen=True)
class RunResult:
    """A work directory after a run.

    A stage counts as done if what it has made belongs to the settings of the run. What earlier
    runs with other settings have left in the folder is in none of the fields.

    Attributes:
      workdir: the folder, absolute.
      distilled: folder of the distilled set, also of an imported one; None if the stage that makes
        it, recover or learn, is not done.
      report: the page; None if the report stage is not done.
      pictures: files of the report by name: PNG of images ("sheet"), SVG of charts ("losses").
      scores: a row for each student, kind of labels, set and number of images per class, with
        means and standard deviations over seeds; empty if the evaluate stage is not done.
      manifests: of the stages that are done, by the stage's name. An imported set's is that of the
        stage that would have made it.
    """

    workdir: Path
    distilled: Path | None
    report: Path | None
    pictures: Mapping[str, Path] = field(repr=False)
    scores: tuple["ScoreRow", ...] = field(repr=False)
    manifests: Mapping[str, Mapping[str, Any]] = field(repr=False)

    def load(self) -> DistilledSet:
        """The distilled set, as `delt_jax.load` returns it.

        Raises:
          UserError: if there is none of these settings.
        """
        if self.distilled is None:
            raise UserError(
                f"{self.workdir} has no distilled set of these settings; run the recover or "
                f"learn stage."
            )
        return formats.load(self.workdir)

    def __str__(self) -> str:
        """The table of scores, as the command prints it at its end."""
        return _table(self.scores, self.workdir, self._scored_on)

    def _repr_markdown_(self) -> str:
        """The table, for a notebook."""
        return str(self)

    @property
    def _scored_on(self) -> str:
        return self.manifests.get("evaluate", {}).get("scored_on", "")


@dataclass(frozen=True)
class ComparisonResult:
    """A comparison's folder after its cells have run.

    Attributes:
      workdir: the folder, absolute.
      report: page of tables, charts and images; None if no cell is finished.
      cells: work directories of the finished cells by name, such as "digits-cda-ipc10".
      failed: names of the cells that failed.
      scores: rows of all finished cells; `image_set` is the recipe's name, or that of a baseline.
    """

    workdir: Path
    report: Path | None
    cells: Mapping[str, Path] = field(repr=False)
    failed: tuple[str, ...]
    scores: tuple["ScoreRow", ...] = field(repr=False)

    def load(self, cell: str) -> DistilledSet:
        """The distilled set of a finished cell.

        Raises:
          UserError: if there is no such cell.
        """
        if cell not in self.cells:
            raise UserError(
                f"There is no finished cell {cell!r}; there are {', '.join(self.cells) or 'none'}."
            )
        return formats.load(self.cells[cell])

    def __str__(self) -> str:
        """The table of scores."""
        return _table(self.scores, self.workdir)

    def _repr_markdown_(self) -> str:
        """The table, for a notebook."""
        return str(self)


def _table(scores: Sequence["ScoreRow"], workdir: Path, scored_on: str = "") -> str:
    from delt_jax.reporting import tables

    if not scores:
        return f"no scores in {workdir}"
    return "\n".join(tables.last_lines(scores, *([scored_on] if scored_on else [])))


@contextlib.contextmanager
def _around() -> Iterator[None]:
    """What commands do around their work, as far as it is right within somebody's program."""
    host_memory.keep_freed()
    with stopping.borrowing():
        environment.import_jax()
        from delt_jax.runtime import compile_cache

        compile_cache.free_many()
        yield


def run(  # noqa: PLR0913 (`delt_jax.run` explains the arguments)
    config: ml_collections.ConfigDict | str | os.PathLike,
    workdir: str | os.PathLike,
    overrides: Mapping[str, Any],
    stages: Sequence[str],
    dry_run: bool,
    verify: bool,
    mirror: str,
) -> RunResult:
    """As `delt_jax.run`."""
    names = stages.split(",") if isinstance(stages, str) else list(stages)
    folder = os.fspath(workdir)
    if not folder:
        raise UserError("workdir is empty; name a folder, such as runs/digits.")
    recipe, command = _recipe(config, overrides), ""
    if not isinstance(config, ml_collections.ConfigDict) and None not in overrides.values():
        command = _command(os.fspath(config), folder, overrides, names, verify)
    with _around():
        from delt_jax.stages import run as run_lib

        made = run_lib.run(
            recipe, folder, names, dry_run, command=command, verify=verify, mirror=mirror
        )
    return _result(Path(paths.expand_workdir(folder, "workdir")).absolute(), made)


def _recipe(
    config: ml_collections.ConfigDict | str | os.PathLike, overrides: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """The settings that are asked for, as a config of this call's own."""
    if isinstance(config, str | os.PathLike):
        config = reading.read(os.fspath(config))
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"config is a recipe's name, a path or a ConfigDict, not {type(config).__name__}."
        )
    return overrides_lib.apply(config, overrides)


def _command(
    config: str,
    workdir: str,
    overrides: Mapping[str, Any],
    stages: Sequence[str],
    verify: bool,
) -> str:
    """The command line that does the same, which a report prints beside its results."""
    flags = [f"--config={reading.with_home(config)}", f"--workdir={workdir}"]
    flags += [f"--stages={','.join(stages)}"] if stages else []
    flags += ["--verify"] if verify else []
    return command_line([*flags, *overrides_lib.as_flags(overrides)])


def _result(workdir: Path, made: Mapping[str, Mapping[str, Any]]) -> RunResult:
    from delt_jax.evaluation.metrics import ScoreRow

    report = workdir / "report"
    listed = sorted(report.iterdir()) if "report" in made else []
    pictures = [path for path in listed if path.suffix in (".png", ".svg")]
    rows = made["evaluate"]["rows"] if "evaluate" in made else []
    return RunResult(
        workdir,
        workdir / "distilled" if {"recover", "learn"} & made.keys() else None,
        report / "report.html" if "report" in made else None,
        MappingProxyType({path.stem: path for path in pictures}),
        tuple(ScoreRow.from_dict(row) for row in rows),
        MappingProxyType(dict(made)),
    )


def compare_runs(  # noqa: PLR0913 (`delt_jax.compare_runs` explains the arguments)
    configs: Sequence[str | os.PathLike],
    workdir: str | os.PathLike,
    ipc: int | Sequence[int],
    seeds: int,
    overrides: Mapping[str, Any],
    dry_run: bool,
    keep_going: bool,
    mirror: str,
) -> ComparisonResult:
    """As `delt_jax.compare_runs`."""
    names = [configs] if isinstance(configs, str | os.PathLike) else list(configs)
    if not names:
        raise UserError("configs is empty; name one recipe or more.")
    for name, argument in _ARGUMENTS.items():
        if name in overrides:
            raise UserError(f"{name} is the argument {argument} here, the same for all recipes.")
    own = {"evaluate.seeds": seeds} if seeds else {}
    settings = overrides_lib.as_flags({**own, **overrides})
    recipe_names = tuple(reading.with_home(os.fspath(name)) for name in names)
    folder = Path(paths.expand_workdir(os.fspath(workdir), "workdir"))
    ipcs = _ipcs(ipc)
    flags = [f"--configs={','.join(recipe_names)}", f"--ipc={','.join(map(str, ipcs))}"]
    command = ["python", "-m", "delt_jax.compare", *flags, f"--workdir={folder}", *settings]
    options = CompareOptions(
        recipe_names,
        ipcs,
        folder,
        tuple(settings),
        dry_run,
        keep_going,
        shlex.join(command),
        paths.expand_mirror(mirror),
    )
    with _around():
        outcome = runner.run(options)
        return _comparison(folder.absolute(), outcome)


def _ipcs(ipc: int | Sequence[int]) -> tuple[int, ...]:
    """Numbers of images per class, each once; 0 stands for a recipe's own."""
    numbers = (ipc,) if isinstance(ipc, int) else tuple(ipc)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise UserError(f"ipc is a whole number or several, such as (1, 10, 50), not {ipc!r}.")
    return tuple(dict.fromkeys(numbers)) or (0,)


def _comparison(folder: Path, outcome: runner.Compared) -> ComparisonResult:
    from delt_jax.comparison import tables

    finished = [cell for cell in outcome.cells if not cell.state()[0]]
    read = [tables.read(cell.folder.path, cell.method) for cell in finished]
    page = folder / "comparison.html"
    return ComparisonResult(
        folder,
        page if finished and page.exists() else None,
        MappingProxyType({cell.name: cell.folder.path for cell in finished}),
        tuple(outcome.failed),
        tuple(line.row for line in tables.lines(read)),
    )


def _place(path: str | os.PathLike, what: str) -> Path:
    """A path on this machine or in an object store."""
    return remote.path_of(paths.expand(os.fspath(path), what))


def export_set(source: str | os.PathLike, to: str, out: str | os.PathLike, **how: Any) -> Path:
    """As `delt_jax.export_set`; `how` holds its other arguments."""
    place = _place(source, "The path")
    conversion.check_layout(to, how["quality"], how["size"])
    target = _place(out, "--out") if out else None
    names = how.pop("class_names")
    is_file = isinstance(names, str | os.PathLike)
    names = _place(names, "--class_names") if is_file else tuple(names)
    space = how.pop("preprocessing")
    how["preprocessing"] = _place(space, "--preprocessing") if space else None
    options = ExportOptions(
        place, to, target or conversion.default_out(place, to), class_names=names, **how
    )
    with stopping.borrowing():
        conversion.run(options)
    return options.out
