"""Runs a config: opens data and work directory, then calls the pipeline."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import ml_collections

from delt_jax.config import cli, from_config, paths
from delt_jax.core import stopping
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe, Recipe

if TYPE_CHECKING:
    from delt_jax.data import Source
    from delt_jax.store.workdir import WorkDir

_ALONE = cli.ProcessFlags()
_SECONDS_TO_LEAVE = 30


def run(  # noqa: PLR0913 (the flags of the command line; callers name them)
    config: ml_collections.ConfigDict,
    workdir: str,
    stages: Sequence[str] = (),
    dry_run: bool = False,
    job: cli.ProcessFlags = _ALONE,
    command: str = "",
    verify: bool = False,
) -> None:
    """Runs or plans the stages of a config, alone or as one process of a job.

    Args:
      config: settings, as `default_config` has them.
      workdir: folder of the run.
      stages: names of the stages to run; all if empty.
      dry_run: print the plan and write nothing.
      job: flags of a job of several processes.
      command: command line that makes the run, printed beside its results.
      verify: read and check every file that earlier runs have made.

    Raises:
      UserError: for settings, data or folders that cannot work, before anything is written.
      Stopped: at a safe point after SIGTERM or Ctrl-C; a KeyboardInterrupt.
    """
    # Imported here so that a mistyped flag is answered at once.
    from delt_jax.runtime import environment

    environment.import_jax()
    from delt_jax.runtime import numerics

    with stopping.listening(), numerics.fixed():
        _run(cli.Arguments(config, workdir, list(stages), dry_run, job, command, verify))


def _run(asked: cli.Arguments) -> None:
    from delt_jax.config import derive
    from delt_jax.runtime import compile_cache, environment
    from delt_jax.runtime import processes as hosts
    from delt_jax.stages import checks, pipeline, plan, room
    from delt_jax.store.workdir import WorkDir

    recipe, stages = from_config(asked.config), asked.stages
    compile_cache.use()
    hosts.start(*asked.job)
    environment.check_devices()
    folder = WorkDir(paths.expand(asked.workdir, "--workdir"), asked.command)
    folder.check()
    pipeline.chosen(stages, recipe, folder)
    source = open_data(recipe.data, folder.path / "cache", asked.dry_run)
    recipe, derived = derive.complete(recipe, source)
    checks.check(recipe, source, stages)
    checks.check_imported(stages, recipe, source, folder)
    checks.check_places(recipe, source, folder, stages)
    scarce = room.check(recipe, source, folder, stages)
    if asked.dry_run:
        lines = plan.describe(recipe, source, folder, stages, asked.verify)
        print("\n".join([*lines, *source.notes, *derived, *scarce]))
    elif hosts.index():
        _run_beside(recipe, source, folder, stages)
    else:
        _run_first(recipe, source, folder, stages, [*derived, *scarce], asked.verify)


def _run_first(
    recipe: Recipe,
    source: "Source",
    folder: "WorkDir",
    stages: Sequence[str],
    notes: Sequence[str],
    verify: bool,
) -> None:
    """Runs the stages in the first process of a job, or the only one."""
    from delt_jax import data
    from delt_jax.core.progress import say
    from delt_jax.runtime import processes as hosts
    from delt_jax.stages import pipeline

    folder.open(recipe)
    try:
        source = data.cache_in_memory(source, recipe.data.memory_mib, folder.path / "cache")
        source = data.put_on_device(source, data.device_budget())
        for note in (*source.notes, *notes):
            say(note)
        pipeline.run(recipe, source, folder, stages, verify)
        # The other processes cannot go on without the first, so it waits for them before it ends.
        others = range(1, hosts.count())
        hosts.wait_until(lambda: not any(map(folder.is_joined, others)), _SECONDS_TO_LEAVE)
    finally:
        folder.close()


def _run_beside(recipe: Recipe, source: "Source", folder: "WorkDir", stages: Sequence[str]) -> None:
    """Helps the first process of a job from another one."""
    from delt_jax.runtime import processes as hosts
    from delt_jax.stages import pipeline

    hosts.wait_until(lambda: folder.is_begun(recipe))
    folder.join(hosts.index())
    try:
        pipeline.assist(recipe, source, folder, stages)
    finally:
        hosts.leave()
        folder.close()  # last, because the first process waits for this before it ends


def open_data(recipe: DataRecipe, cache: Path, dry_run: bool) -> "Source":
    """Opens the data; in a dry run published counts stand in for missing data.

    Raises:
      UserError: if they are missing, damaged or do not fit the recipe.
    """
    from delt_jax import data

    try:
        return data.open_source(recipe, cache)
    except UserError as e:
        described = data.describe_source(recipe) if dry_run else None
        if described is None:
            raise
        return replace(described, notes=(f"planned from published counts: {e}",))
