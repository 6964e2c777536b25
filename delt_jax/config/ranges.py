"""Ranges, choices and combinations of settings: what can be checked without data."""

import math

from delt_jax.errors import UserError
from delt_jax.recipe import Recipe, flatten
from delt_jax.recovery.schedule import LAYOUTS, check_rounds

CHOICES = {
    "data.name": ("digits", "folder", "npz", "idx", "tfds"),
    "data.channels": (0, 1, 3),
    "data.fit": ("resize", "centre", "pad"),
    "data.unreadable": ("stop", "skip"),
    "teacher.schedule": ("cosine", "one_cycle"),
    "select.rule": ("medium", "top", "min", "random"),
    "select.start": ("real", "noise", "rded"),
    "recover.layout": tuple(LAYOUTS),
    "recover.curriculum": ("cosine", "linear", "step"),
    "recover.crop": ("batch", "image"),
    "recover.clock": ("batch", "image"),
    "recover.storage": ("png", "jpeg75"),
    "recover.dtype": ("float32", "bfloat16"),
    "relabel.mix": ("cutmix", "mixup", "none"),
    "relabel.form": ("logits", "probabilities"),
    "evaluate.protocol": ("delt", "sre2l", "rded", "delt_jax"),
    "evaluate.loss": ("kl", "mse"),
    "evaluate.schedule": ("cosine", "half_cosine"),
    "evaluate.dtype": ("float32", "bfloat16"),
    "evaluate.batch_norm": ("own", "shared"),
}
_CHOICES_OF_MANY = {
    "evaluate.images": ("recovered", "random", "selected", "herding", "kmeans", "full"),
    "evaluate.regimes": ("online", "stored", "fixed", "hard"),
}
# Lower bounds, inclusive; a setting that is absent here may be any value of its type.
_AT_LEAST = {
    "seed": 0,
    "ipc": 0,
    "data.image_size": 0,
    "data.split_seed": 0,
    "data.workers": -1,
    "data.memory_mib": 0,
    "data.train_images": 0,
    "data.test_images": 0,
    "teacher.width": 0,
    "teacher.epochs": 0,
    "teacher.batch_size": 2,
    "teacher.momentum": 0,
    "teacher.weight_decay": 0,
    "teacher.crop_padding": 0,
    "select.candidates": 1,
    "select.crops": 1,
    "select.mosaic": 0,
    "recover.iterations": 0,
    "recover.round_iterations": 0,
    "recover.min_iterations": 0,
    "recover.batch_size": 1,
    "recover.bn_weight": 0,
    "recover.bn_variance_weight": 0,
    "recover.first_bn_multiplier": 0,
    "recover.perturbation": 0,
    "recover.perturbation_steps": 1,
    "recover.residual_rounds": 1,
    "recover.milestone": 0,
    "recover.jitter": -1,
    "recover.chunk_steps": 0,
    "recover.batches_per_device": 0,
    "recover.profile_chunks": 0,
    "relabel.shuffle": 1,
    "relabel.stored_epochs": 0,
    "relabel.top_k": 0,
    "evaluate.width": 0,
    "evaluate.seeds": 1,
    "evaluate.epochs": 0,
    "evaluate.batch_size": 2,
    "evaluate.weight_decay": 0,
    "evaluate.hard_weight": 0,
    "evaluate.accumulate": 1,
    "evaluate.eval_every": 1,
    "evaluate.seeds_at_once": 0,
    "evaluate.devices_per_student": 1,
    "report.classes": 1,
    "report.per_class": 1,
}
_ABOVE_ZERO = (
    "teacher.learning_rate",
    "recover.learning_rate",
    "recover.save_minutes",
    "relabel.mix_alpha",
    "relabel.temperature",
    "evaluate.learning_rates",
    "evaluate.smaller",
    "evaluate.save_minutes",
)
_BELOW_ONE = (  # in [0, 1)
    "recover.statistics_momentum",
    "recover.conv_drop",
    "recover.residual",
    "evaluate.ema",
)
_SHARES = ("recover.min_scale", "relabel.min_scale")  # in (0, 1]


