"""Parses the command line, and turns each mistake in it into one sentence."""

import re
import sys
from collections.abc import Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from delt_jax.config import overrides, paths, recipes, sentences, usage
from delt_jax.config.arguments import Arguments, ProcessFlags, command_line
from delt_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, e.g. digits or mine.py.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder that holds everything the run makes.")
_STAGES = flags.DEFINE_list(
    "stages",
    [],
    "Stages to run, of squeeze,rank,recover,experts,learn,relabel,evaluate,report; default all.",
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


def parse(arguments: Sequence[str]) -> Arguments:
    """Parses the command line, program name first.

    Raises:
      UserError: one sentence about the first thing that is wrong.
      SystemExit: for --help and --version.
    """
    usage.answer(arguments, help_page)
    arguments = [_with_home(argument) for argument in _in_one_word(arguments)]
    _check_overrides(arguments)
    try:
        rest = _parse_flags([overrides.quoted(_with_file(argument)) for argument in arguments])
    except UserError:
        raise
    except (Exception, SystemExit) as e:  # flags and config files raise many types
        raise UserError(sentences.sentence(e)) from e
    if len(rest) > 1:
        raise UserError(f"Unexpected argument {rest[1]!r}; options begin with --.")
    config = _load_config()
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; try --workdir=runs/digits.")
    workdir = paths.expand_workdir(_WORKDIR.value)
    mirror = paths.expand_mirror(_MIRROR.value)
    command, verify = command_line(arguments[1:]), _VERIFY.value
    job, stages = _job(), _STAGES.value
    return Arguments(config, workdir, stages, _DRY_RUN.value, job, command, verify, mirror)


def help_page(about: str = "") -> str:
    """The help of a run, as `usage.of_run` writes it."""
    named = flags.FLAGS.flags_by_module_dict()[__name__]
    return usage.of_run(about, [f for f in named if not f.name.startswith("config.")])


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


def _in_one_word(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--config X` written as `--config=X`."""
    found: list[str] = []
    for argument in arguments:
        if found and re.fullmatch("--?config", found[-1]):
            found[-1] += f"={argument}"
        else:
            found.append(argument)
    return found


def _with_home(argument: str) -> str:
    """An argument whose --config file, if it is one, has its `~` expanded."""
    match = re.fullmatch(r"(--?config=)(.*)", argument, re.DOTALL)
    return match[1] + paths.expand_recipe(match[2], "--config") if match else argument


def _with_file(argument: str) -> str:
    """An argument whose --config, if it is one, has the recipe's file in place of its name."""
    match = re.fullmatch(r"(--?config=)([^:]*)(.*)", argument, re.DOTALL)
    return match[1] + recipes.find(match[2]) + match[3] if match else argument


def _check_overrides(arguments: Sequence[str]) -> None:
    """Raises a UserError for a misspelt --config.NAME, or one that comes too late there."""
    for argument in arguments:
        match = re.match(r"--?config\.([^=]*)", argument)
        if match:
            overrides.check_name(match[1])


def _load_config() -> ml_collections.ConfigDict:
    """Returns the ConfigDict of --config, or raises a UserError that says why there is none."""
    config = _CONFIG.value
    if config is None:
        raise UserError(f"--config is missing; try --config=digits, or a path; {recipes.LISTED}.")
    try:
        config.keys()  # a config that could not be read raises at the first touch
    except OSError as e:
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        raise UserError(f"--config={path}: {e.__cause__}; {recipes.LISTED}.") from e
    except Exception as e:
        raise UserError("get_config() in the --config file returned no ConfigDict.") from e
    return config
