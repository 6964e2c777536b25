"""Methods: settings by data set, each with the place where it is published, or said to be ours.

A method is a file methods/NAME.py, beside the recipe or among delt_jax's own, with one function,
`settings(data: DataKind) -> Settings`.
"""

import re
import runpy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_collections

from delt_jax.config import paths
from delt_jax.core import plugins
from delt_jax.errors import UserError
from delt_jax.recipe import SETTINGS
from delt_jax.recipe.known import KNOWN

FOLDER, PROTOCOL = "folder=", "protocol="  # how variants with a value begin
LIKE_IPC = re.compile(r"ipc[-+.\d]*")  # what was meant as one
IPC = re.compile(r"ipc([1-9]\d*)")  # a variant of every recipe that has no preset of the name
LARGE = 128  # pixels a side from which on the field's methods have other settings

# The known data sets whose published settings stand in where a data set has none, the first first.
_CIFAR = ("cifar10", "cifar100")
_ALIKE = {
    "imagenet100": ("imagenet",),
    "imagenette": ("imagewoof", "imagenet"),
    "imagewoof": ("imagenette", "imagenet"),
    "cifar10": ("cifar100",),
    "cifar100": ("cifar10",),
    "fashion_mnist": _CIFAR,
    "mnist": _CIFAR,
    "digits": _CIFAR,
    "clip_art": ("tiny_imagenet",),
}
# Settings of how students train begin so, but for the one that says which teachers label.
_OF_STUDENTS = ("evaluate.", "relabel.")
_OF_TEACHERS = ("relabel.ensemble",)
# And these say what they train on.
_OF_SETS = ("evaluate.images", "evaluate.regimes")
_OF_LABELS = "evaluate.loss"  # where what a set learned as labels are values of it
# Settings by which images join one after the other, and for how long all are optimised.
EARLY_LATE = ("recover.iterations", "recover.round_iterations", "recover.min_iterations")


@dataclass(frozen=True)
class DataKind:
    """What the settings of a method may depend on.

    Attributes:
      name: of the published data set, as `data.known_as` has it; empty for images of one's own.
      image_size: side in pixels; 0 where it is derived from the images.
      teacher: architecture of the recipe's own teacher; empty where it is derived.
      channels: of the images; 0 where they are derived.
      ipc: images per class; 0 where they are derived.
      small: whether a set is to be learned in minutes of two CPU cores.
    """

    name: str
    image_size: int
    teacher: str
    channels: int = 0
    ipc: int = 0
    small: bool = False

    @property
    def is_large(self) -> bool:
        """Whether the images have `LARGE` pixels a side or more."""
        return self.image_size >= LARGE


@dataclass(frozen=True)
class Sourced:
    """A setting's value and where it comes from.

    Attributes:
      value: of the setting.
      source: where it is published, or why it is ours.
      is_ours: whether nobody has published it for these data.
    """

    value: Any
    source: str
    is_ours: bool

    def __str__(self) -> str:
        """The source in words."""
        if self.is_ours:
            return f"ours ({self.source})" if self.source else "ours"
        return f"published in {self.source}"


Settings = dict[str, Sourced]  # by the setting's dotted name
_NONE = Sourced(0, "", True)


def published(source: str, settings: Mapping[str, Any]) -> Settings:
    """Settings that are published.

    Args:
      source: paper, or file of a released repository.
      settings: values by the setting's dotted name.
    """
    return {name: Sourced(value, source, False) for name, value in settings.items()}


def ours(settings: Mapping[str, Any], why: str = "") -> Settings:
    """Settings that nobody has published for the data, and why they are chosen."""
    return {name: Sourced(value, why, True) for name, value in settings.items()}


# SRe2L's circular shift, 32 px of 224 and 4 of 32, for images of which nothing is published.
SHIFT = ours({"recover.jitter": -1}, "a seventh of the side")


def without(settings: Settings, names: Iterable[str]) -> Settings:
    """The settings but for some, whose names or beginnings of names are listed."""
    left_out = tuple(names)
    return {name: value for name, value in settings.items() if not name.startswith(left_out)}


def for_data(data: DataKind, by_name: Mapping[str, Settings]) -> Settings:
    """The settings that are published for a data set, or those for the one most like it, as ours.

    Args:
      data: what the settings are for.
      by_name: settings by the name of the data set that they are published for; under "" those
        for images of which nothing is known.
    """
    for name in (data.name, *_ALIKE.get(data.name, ())):
        if name and name in by_name:
            return _resized(_taken_over(by_name[name], name, data), name, data)
    return by_name.get("", {})


def _taken_over(settings: Settings, name: str, data: DataKind) -> Settings:
    """Settings for the data set `name` as those of other data, if these are others.

    How students train is taken over between CIFAR-10 and CIFAR-100 alone, else the recipe's.
    """
    if name == data.name:
        return settings
    if data.name not in _CIFAR:
        settings = recovery_of(settings)
    title = KNOWN[name].title
    return {
        setting: Sourced(s.value, f"as for {title}: {s.source}".removesuffix(": "), True)
        for setting, s in settings.items()
    }


