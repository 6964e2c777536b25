"""Writes a recipe of your own: `delt_jax new mine.py`, or `delt_jax new mine.py --from=imagenet`.

It runs as it is, and says in comments what to change. --from copies one of delt_jax's recipes.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from delt_jax.config import command, paths, recipes, usage
from delt_jax.core.spelling import nearest
from delt_jax.errors import UserError

_FLAGS = flags.FlagValues()
_FROM = flags.DEFINE_string(
    "from", "", "A recipe of delt_jax to copy, as `delt_jax configs` lists them.", _FLAGS
)
_TEMPLATE = '''\
"""A recipe of my own: digits until other images are named.

  delt_jax run --config=FILE --workdir=runs/NAME --dry_run    what it would do and cost
  delt_jax run --config=FILE --workdir=runs/NAME              does it
  delt_jax run --config=FILE:cda --workdir=runs/NAME-cda      with another method
"""

from delt_jax.config import default_config, vary

# Settings under a name of your choice: --config=FILE:large, or --config=FILE:large,cda.
PRESETS = {
    "large": {"ipc": 10, "recover.iterations": 800, "recover.round_iterations": 100},
}


def get_config(variants=""):
    """All settings that are not named here keep their defaults; delt_jax --help lists them."""
    config = default_config()
    config.ipc = 5  # distilled images per class

    # scikit-learn's digits, which need no download. For images of your own, in a folder for each
    # class, replace these lines by
    #     config.data.name = "folder"
    #     config.data.path = "PATH"
    #     config.data.image_size = 64
    #     config.data.channels = 3
    config.data.name = "digits"
    config.data.known_as = "digits"  # which published values methods bring; "" for your images
    config.data.flip = False  # whether a mirrored image still shows its class

    # The teacher is trained here; config.teacher.weights takes one from elsewhere. Larger images
    # want larger networks: conv4 or resnet18_modified at 64 px, resnet18 at 224.
    config.teacher.model = "conv3"
    config.teacher.width = 32
    config.teacher.epochs = 40
    config.teacher.batch_size = 64
    config.teacher.learning_rate = 0.05
    config.teacher.crop_padding = 1

    # An image of each class joins every 50 iterations (EarlyLate), so 50 divides 400.
    config.recover.iterations = 400
    config.recover.round_iterations = 50
    config.recover.learning_rate = 0.01
    config.recover.bn_weight = 0.05
    config.recover.min_scale = 0.5

    # Students are trained from scratch on the recovered images, on random real ones, and on those
    # that recovery started from.
    config.evaluate.students = ("conv3",)
    config.evaluate.width = 32
    config.evaluate.images = ("recovered", "random", "selected")
    config.evaluate.regimes = ("online", "hard")
    config.evaluate.protocol = "delt_jax"
    config.evaluate.learning_rates = (0.01,)
    config.evaluate.seeds = 3
    config.evaluate.eval_every = 100

    # Applies what follows the colon of --config. Methods are delt_jax's and the files
    # methods/NAME.py beside this one.
    vary(config, variants, PRESETS, __file__)
    return config
'''


class NewRecipe(NamedTuple):
    """The command line, parsed.

    Attributes:
      file: to write.
      text: of the file.
    """

    file: Path
    text: str


def parse(arguments: Sequence[str]) -> NewRecipe:
    """Parses the command line, program name first.

    Raises:
      UserError: one sentence about the first thing that is wrong.
      SystemExit: for --help and --version.
    """
    rest = usage.parsed(arguments, str(__doc__), _FLAGS)
    if len(rest) != 1:
        raise UserError(f"Name one file to write, such as mine.py; got {len(rest)} paths.")
    instead = "a recipe is a file of this machine; name one here"
    file = Path(paths.expand_local(rest[0], "The path", instead))
    if file.suffix != ".py":
        raise UserError(f"{file} must end in .py, by which --config knows a file from a name.")
    return NewRecipe(file, _text(file, _FROM.value))


def _text(file: Path, source: str) -> str:
    """The new file's content."""
    if not source:
        return _TEMPLATE.replace("FILE", str(file)).replace("NAME", file.stem)
    if source not in recipes.names():
        raise UserError(
            f"--from={source}: there is no such recipe{nearest(source, recipes.names())} "
            f"{recipes.LISTED}."
        )
    return (paths.packaged_recipes() / f"{source}.py").read_text(encoding="utf-8")


def write(recipe: NewRecipe) -> None:
    """Writes the file and says how to run it.

    Raises:
      UserError: if something is there already.
    """
    try:
        with open(recipe.file, "x", encoding="utf-8") as f:
            f.write(recipe.text)
    except FileExistsError as e:
        raise UserError(f"{recipe.file} is there already; choose another name.") from e
    print(f"wrote {recipe.file}; next:")
    print(f"  delt_jax run --config={recipe.file} --workdir=runs/{recipe.file.stem} --dry_run")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of a command line, as `command.exit_status` has it."""

    def go(recipe: NewRecipe) -> bool:
        write(recipe)
        return True

    return command.exit_status(lambda: parse(sys.argv if argv is None else argv), go)
