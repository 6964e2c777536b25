"""What search.py tries: changes to the recipe, in groups."""

from typing import Any, NamedTuple


class Trial(NamedTuple):
    """A change to the recipe.

    Attributes:
      name: of its work directory, and in tables.
      settings: by dotted name.
      method: of configs/methods/; empty for the recipe's own.
    """

    name: str
    settings: dict[str, Any]
    method: str = ""


def _each(setting: str, *values: Any) -> list[Trial]:
    """A trial for each value of a setting, named after both."""
    short = setting.rpartition(".")[2]
    return [Trial(f"{short}_{value}", {setting: value}) for value in values]


def _rounds(iterations: int, round_iterations: int) -> Trial:
    """Other T and R."""
    settings = {"recover.iterations": iterations, "recover.round_iterations": round_iterations}
    return Trial(f"t{iterations}_r{round_iterations}", settings)


def _term(name: str, weight: float) -> Trial:
    """A further term of the objective, beside the others."""
    return Trial(f"{name}_{weight}", {"recover.terms": (f"{name}={weight}",)})


_LARGE_STEPS = {
    "recover.iterations": 800,
    "recover.round_iterations": 100,
    "recover.learning_rate": 0.05,
}
_TURNS = {  # of the teachers with which docs/study.md runs EDC
    "teacher.others": ("conv4:32", "resnet18_modified:8"),
    "recover.round_robin": True,
}
_EDC = {  # EDC's matching in place of DELT's
    "recover.bn_weight": 0.0,
    "recover.terms": ("global_statistics=0.005", "class_statistics=0.005"),
}

# What is tried. The recipe's own values are those of `base`: a rate of 0.01, T 400 and R 50, and
# else DELT's, which docs/settings.md lists.
TRIALS: dict[str, list[Trial]] = {
    "rate": _each("recover.learning_rate", 0.005, 0.02, 0.05, 0.25),
    "rounds": [_rounds(200, 25), _rounds(800, 100), _rounds(400, 0), _rounds(400, 200)],
    "steps": [  # as the row `study` of configs/fashion_mnist.py
        Trial("large_steps", _LARGE_STEPS),
        Trial("large_steps_half", _LARGE_STEPS | {"recover.min_scale": 0.5}),
    ],
    "bn": [
        *_each("recover.bn_weight", 0.0, 0.001, 0.1, 1.0),
        *_each("recover.first_bn_multiplier", 1.0),
    ],
    "curriculum": [
        *_each("recover.min_scale", 0.25, 0.5, 0.8, 1.0),
        *_each("recover.milestone", 0.0, 0.5),
        *_each("recover.curriculum", "linear"),
        Trial("step_at_half", {"recover.curriculum": "step", "recover.milestone": 0.5}),
    ],
    "layout": _each("recover.layout", "one_per_class"),
    "clock": _each("recover.clock", "image"),
    "start": [
        *_each("select.rule", "top", "random"),
        *_each("select.start", "rded", "noise"),
    ],
    "view": [
        Trial("crop_per_image", {"recover.crop": "image"}),
        *_each("recover.jitter", 2, 4),
    ],
    "residual": _each("recover.residual", 0.25, 0.5),
    "terms": [
        *[_term("class_bn", weight) for weight in (0.01, 1)],
        *[_term("barycentre", weight) for weight in (0.1, 1)],
        _term("class_statistics", 0.005),
    ],
    "teacher": [Trial(f"teacher_width_{w}", {"teacher.width": w}) for w in (32, 64)],
    "turns": [
        Trial("turns", _TURNS),
        Trial("turns_edc", _TURNS | _EDC),
        Trial("turns_large_steps", _TURNS | _LARGE_STEPS),
        Trial("turns_edc_large_steps", _TURNS | _EDC | _LARGE_STEPS),
    ],
    "method": [Trial(name, {}, name) for name in ("sre2l", "cda", "cda_real", "rded")],
}
