"""Compares recipes: `delt_jax compare --configs=digits:cda,mine.py:x,y --ipc=1,10 --workdir=W`.

Every recipe runs at every number of images per class, each in its own work directory below W;
--config.NAME=VALUE changes a setting of all of them. See docs/compare.md.
"""

from delt_jax.core import stopping
from delt_jax.runtime import host_memory

if __name__ == "__main__":
    host_memory.restart_with_huge_pages()
    stopping.listen()  # before what takes time to import

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from delt_jax.comparison.runner import CompareOptions, run
from delt_jax.config import command, paths, recipes, usage
from delt_jax.errors import UserError

_FLAGS = flags.FlagValues()  # not absl's global ones, which hold the flags of a single run
_CONFIGS = flags.DEFINE_string(
    "configs",
    "",
    "Recipes with commas between, e.g. digits,A.py:x,y,B.py; a part that is neither a .py file nor "
    "the name of a recipe is one more variant of the recipe before it.",
    _FLAGS,
)
_IPC = flags.DEFINE_list(
    "ipc", ["0"], "Images per class; 0 for a recipe's own.", flag_values=_FLAGS
)
_SEEDS = flags.DEFINE_integer(
    "seeds", None, "Students per row; default the recipes'.", 1, flag_values=_FLAGS
)
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder that holds all cells and tables.", _FLAGS)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the grid; touch nothing.", _FLAGS)
_MIRROR = flags.DEFINE_string(
    "mirror", "", "Place in an object store where finished cells and tables are copied.", _FLAGS
)
_KEEP_GOING = flags.DEFINE_bool(
    "keep_going", False, "After a cell that fails, go on with the others.", _FLAGS
)
_OURS = {"config.ipc": "ipc", "config.evaluate.seeds": "seeds"}  # settings that are flags here


def parse(arguments: Sequence[str]) -> CompareOptions:
    """Parses the command line, program name first.

    Raises:
      UserError: one sentence about the first thing that is wrong.
      SystemExit: for --help and --version.
    """
    settings = tuple(a for a in arguments if re.match(r"--?config\.", a))
    rest = usage.parsed([a for a in arguments if a not in settings], str(__doc__), _FLAGS)
    for setting in settings:
        name, equals, _ = setting.lstrip("-").partition("=")
        if not equals:
            raise UserError(f"--{name} has no value; write --{name}=VALUE.")
        if name in _OURS:
            raise UserError(f"--{name} is --{_OURS[name]} here, as it is the same for all recipes.")
    if rest:
        raise UserError(f"Unexpected argument {rest[0]!r}; options begin with --.")
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; try --workdir=runs/compare.")
    if _SEEDS.value:
        settings = (f"--config.evaluate.seeds={_SEEDS.value}", *settings)
    return CompareOptions(
        split_configs(_CONFIGS.value),
        _numbers(_IPC.value),
        Path(paths.expand_workdir(_WORKDIR.value)),
        settings,
        _DRY_RUN.value,
        _KEEP_GOING.value,
        shlex.join(["python", "-m", "delt_jax.compare", *arguments[1:]]),
        paths.expand_mirror(_MIRROR.value),
    )


def split_configs(text: str) -> tuple[str, ...]:
    """The recipes of --configs, e.g. ("A.py", "digits:x,y") of "A.py,digits:x,y".

    Raises:
      UserError: if there is none.
    """
    configs: list[str] = []
    for part in filter(None, text.split(",")):
        recipe, colon, _ = part.partition(":")
        is_known = recipe.endswith(".py") or recipe in recipes.names() or colon
        if not configs or (is_known and "=" not in recipe):
            configs.append(part)
        else:
            configs[-1] += f",{part}"
    if not configs:
        raise UserError(f"--configs is missing; try --configs=digits; {recipes.LISTED}.")
    return tuple(paths.expand_recipe(config, "--configs") for config in configs)


def _numbers(values: Sequence[str]) -> tuple[int, ...]:
    wrong = [value for value in values if not re.fullmatch(r"[0-9]{1,9}", value.strip())]
    if wrong or not values:
        raise UserError(
            f"--ipc takes whole numbers with commas between, such as 1,10,50, not "
            f"{wrong[0] if wrong else ''!r}."
        )
    return tuple(dict.fromkeys(map(int, values)))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of a command line, as `command.exit_status` has it; 1 if a cell failed."""
    return command.exit_status(
        lambda: parse(sys.argv if argv is None else argv), lambda options: not run(options).failed
    )


if __name__ == "__main__":
    sys.exit(main())