def validate(recipe: Recipe) -> None:
    """Checks what can be checked without data: ranges, choices and combinations."""
    flat = flatten(recipe)
    for name, value in flat.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{name} must be finite, not {number}.")
    for name, choices in CHOICES.items():
        if flat[name] is not None and flat[name] not in choices:
            listed = ", ".join(map(repr, choices))
            raise UserError(f"{name} must be one of {listed}, not {flat[name]!r}.")
    for name, choices in _CHOICES_OF_MANY.items():
        values = flat[name]
        wrong = [v for v in values if v not in choices]
        if wrong or not values:
            listed = ", ".join(map(repr, choices))
            raise UserError(f"{name} must hold some of {listed}; got {values!r}.")
    for name, low in _AT_LEAST.items():
        if flat[name] is not None and flat[name] < low:
            raise UserError(f"{name} must be at least {low}, not {flat[name]}.")
    for name in _ABOVE_ZERO:
        value = flat[name]
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and number <= 0:
                raise UserError(f"{name} must be above 0, not {number}.")
    for name in _SHARES:
        if flat[name] is not None and not 0 < flat[name] <= 1:
            raise UserError(f"{name} must be in (0, 1], not {flat[name]}.")
    for name in _BELOW_ONE:
        if flat[name] is not None and not 0 <= flat[name] < 1:
            raise UserError(f"{name} must be in [0, 1), not {flat[name]}.")
    if not 0 < recipe.data.test_share < 1:
        raise UserError(f"data.test_share must be in (0, 1), not {recipe.data.test_share}.")
    if not 0 <= recipe.data.validation_share < 1:
        raise UserError(
            f"data.validation_share must be in [0, 1), not {recipe.data.validation_share}."
        )
    if len(recipe.data.mean) != len(recipe.data.std):
        raise UserError(
            f"data.mean and data.std need one value per channel each, but have "
            f"{len(recipe.data.mean)} and {len(recipe.data.std)}."
        )
    if any(s <= 0 for s in recipe.data.std):
        raise UserError(f"data.std must be above 0, not {recipe.data.std}.")
    heads = recipe.teacher.head_classes
    if heads and not recipe.teacher.weights:
        raise UserError(
            "teacher.head_classes picks outputs of imported weights, but teacher.weights is empty; "
            "set both or neither."
        )
    twice = sorted({c for c in heads if heads.count(c) > 1})
    if twice:
        raise UserError(
            f"teacher.head_classes lists {', '.join(map(str, twice))} more than once; every class "
            f"of the data needs an output of its own."
        )
    if recipe.relabel.ensemble and not recipe.teacher.others:
        raise UserError(
            "relabel.ensemble averages the logits of all the run's teachers, but teacher.others is "
            "empty; name others there, or leave relabel.ensemble off."
        )
    if not recipe.evaluate.students:
        raise UserError("evaluate.students is empty; name at least one architecture.")
    r = recipe.recover
    check_rounds(r.iterations, r.round_iterations)
    if r.min_iterations and not r.round_iterations:
        raise UserError("recover.min_iterations needs recover.round_iterations above 0.")
    if r.milestone > 1:
        raise UserError(f"recover.milestone is a share of the iterations, not {r.milestone}.")
    if r.min_iterations and not r.round_iterations <= r.min_iterations <= r.iterations:
        raise UserError(
            f"recover.min_iterations ({r.min_iterations}) must lie between "
            f"recover.round_iterations ({r.round_iterations}) and recover.iterations "
            f"({r.iterations})."
        )
    if r.min_iterations and r.min_iterations % r.round_iterations:
        raise UserError(
            f"recover.min_iterations ({r.min_iterations}) must be a multiple of "
            f"recover.round_iterations ({r.round_iterations})."
        )
    if r.round_robin and not recipe.teacher.others:
        raise UserError(
            "recover.round_robin lets the run's teachers take turns, but teacher.others is empty; "
            "name others there, or leave recover.round_robin off."
        )
    if r.residual and recipe.select.start == "noise":
        raise UserError(
            f"recover.residual ({r.residual}) mixes real pixels of the start into the images, but "
            f"select.start is 'noise'; set it to 'real' or 'rded', or recover.residual to 0."
        )
    if r.terms:
        from delt_jax import terms  # brings JAX, which takes a second to import

        terms.asked(r.terms)
