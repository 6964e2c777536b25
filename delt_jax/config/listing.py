"""Lists what --config takes: `delt_jax configs`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from delt_jax.config import command, methods, paths, recipes, usage
from delt_jax.errors import UserError

_FLAGS = flags.FlagValues()


def text() -> str:
    """Recipes with their presets, and methods, each with a sentence."""
    folder = paths.packaged_recipes()
    files = {name: folder / f"{name}.py" for name in recipes.names()}
    offered = methods.find(str(folder / "any.py"))
    return "\n".join(
        [
            "recipes, for --config=RECIPE or --config=RECIPE:PRESET",
            *usage.listed({name: _about(file) for name, file in files.items()}),
            "",
            "methods, for --config=RECIPE:METHOD or --config=RECIPE:PRESET,METHOD",
            *usage.listed({name: recipes.describe(file) for name, file in offered.items()}),
            "",
            f"Each is a file in {folder}; `delt_jax new` writes a recipe of your own.",
        ]
    )


def _about(recipe: Path) -> str:
    """A sentence on a recipe, and the presets that it has."""
    presets = ", ".join(recipes.presets(recipe))
    return recipes.describe(recipe) + f" Presets: {presets}." * bool(presets)


def parse(arguments: Sequence[str]) -> None:
    """Parses the command line, program name first.

    Raises:
      UserError: if there is anything to parse.
      SystemExit: for --help and --version.
    """
    rest = usage.parsed(arguments, str(__doc__), _FLAGS)
    if rest:
        raise UserError(f"Unexpected argument {rest[0]!r}; `delt_jax configs` takes none.")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of a command line, as `command.exit_status` has it."""

    def go(_: None) -> bool:
        print(text())
        return True

    return command.exit_status(lambda: parse(sys.argv if argv is None else argv), go)
