"""What is static in a compiled step: settings, models, and which images take part.

Everything here is hashable, and equal values share one compiled program.
"""

import dataclasses
from dataclasses import dataclass

from flax import linen as nn

from delt_jax import terms
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery.types import Active


@dataclass(frozen=True)
class StepSettings:
    """All that compiled steps read of a recipe.

    A step sees nothing else, so methods that differ only in other settings share programs. The
    number of iterations, for one, is an array of `BatchInputs`.

    Attributes:
      terms: name and weight of each extra loss term.
      flip: whether views are mirrored at random.
      others: as of `RecoverRecipe`.
    """

    optimiser: str
    learning_rate: float
    bn_weight: float
    bn_variance_weight: float
    first_bn_multiplier: float
    terms: tuple[tuple[str, float], ...]
    perturbation: float
    perturbation_steps: int
    residual: float
    residual_rounds: int
    curriculum: str
    milestone: float
    min_scale: float
    jitter: int
    jitter_both_ways: bool
    crop_padding: int
    crop: str
    clock: str
    flip: bool


def step_settings(recipe: RecoverRecipe, flip: bool) -> StepSettings:
    """The settings of a recipe's steps; `flip` is `data.flip`, without which nothing is mirrored.

    Raises:
      UserError: if an extra term is unknown or its weight is not a finite number above 0.
    """
    names = {field.name for field in dataclasses.fields(StepSettings)} - {"terms", "flip"}
    same = {name: getattr(recipe, name) for name in names}
    return StepSettings(**same, terms=terms.asked(recipe.terms), flip=flip and recipe.flip)


@dataclass(frozen=True)
class StepProgram:
    """One compiled call: some iterations with one set of active images.

    Attributes:
      models: the teachers' modules; iteration t of a batch is guided by teacher t mod K of K.
      settings: of the step.
      active: which images take part.
      steps: iterations per call.
      classes: numbers the classes of a batch's images from 0; () without extra terms, which alone
        read it.
      first_teacher: index of the teacher that guides the first iteration of the call.
      masked: whether `active` images, a count, are computed, but only those take part whose time
        it is; so that rounds of fewer images can share the program.
    """

    models: tuple[nn.Module, ...]
    settings: StepSettings
    active: Active
    steps: int = 1
    classes: tuple[int, ...] = ()
    first_teacher: int = 0
    masked: bool = False


def active_of(positions: tuple[int, ...]) -> Active:
    """A count where the active images are the first ones, so that equal counts share programs."""
    return len(positions) if positions == tuple(range(len(positions))) else positions
