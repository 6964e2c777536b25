"""Flags and config files: what is wrong with them, in one sentence each."""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from delt_jax.config import nearest
from delt_jax.errors import UserError
from delt_jax.recipe import SETTINGS
from delt_jax.runtime import host_memory
from delt_jax.runtime import signals as interrupts

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, e.g. configs/digits.py.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder that holds everything the run makes.")
_STAGES = flags.DEFINE_list(
    "stages",
    [],
    "Stages to run, of squeeze,rank,recover,relabel,evaluate,report; default all.",
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the plan and its cost; touch nothing.")
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "off",
    ["off", "auto"],
    "auto: one of several processes that share --workdir, as SLURM, TPU pods, GKE or Open MPI "
    "started them.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "Or by hand: host:port of process 0, the same for every process."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many there are.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, from 0.", 0)


_T = TypeVar("_T")


class ProcessFlags(NamedTuple):
    """Which processes work together; nothing is asked for by default."""

    auto: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


class Arguments(NamedTuple):
    """What the command line asks for."""

    config: ml_collections.ConfigDict
    workdir: str
    stages: list[str]
    dry_run: bool
    job: ProcessFlags
    command: str


def parse(arguments: Sequence[str]) -> Arguments:
    """Parses the command line, program name first.

    Raises:
      UserError: one sentence about the first thing that is wrong.
    """
    app.define_help_flags()
    _check_overrides(arguments)
    _check_file(arguments)
    try:
        rest = _parse_afresh(arguments)
    except Exception as e:  # flags and config files raise many types
        raise UserError(sentence(e)) from e
    if len(rest) > 1:
        raise UserError(f"Unexpected argument {rest[1]!r}; options begin with --.")
    config = _load_config()
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; try --workdir=runs/digits.")
    command = shlex.join(["python", "-m", "delt_jax.main", *arguments[1:]])
    return Arguments(config, _WORKDIR.value, _STAGES.value, _DRY_RUN.value, _job(), command)


def _job() -> ProcessFlags:
    """The flags about other processes, all of them or none."""
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


def _parse_afresh(arguments: Sequence[str]) -> list[str]:
    """What is no flag; earlier calls in this process leave nothing behind."""
    flags.FLAGS.unparse_flags()
    for name in [n for n in flags.FLAGS if n.startswith("config.")]:
        delattr(flags.FLAGS, name)
    of_process, sys.argv = sys.argv, list(arguments)  # where config_flags looks for overrides
    try:
        return flags.FLAGS(sys.argv)
    finally:
        sys.argv = of_process


def _check_overrides(arguments: Sequence[str]) -> None:
    """Names a misspelt --config.NAME in full, with the nearest setting there is."""
    known = list(SETTINGS)
    for argument in arguments:
        match = re.match(r"--?config\.([^=]*)", argument)
        if match and match[1] not in known:
            raise UserError(f"There is no setting {match[1]}{nearest(match[1], known)}")


def _check_file(arguments: Sequence[str]) -> None:
    """Names a --config file that is not there, which overrides of it would hide."""
    for argument in arguments:
        match = re.match(r"--?config=([^:]*)", argument)
        if match and not Path(match[1]).exists():
            raise UserError(
                f"--config={match[1]}: there is no such file; configs/ has the recipes."
            )


def _load_config() -> ml_collections.ConfigDict:
    """The value of --config, or a sentence about why there is none."""
    config = _CONFIG.value
    if config is None:
        raise UserError("--config is missing; try --config=configs/digits.py.")
    try:
        config.keys()  # a config that could not be read raises at the first touch
    except OSError as e:
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        raise UserError(f"--config={path}: {e.__cause__}; configs/ has the recipes.") from e
    except AttributeError as e:
        raise UserError("get_config() in the --config file returned no ConfigDict.") from e
    return config


def sentence(error: BaseException) -> str:
    """What a flag parser or a config file raised, in one line without its traceback."""
    text = str(error.args[0]) if error.args else type(error).__name__
    unknown = re.search(r'Key "(\w+)" does not exist', text)
    if unknown:
        hint = nearest(unknown[1], list(SETTINGS))
        return f"The --config file sets {unknown[1]!r}, but there is no such setting{hint}"
    if "get_config() takes 0 positional arguments" in text:
        return "This recipe has no variants; leave out the colon and what follows it."
    if "Traceback (most recent call last)" in text:
        text = "The --config file failed: " + text.strip().splitlines()[-1]
    return re.sub(r"\s+", " ", text).strip()


def exit_status(parse: Callable[[], _T], run: Callable[[_T], bool]) -> int:
    """Parses and runs a command, and turns bad input into one sentence on stderr.

    Args:
      parse: reads the command line.
      run: does what it asks for; whether all of that succeeded.

    Returns:
      0, 1 for bad input found while running or if something failed, 2 for bad flags, 130 for
      Ctrl-C, 143 for SIGTERM.
    """
    try:
        asked = parse()
    except UserError as e:
        print(f"delt_jax: {e}", file=sys.stderr)
        return 2
    host_memory.keep_freed()
    try:
        with interrupts.raising():
            return 0 if run(asked) else 1
    except UserError as e:
        print(f"delt_jax: {e}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, interrupts.Terminated) as e:
        print(
            "delt_jax: stopped; finished work is kept, the same command goes on from there.",
            file=sys.stderr,
        )
        return 130 if isinstance(e, KeyboardInterrupt) else interrupts.SIGTERM_STATUS
