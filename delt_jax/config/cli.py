"""Parses the command line, and turns each mistake in it into one sentence."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from delt_jax.config import nearest, paths, sentences
from delt_jax.errors import UserError
from delt_jax.recipe import SETTINGS

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, e.g. configs/digits.py.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder that holds everything the run makes.")
_STAGES = flags.DEFINE_list(
    "stages",
    [],
    "Stages to run, of squeeze,rank,recover,relabel,evaluate,report; default all.",
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the plan and its cost; touch nothing.")
_VERIFY = flags.DEFINE_bool(
    "verify", False, "Read and check every file that earlier runs have made, not only its size."
)
_MIRROR = flags.DEFINE_string(
    "mirror", "", "Place in an object store, e.g. gs://BUCKET/run, where finished work is copied."
)
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "off",
    ["off", "auto"],
    "auto: one of several processes that share --workdir, as SLURM, TPU pods, GKE or Open MPI "
    "started them.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0, if not using --distributed=auto."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process, from 0.", 0)


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


def parse(arguments: Sequence[str]) -> Arguments:
    """Parses the command line, program name first.

    Raises:
      UserError: one sentence about the first thing that is wrong.
    """
    app.define_help_flags()
    arguments = [_with_home(argument) for argument in arguments]
    _check_overrides(arguments)
    _check_file(arguments)
    try:
        rest = _parse_flags(arguments)
    except (Exception, SystemExit) as e:  # flags and config files raise many types
        if isinstance(e, SystemExit) and not sentences.place(e):
            raise  # of --help
        raise UserError(sentences.sentence(e)) from e
    if len(rest) > 1:
        raise UserError(f"Unexpected argument {rest[1]!r}; options begin with --.")
    config = _load_config()
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; try --workdir=runs/digits.")
    workdir = paths.expand_workdir(_WORKDIR.value)
    mirror = paths.expand_mirror(_MIRROR.value)
    command = shlex.join(["python", "-m", "delt_jax.main", *arguments[1:]])
    job, verify = _job(), _VERIFY.value
    return Arguments(config, workdir, _STAGES.value, _DRY_RUN.value, job, command, verify, mirror)


def _job() -> ProcessFlags:
    """Reads the flags about other processes, which come all together or not at all."""
    job = ProcessFlags(
        _DISTRIBUTED.value == "auto", _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
    by_hand = [value is not None for value in job[1:]]
    if job.auto and any(by_hand):
        raise UserError(
            "--distributed=auto finds the processes itself; leave out --coordinator_address, "
            "--num_processes and --process_id."
        )
    if any(by_hand) and not all(by_hand):
        raise UserError(
            "--coordinator_address, --num_processes and --process_id belong together; give all "
            "three or none."
        )
    if job.process is not None and job.process >= (job.processes or 0):
        raise UserError(
            f"--process_id counts from 0, so it is below --num_processes ({job.processes}), not "
            f"{job.process}."
        )
    return job


def _parse_flags(arguments: Sequence[str]) -> list[str]:
    """Parses the flags and returns the other arguments.

    absl keeps flags in globals, so this first removes what an earlier call in this process left.
    """
    flags.FLAGS.unparse_flags()
    for name in [n for n in flags.FLAGS if n.startswith("config.")]:
        delattr(flags.FLAGS, name)
    # ml_collections looks for overrides of --config in sys.argv.
    original, sys.argv = sys.argv, list(arguments)
    try:
        return flags.FLAGS(sys.argv)
    finally:
        sys.argv = original


def _with_home(argument: str) -> str:
    """An argument whose --config file, if it is one, has its `~` expanded."""
    match = re.fullmatch(r"(--?config=)(.*)", argument, re.DOTALL)
    return match[1] + paths.expand_recipe(match[2], "--config") if match else argument


def _check_overrides(arguments: Sequence[str]) -> None:
    """Raises a UserError for a misspelt --config.NAME, or one that comes too late there."""
    known = list(SETTINGS)
    for argument in arguments:
        match = re.match(r"--?config\.([^=]*)", argument)
        if match and match[1] not in known:
            raise UserError(f"There is no setting {match[1]}{nearest(match[1], known)}")
        if match and match[1] == "data.known_as":
            raise UserError(
                "data.known_as comes too late on the command line, as methods have read it; set it "
                "in a recipe."
            )


def _check_file(arguments: Sequence[str]) -> None:
    """Raises a UserError if the --config file is missing, which overrides of it would hide."""
    for argument in arguments:
        match = re.match(r"--?config=([^:]*)", argument)
        if match and not os.path.isfile(match[1]):
            raise UserError(
                f"--config={match[1]}: there is no such file; configs/ has the recipes."
            )


def _load_config() -> ml_collections.ConfigDict:
    """Returns the ConfigDict of --config, or raises a UserError that says why there is none."""
    config = _CONFIG.value
    if config is None:
        raise UserError("--config is missing; try --config=configs/digits.py.")
    try:
        config.keys()  # a config that could not be read raises at the first touch
    except OSError as e:
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        raise UserError(f"--config={path}: {e.__cause__}; configs/ has the recipes.") from e
    except Exception as e:
        raise UserError("get_config() in the --config file returned no ConfigDict.") from e
    return config
