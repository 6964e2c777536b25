"""Runs a config: opens data and work directory, then calls the pipeline."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_collections

import delt_jax
from delt_jax import recipe as recipe_lib
from delt_jax.config import from_config, paths
from delt_jax.config.arguments import Arguments, ProcessFlags
from delt_jax.core import stopping
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe, Recipe

if TYPE_CHECKING:
    from delt_jax.data import Source
    from delt_jax.stages.mirroring import Mirror
    from delt_jax.store.workdir import WorkDir

_ALONE = ProcessFlags()
_SECONDS_TO_SEE = 20  # a file that another host has just written
# What hosts may have differently without a difference in results.
_OF_A_HOST = ("data.path", "data.workers", "data.memory_mib")


def run(  # noqa: PLR0913 (the flags of the command line; callers name them)
    config: ml_collections.ConfigDict,
    workdir: str,
    stages: Sequence[str] = (),
    dry_run: bool = False,
    job: ProcessFlags = _ALONE,
    command: str = "",
    verify: bool = False,
    mirror: str = "",
) -> dict[str, dict[str, Any]]:
    """Runs or plans the stages of a config, alone or as one process of a job.

    Args:
      config: settings, as `default_config` has them.
      workdir: folder of the run.
      stages: names of the stages to run; all if empty.
      dry_run: print the plan and write nothing.
      job: flags of a job of several processes.
      command: command line that makes the run, printed beside its results.
      verify: read and check every file that earlier runs have made.
      mirror: URL in an object store where finished work is copied, after each stage and at the end.

    Returns:
      Manifests of the stages that are done with these settings, by name.

    Raises:
      UserError: for settings, data or folders that cannot work, before anything is written.
      Stopped: at a safe point after SIGTERM or Ctrl-C; a KeyboardInterrupt.
    """
    # Imported here so that a mistyped flag is answered at once.
    from delt_jax.runtime import environment

    environment.import_jax()
    from delt_jax.runtime import numerics

    with stopping.listening(), numerics.fixed():
        return _run(Arguments(config, workdir, list(stages), dry_run, job, command, verify, mirror))


def _run(asked: Arguments) -> dict[str, dict[str, Any]]:
    from delt_jax.config import derive, origins
    from delt_jax.runtime import compile_cache, environment
    from delt_jax.runtime import processes as hosts
    from delt_jax.stages import checks, finished, pipeline, plan, room
    from delt_jax.stages.mirroring import Mirror
    from delt_jax.store import local_copies
    from delt_jax.store.workdir import WorkDir

    local_copies.forget()
    recipe, stages = from_config(asked.config), asked.stages
    compile_cache.use()
    hosts.start(*asked.job)
    environment.check_devices()
    folder = WorkDir(paths.expand_workdir(asked.workdir), asked.command)
    folder.check()
    mirror = Mirror(folder.path, paths.expand_mirror(asked.mirror))
    mirror.check()
    pipeline.chosen(stages, recipe, folder)
    source = open_data(recipe.data, folder.path / "cache", asked.dry_run)
    recipe, derived = derive.complete(recipe, source)
    checks.check(recipe, source, stages)
    checks.check_imported(stages, recipe, source, folder)
    checks.check_places(recipe, source, folder, stages)
    scarce = room.check(recipe, source, folder, stages)
    source = _agreed(asked, recipe, source)
    if not asked.dry_run:
        _run_stages(recipe, source, folder, asked, [*derived, *scarce], mirror)
    elif hosts.is_first():
        whose = origins.lines(asked.command, recipe)
        lines = plan.describe(recipe, source, folder, stages, asked.verify)
        print("\n".join([*whose, *lines, *source.notes, *derived, *scarce]))
    return finished.done(recipe, source, folder) if hosts.is_first() else {}


def _agreed(asked: Arguments, recipe: Recipe, source: "Source") -> "Source":
    """The data with process 0's fingerprint, once all processes of a job have the same ones.

    Process 0's may contain times of files, by which it notices changes; others have other times.

    Raises:
      UserError: saying in what the processes differ.
    """
    from delt_jax.runtime import devices
    from delt_jax.runtime import processes as hosts
    from delt_jax.store import part_sources

    settings = recipe_lib.flatten(recipe)
    hosts.agree(
        {
            **{f"config.{k}": str(v) for k, v in settings.items() if k not in _OF_A_HOST},
            "--stages": ",".join(asked.stages) or "all",
            "--verify": str(asked.verify),
            "--dry_run": str(asked.dry_run),
            "the version of JAX": version("jax"),
            "the version of delt_jax": f"{delt_jax.__version__} ({part_sources.package()})",
            "the plug-ins": str(part_sources.of_plugins()),
            "the kind of device": devices.kind(),
            "the number of devices": str(devices.device_count()),
            "the number of classes": str(len(source.class_names)),
            "the number of training images": str(len(source.train)),
            "the number of test images": str(len(source.test)),
            "the hash of the data": source.content or source.fingerprint,
        }
    )
    return replace(source, fingerprint=hosts.broadcast(source.fingerprint))


def _run_stages(
    recipe: Recipe,
    source: "Source",
    folder: "WorkDir",
    asked: Arguments,
    notes: Sequence[str],
    mirror: "Mirror",
) -> None:
    """Runs the stages in every process of a job; process 0 alone has the lock and the log."""
    from delt_jax import data
    from delt_jax.core.progress import say
    from delt_jax.runtime import processes as hosts
    from delt_jax.runtime import programs
    from delt_jax.stages import pipeline

    cache, memory = folder.path / "cache", recipe.data.memory_mib
    failed = True
    try:
        if hosts.is_first():
            folder.open(recipe)
        if hosts.count() > 1:
            _check_shared(folder)
        with hosts.first_alone("its images to be decoded"):
            folder.refresh()
            # What process 0 has found is named by its own times, and so is not found elsewhere.
            found = source if hosts.is_first() else replace(source, found={})
            source = data.cache_in_memory(found, memory, cache)
            if hosts.count() > 1 and hosts.is_first():
                data.decode(source)
        source = data.put_on_device(source, data.device_budget())
        for note in (*source.notes, *notes):
            say(note)
        pipeline.run(recipe, source, folder, asked.stages, asked.verify, mirror.follow)
        if hosts.is_first():
            mirror.finish()
        failed = False
    finally:
        programs.cancel()
        folder.close(failed)


def _check_shared(folder: "WorkDir") -> None:
    """Raises a UserError unless the work directory is the same folder for all processes."""
    from delt_jax.runtime import processes as hosts

    token = hosts.broadcast(secrets.token_hex(8))
    if hosts.is_first():
        folder.mark(token)
    hosts.barrier("its work directory")
    folder.refresh()
    if not folder.wait_to_see(lambda: folder.is_marked(token), _SECONDS_TO_SEE):
        raise UserError(
            f"--workdir {folder.path} of process {hosts.index()} is not that of process 0; "
            f"name a folder on a file system that all processes share."
        )
    hosts.barrier("its work directory")
    if hosts.is_first():
        folder.unmark(token)


def open_data(recipe: DataRecipe, cache: Path, dry_run: bool) -> "Source":
    """Opens the data; in a dry run published numbers stand in for missing data.

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
        return replace(described, notes=(f"planned from published numbers: {e}",))
