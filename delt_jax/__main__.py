"""The command `delt_jax`: its first word says what to do, and another module does it."""

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from delt_jax.core import ending, stopping
from delt_jax.runtime import host_memory


class _Command(NamedTuple):
    """A command.

    Attributes:
      module: whose `main(argv)` does it and returns the exit status.
      about: what it does, as a phrase.
      is_large: whether it reads and makes sets of images.
    """

    module: str
    about: str
    is_large: bool = True


COMMANDS = {
    "run": _Command("delt_jax.main", "runs a recipe; with --dry_run prints its plan and cost"),
    "compare": _Command("delt_jax.compare", "runs and compares several recipes and set sizes"),
    "export": _Command("delt_jax.export", "converts a distilled set for other tools, or reads one"),
    "new": _Command("delt_jax.config.new", "writes a recipe of your own to start from", False),
    "configs": _Command("delt_jax.config.listing", "lists the recipes and the methods", False),
}


def main() -> NoReturn:
    """Does what sys.argv asks for, and ends the process."""
    asked = COMMANDS.get(sys.argv[1]) if sys.argv[1:] else None
    if asked and asked.is_large:
        host_memory.restart_with_huge_pages()
    stopping.listen()  # before what takes time to import
    ending.end(status(sys.argv))


def status(argv: Sequence[str]) -> int:
    """The exit status of a command line, program name first."""
    name = argv[1] if argv[1:] else ""
    if name in COMMANDS:
        module = importlib.import_module(COMMANDS[name].module)
        return module.main([f"delt_jax {name}", *argv[2:]])
    from delt_jax.config import command

    return command.exit_status(lambda: _no_command(argv), bool)


def _no_command(argv: Sequence[str]) -> NoReturn:
    """Prints help, or says what is wrong with a line that begins with no command."""
    from delt_jax.config import cli, usage
    from delt_jax.core.spelling import nearest
    from delt_jax.errors import UserError

    overview = [
        f"{usage.version()}: dataset distillation",
        "",
        "usage: delt_jax COMMAND [flags]",
        "",
        *usage.listed({name: command.about for name, command in COMMANDS.items()}),
        "",
        "delt_jax COMMAND --help says more.",
    ]

    def page(about: str) -> str:
        return "\n".join([*([] if about else [*overview, ""]), cli.help_page(about)])

    usage.answer(argv, page)
    if not argv[1:]:
        print("\n".join(overview))
        raise SystemExit(2)
    if argv[1].startswith("-"):
        raise UserError(f"The command is missing; try delt_jax run {argv[1]}.")
    raise UserError(
        f"There is no command {argv[1]!r}{nearest(argv[1], list(COMMANDS))} Commands are "
        f"{', '.join(COMMANDS)}; delt_jax --help says what they do."
    )


if __name__ == "__main__":
    main()
