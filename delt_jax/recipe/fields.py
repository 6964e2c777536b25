"""What each setting says at its field: default, meaning, allowed values, and what it affects.

    epochs: int = setting(60, "Epochs of training.", affects="teacher", allowed=at_least(0))

`delt_jax.config` checks values against this, stages take their inputs from it, and
docs/settings.md is printed from it.
"""

import dataclasses
import math
import types
from dataclasses import dataclass, replace
from typing import Any, Protocol, get_args, get_origin

# What a setting can affect. Results made with another value are made again; so are all results
# that were made from these. Nothing is made again for what stands under SIDE_EFFECTS.
RESULTS = {
    "data": "the real images that the run reads",
    "teacher": "the teachers",
    "images": "the distilled images",
    "labels": "the soft labels",
    "scores": "the scores of students",
    "report": "the report",
}
SIDE_EFFECTS = {
    "speed": "time, memory and saves",
    "files": "what is written beside the results, and where",
    "dry run": "what `--dry_run` can print",
}


class Allowed(Protocol):
    """Which values of its type a setting may have."""

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, as "must be at least 0, not -1"; None if nothing is."""


@dataclass(frozen=True)
class OneOf:
    """One of some values.

    Attributes:
      choices: the values.
      with_plugins: whether names of plug-ins are allowed, too, which `delt_jax.core.plugins` knows.
    """

    choices: tuple[Any, ...]
    with_plugins: bool = False

    def __str__(self) -> str:
        """The values as Python writes them."""
        return ", ".join(map(repr, self.choices))

    def problem(self, value: Any) -> str | None:
        """Names all choices."""
        return None if value in self.choices else f"must be one of {self}, not {value!r}"


@dataclass(frozen=True)
class SomeOf:
    """A tuple of one or more of some values."""

    choices: tuple[Any, ...]

    def __str__(self) -> str:
        """The values as Python writes them."""
        return f"some of {', '.join(map(repr, self.choices))}"

    def problem(self, value: tuple[Any, ...]) -> str | None:
        """Names all choices."""
        if value and all(v in self.choices for v in value):
            return None
        return f"must hold {self}; got {value!r}"


@dataclass(frozen=True)
class Interval:
    """Numbers between two limits; of a tuple, each of its numbers.

    Attributes:
      low, high: the limits that the meaning of a setting has.
      with_low, with_high: whether they are allowed themselves.
      least, most: limits within these, beyond which nothing is computed rightly or at all.
    """

    low: float
    high: float = math.inf
    with_low: bool = True
    with_high: bool = True
    least: float = -math.inf
    most: float = math.inf

    def __contains__(self, number: float) -> bool:
        """Whether a number lies within the limits."""
        above = self.low <= number if self.with_low else self.low < number
        below = number <= self.high if self.with_high else number < self.high
        return above and below

    def __str__(self) -> str:
        """In words where there is one limit, else as mathematics writes intervals."""
        if not math.isinf(self.least):
            return f"from {self.least:g} to {self.most:g}"
        if math.isinf(self.high):
            words = f"at least {self.low}" if self.with_low else f"above {self.low}"
            return words if math.isinf(self.most) else f"{words}, at most {self.most}"
        return f"in {'(['[self.with_low]}{self.low}, {self.high}{')]'[self.with_high]}"

    def problem(self, value: Any) -> str | None:
        """Names the limits and the first number that exceeds them."""
        numbers = value if isinstance(value, tuple) else (value,)
        meant = replace(self, least=-math.inf, most=math.inf)
        for number in numbers:
            if number not in meant:
                return f"must be {meant}, not {number}"
            if number < self.least:
                return f"must be at least {self.least:g}, not {number}"
            if number > self.most:
                return f"must be at most {self.most}, not {number}"
        return None


def one_of(*choices: Any, with_plugins: bool = False) -> OneOf:
    """Allows one of these values, and perhaps names of plug-ins (see docs/extending.md)."""
    return OneOf(choices, with_plugins)


def some_of(*choices: Any) -> SomeOf:
    """Allows tuples of one or more of these values."""
    return SomeOf(choices)


def at_least(low: float, most: float = math.inf) -> Interval:
    """Allows `low` and larger numbers, up to `most`."""
    return Interval(low, most=most)


def above(low: float, least: float = -math.inf, most: float = math.inf) -> Interval:
    """Allows numbers larger than `low`, from `least` to `most`."""
    return Interval(low, with_low=False, least=least, most=most)


def within(low: float, high: float, ends: str) -> Interval:
    """Allows numbers between two limits; `ends` are their brackets, as in "(]" for (low, high]."""
    return Interval(low, high, ends[0] == "[", ends[1] == "]")


@dataclass(frozen=True)
class Setting:
    """A setting.

    Attributes:
      default: its value where nobody sets it; None stands for what the protocol says.
      meaning: one or two whole phrases.
      affects: keys of RESULTS or SIDE_EFFECTS.
      allowed: None if every value of the type is.
      split: whether commas in a tuple's entries separate entries, as in a flag's `a,b`.
      kind: bool, int, float, str or tuple.
      element: what a tuple holds: int, float or str; else None.
    """

    default: Any
    meaning: str
    affects: tuple[str, ...]
    allowed: Allowed | None
    split: bool = True
    kind: type = object
    element: type | None = None

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values to choose from, of a setting that is one or some of them; else ()."""
        return self.allowed.choices if isinstance(self.allowed, OneOf | SomeOf) else ()


def setting(
    default: Any,
    meaning: str,
    affects: str | tuple[str, ...],
    allowed: Allowed | None = None,
    split: bool = True,
) -> Any:
    """A field of a recipe's dataclass, whose metadata has all that is said about the setting.

    Raises:
      ValueError: if `affects` is not among RESULTS and SIDE_EFFECTS.
    """
    affected = (affects,) if isinstance(affects, str) else affects
    unknown = [name for name in affected if name not in RESULTS | SIDE_EFFECTS]
    if unknown or not affected:
        raise ValueError(f"A setting cannot affect {unknown}; see RESULTS and SIDE_EFFECTS.")
    described = Setting(default, meaning, affected, allowed, split)
    return dataclasses.field(default=default, metadata={"setting": described})


def settings_of(group: type, prefix: str = "") -> dict[str, Setting]:
    """The settings of a dataclass and of the dataclasses it holds, by their dotted names."""
    found: dict[str, Setting] = {}
    for f in dataclasses.fields(group):
        described = f.metadata.get("setting")
        if described is None:
            found |= settings_of(f.type, f"{prefix}{f.name}.")  # type: ignore[arg-type]
        else:
            kind, element = _kind_of(f.type)
            found[prefix + f.name] = dataclasses.replace(described, kind=kind, element=element)
    return found


def _kind_of(annotation: Any) -> tuple[type, type | None]:
    """The type of a value that is not None, and of its elements if it is a tuple."""
    if isinstance(annotation, types.UnionType):
        annotation = next(a for a in get_args(annotation) if a is not types.NoneType)
    if get_origin(annotation) is tuple:
        return tuple, get_args(annotation)[0]
    return annotation, None