def _resized(settings: Settings, name: str, data: DataKind) -> Settings:
    """Settings for the data set `name` at the size of the data, where that is another.

    Shifts become a seventh of the side, which is what most of them are, and paddings keep their
    share of it.
    """
    size = KNOWN[name].image_size
    padding = settings.get("recover.crop_padding", _NONE).value
    scaled = {"recover.jitter": -1, "recover.crop_padding": padding * data.image_size // size}
    return settings | {
        setting: Sourced(value, f"in place of {settings[setting].value} for {size} px", True)
        for setting, value in scaled.items()
        if size != data.image_size and settings.get(setting, _NONE).value
    }


def others(teachers: Iterable[str], data: DataKind) -> Settings:
    """The setting `teacher.others`: a method's teachers beside the recipe's own.

    Any ConvNet, and a teacher that is derived, stands for the method's ConvNet.

    Args:
      teachers: those of the published architectures that the zoo has.
      data: as `settings` was given.
    """
    own = data.teacher if data.teacher and not data.teacher.startswith("conv") else "conv3"
    beside = tuple(name for name in teachers if name != own)
    return ours({"teacher.others": beside}, "published teachers that the zoo has")


def recovery_of(settings: Settings) -> Settings:
    """Settings without how students train, which is then the recipe's; what on stays."""
    kept = {name: settings[name] for name in (*_OF_TEACHERS, *_OF_SETS) if name in settings}
    if settings.get(_OF_LABELS, _NONE).value == "squared":
        kept[_OF_LABELS] = settings[_OF_LABELS]
    return without(settings, _OF_STUDENTS) | kept


def find(file: str) -> dict[str, Path]:
    """The methods of a recipe by name: methods/NAME.py beside its file, delt_jax's, plug-ins."""
    folders = (paths.packaged_recipes(), Path(file).parent)
    found = {path.stem: path for f in folders for path in f.glob("methods/[!_]*.py")}
    return dict(sorted((plugins.files(plugins.METHODS) | found).items()))


def kind_of(config: ml_collections.ConfigDict) -> DataKind:
    """What a recipe's data are to a method."""
    name, size, channels = config.data.known_as, config.data.image_size, config.data.channels
    if name:
        size, channels = size or KNOWN[name].image_size, channels or KNOWN[name].channels
    return DataKind(name, size, config.teacher.model, channels, config.ipc, config.learn.small)


def is_late(name: str) -> bool:
    """Whether a method sets this only once the images per class are known, after all others."""
    return name.startswith("learn.") and SETTINGS[name].default is None


def of_learning(method: str, data: DataKind) -> Settings:
    """What a method of learned sets publishes for some data and images per class.

    Args:
      method: a value of `learn.method`.
      data: complete.

    Raises:
      UserError: if it has no recipe.
    """
    known = find(str(paths.packaged_recipes() / "any.py"))
    if method not in known:
        raise UserError(
            f"learn.method {method!r} has no settings; write configs/methods/{method}.py as in "
            f"docs/learned.md."
        )
    settings = read(known[method], data)
    return {name: value for name, value in settings.items() if name.startswith("learn.")}


def read(method: Path, data: DataKind) -> Settings:
    """The settings of a method's file for some data.

    Raises:
      ValueError: if it has no function `settings`.
    """
    settings = runpy.run_path(str(method)).get("settings")
    if settings is None:
        raise ValueError(f"{method} has no function settings(data).")
    return settings(data)


def sibling(file: str, name: str, data: DataKind) -> Settings:
    """The settings of another method, for one that differs from it in little.

    Args:
      file: of the method that asks, its `__file__`.
      name: of the other method, a file beside it or one of delt_jax's.
      data: as `settings` was given.
    """
    beside = Path(file).with_name(f"{name}.py")
    packaged = paths.packaged_recipes() / "methods" / beside.name
    return read(beside if beside.is_file() else packaged, data)


def parted(variants: str, known: Iterable[str]) -> list[str]:
    """The names in --config=FILE:VARIANTS.

    What follows "folder=PATH," and is neither known nor a protocol belongs to the path.

    >>> parted("ipc10,folder=/cats,dogs,cda,protocol=delt", ["ipc10", "cda"])
    ['ipc10', 'folder=/cats,dogs', 'cda', 'protocol=delt']
    """
    names: list[str] = []
    known = set(known)
    for part in variants.split(","):
        is_new = part in known or part.startswith(PROTOCOL)
        if names and names[-1].startswith(FOLDER) and not is_new:
            names[-1] += f",{part}"
        else:
            names.append(part)
    return [name for name in names if name]


def chosen(names: Iterable[str], file: str, data: DataKind) -> tuple[str, Settings]:
    """The method among a recipe's variants, empty if there is none, and what it sets.

    Args:
      names: the variants, as `parted` has them.
      file: of the recipe, its `__file__`.
      data: the recipe's.

    Raises:
      UserError: for two methods.
    """
    known, names = find(file), list(names)
    named = [name for name in names if name in known]
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)} are methods; name one of them.")
    settings = read(known[named[0]], data) if named else {}
    if named and known[named[0]] != plugins.files(plugins.METHODS).get(named[0]):
        plugins.tell_clash(plugins.METHODS, named[0])
    for name in names:
        if name.startswith(PROTOCOL):
            protocol = name.removeprefix(PROTOCOL)
            settings = recovery_of(settings) | ours({"evaluate.protocol": protocol}, name)
    return (named[0] if named else ""), settings
