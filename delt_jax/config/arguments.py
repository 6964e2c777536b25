"""A run as it is asked for: by a command line, by a cell of a comparison, or by a program."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections

from delt_jax.config import overrides, paths, reading


class ProcessFlags(NamedTuple):
    """The flags that say which processes work together; by default a process works alone."""

    auto: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


class Arguments(NamedTuple):
    """The parsed command line; `command` is the line itself, to be noted beside results."""

    config: ml_collections.ConfigDict
    workdir: str
    stages: list[str]
    dry_run: bool
    job: ProcessFlags
    command: str
    verify: bool = False
    mirror: str = ""


def command_line(flags: Sequence[str]) -> str:
    """The command that makes a run, to be noted beside its results."""
    return shlex.join(["python", "-m", "delt_jax.main", *flags])


def of_a_recipe(config: str, workdir: str, flags: Sequence[str] = ()) -> Arguments:
    """What a command line with these values would ask for; touches no flags of the process.

    Args:
      config: a recipe, as --config takes it.
      workdir: folder of the run.
      flags: settings as the command line has them, --config.NAME=VALUE.

    Raises:
      UserError: one sentence about the first thing that is wrong.
    """
    config = reading.with_home(config)
    read = overrides.parse(reading.read(config), flags)
    line = command_line([f"--config={config}", f"--workdir={workdir}", *flags])
    return Arguments(read, paths.expand_workdir(workdir), [], False, ProcessFlags(), line)
