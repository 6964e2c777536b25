"""Runs a config: opens data and work directory, then calls the pipeline."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import ml_collections

from delt_jax.config import cli, from_config
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe

if TYPE_CHECKING:
    from delt_jax.data import Source

_ALONE = cli.ProcessFlags()
_SECONDS_TO_LEAVE = 30


def run(
    config: ml_collections.ConfigDict,
    workdir: str,
    stages: Sequence[str] = (),
    dry_run: bool = False,
    job: cli.ProcessFlags = _ALONE,
    command: str = "",
) -> None:
    """Runs or plans the stages of a config, alone or as one process of a job.

    Args:
      config: settings, as `default_config` has them.
      workdir: folder of the run.
      stages: names of the stages to run; all if empty.
      dry_run: print the plan and write nothing.
      job: flags of a job of several processes.
      command: command line that makes the run, printed beside its results.

    Raises:
      UserError: for settings, data or folders that cannot work, before anything is written.
    """
    # Imported here so that a mistyped flag is answered at once.
    from delt_jax import data
    from delt_jax.config import derive
    from delt_jax.core.progress import say
    from delt_jax.runtime import compile_cache
    from delt_jax.runtime import processes as hosts
    from delt_jax.stages import pipeline, plan
    from delt_jax.store.workdir import WorkDir

    settings = from_config(config)
    compile_cache.use()
    hosts.start(*job)
    folder = WorkDir(workdir, command)
    folder.check()
    pipeline.chosen(stages, settings, folder)
    cache = folder.path / "cache"
    source = open_data(settings.data, cache, dry_run)
    settings, derived = derive.complete(settings, source)
    pipeline.check(settings, source)
    pipeline.check_imported(stages, settings, source, folder)
    notes = [*source.notes, *derived]
    if dry_run:
        print("\n".join([*plan.describe(settings, source, folder, stages), *notes]))
        return
    if hosts.index():
        hosts.wait_until(lambda: folder.is_begun(settings))
        folder.join(hosts.index())
        try:
            pipeline.assist(settings, source, folder, stages)
        finally:
            hosts.leave()
            folder.close()  # only now, as the first process waits for it before it ends
        return
    folder.open(settings)
    try:
        source = data.cache_in_memory(source, settings.data.memory_mib, cache)
        source = data.put_on_device(source, data.device_budget())
        for note in notes:
            say(note)
        pipeline.run(settings, source, folder, stages)
        # The first process takes the others with it when it ends.
        others = range(1, hosts.count())
        hosts.wait_until(lambda: not any(map(folder.is_joined, others)), _SECONDS_TO_LEAVE)
    finally:
        folder.close()


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
