"""The command line: `python -m delt_jax.main --config=configs/digits.py --workdir=runs/digits`."""

from delt_jax.core import ending, stopping
from delt_jax.runtime import host_memory

if __name__ == "__main__":
    host_memory.restart_with_huge_pages()
    stopping.listen()  # before what takes time to import

import sys
from collections.abc import Sequence

from delt_jax.config import cli, command
from delt_jax.stages.run import open_data, run

__all__ = ["main", "open_data", "run"]


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of a command line, as `command.exit_status` has it."""

    def go(arguments) -> bool:
        run(*arguments)
        return True

    return command.exit_status(lambda: cli.parse(sys.argv if argv is None else argv), go)


if __name__ == "__main__":
    ending.end(main())
