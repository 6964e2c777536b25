"""Sources of a run's named parts: what a set was made from includes the code that made it.

`part_versions.json` records version and source of every part as released. A part whose source is
another one now, or that the record does not know, brings a digest of its source into the inputs of
what it makes; so an edited part is never taken for the released one.
"""

import ast
import functools
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from delt_jax.core import plugins

RECORD = Path(__file__).parent / "part_versions.json"
_PACKAGE = Path(__file__).parents[1]
_NETWORKS = {
    "alexnet": ("alexnet",),
    **{f"conv{depth}_wide": ("wide_conv",) for depth in (3, 4, 5)},
    "conv": ("convnet",),
    "dc_conv": ("dc_convnet",),
    "efficientnet_lite": ("efficientnet_lite", "efficientnet"),
    "efficientnet": ("efficientnet", "inverted_residual"),
    "mobilenet": ("mobilenet", "inverted_residual"),
    "resnet": ("resnet",),
    "shufflenet": ("shufflenet",),
    "swin": ("swin",),
    "vgg": ("vgg",),
    "vit": ("vit",),
}
_OF_NETWORKS = (
    "forms",
    "layers",
    "convolution",
    "depthwise",
    "dots",
    "winograd",
    "strided",
    "pool",
    "norm",
)
_STARTS = {
    "real": ("recovery/selection",),
    "rded": ("recovery/mosaics",),
    "rded_files": ("recovery/mosaics", "data/file_crops"),
    "pictures": ("data/class_pictures", "augment/crop"),
    "set": ("recovery/earlier_sets", "formats/resizing"),
}
_AUGMENTATIONS = {
    "rand_augment": ("rand_augment", "affine", "enhance", "tables", "chosen"),
    "cutmix": ("mix",),
    "mixup": ("mix",),
}
# Parts that are there whatever they are called in a recipe.
_ALWAYS = {
    "recovery.step": (
        "recovery/step",
        "recovery/active",
        "recovery/views",
        "recovery/residual",
        "recovery/optimisers",
        "recovery/perturbation",
        "recovery/schedule",
        "models/forms",
        "models/tap",
        "core/losses",
        "core/normalisation",
    ),
    "training.teacher": (
        "training/real_images",
        "training/state",
        "augment/crop",
        "core/losses",
        "core/normalisation",
    ),
    "training.own_class": ("training/student_labels", "training/student_step"),
    "training.ema": ("training/student_step", "training/state"),
    "statistics.conv_drop": ("teachers/statistics_matching",),
    "labels.compact": ("labels/compact",),
    "learned.engine": (
        "learned/driver",
        "learned/expert_walk",
        "learned/pool",
        "learned/program",
        "learned/real_batches",
        "learned/start",
        "core/preprocessing",
    ),
    "learned.experts": (
        "learned/experts",
        "learned/expert_groups",
        "learned/expert_store",
        "learned/augmentation",
        "learned/networks",
        "core/preprocessing",
    ),
    "data.whitening": ("data/whitening",),
    "coreset.herding": ("evaluation/coresets",),
    "coreset.kmeans": ("evaluation/coresets",),
}
_OF_PROTOCOLS = (
    "training/protocol",
    "training/protocols",
    "training/published_protocols",
    "training/student_program",
    "training/student_labels",
    "training/student_step",
    "training/state",
    "labels/compact",
    "core/losses",
    "core/normalisation",
)
_OF_LEARNING = (
    "learned/methods",
    "learned/augmentation",
    "learned/convexified",
    "learned/images",
    "learned/matching",
    "learned/matching_trajectories",
    "learned/networks",
    "learned/optimisers",
    "learned/sharing",
    "learned/students",
    "learned/unrolled",
)
_OF_TERMS = ("teachers/statistics_matching", "teachers/layer_statistics")
_PLUGGED = {
    "term": plugins.TERMS,
    "start": plugins.STARTS,
    "rule": plugins.RULES,
    "protocol": plugins.PROTOCOLS,
    "model": plugins.MODELS,
    "optimiser": plugins.OPTIMISERS,
}
_NOT_CODE = ("ctx", "kind", "type_comment", "type_params")


def changed(names: Iterable[str]) -> dict[str, str]:
    """Digests of the sources that are not the recorded ones, by the part's name.

    A part whose source cannot be read has only its version, and is left out.

    Args:
      names: of parts, e.g. "term.barycentre".
    """
    recorded = record()
    now = {
        name: digest(name) if name in recorded or not _is_plugged(name) else _plugged_digest(name)
        for name in names
    }
    return {
        name: source
        for name, source in now.items()
        if source and (name not in recorded or source != recorded[name][1])
    }


@functools.cache
def record() -> dict[str, list]:
    """Version and digest of every part as released; empty where the record is gone."""
    try:
        return json.loads(RECORD.read_text(encoding="utf-8"))
    except OSError:
        return {}


@functools.cache
def digest(name: str) -> str:
    """Digest of a part's source as it is now; empty if it cannot be read."""
    try:
        code = "".join(map(statements, modules(name)))
    except OSError:
        return ""
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def _is_plugged(name: str) -> bool:
    """Whether a part comes from outside, be it of this run or of a file of results."""
    kind, _, own = name.partition(".")
    group = _PLUGGED.get(kind)
    return group is not None and (plugins.is_path(own) or plugins.is_allowed(group, own))


def _plugged_digest(name: str) -> str:
    """Digest of a plug-in's module and of those of its package that it imports.

    Empty where the module has a `VERSION`, which then says when its results change, and for a
    plug-in that the user has not named, as a file of results may.
    """
    kind, _, own = name.partition(".")
    module = plugins.module_of(_PLUGGED[kind], own)
    if module is None or hasattr(module, "VERSION"):
        return ""
    return _digest_of_module(module)


def of_plugins() -> dict[str, str]:
    """Digests of all plug-ins that the user has named, by part."""
    named = [f"{kind}.{name}" for kind, group in _PLUGGED.items() for name in plugins.named(group)]
    return {name: _plugged_digest(name) for name in sorted(named) if name not in record()}


@functools.cache
def _digest_of_module(module: ModuleType) -> str:
    """The same of a module as it was imported, whose source may change later."""
    package, left = module.__name__.partition(".")[0], [module.__name__]
    found: dict[str, str] = {}
    while left:
        name = left.pop(0)
        file = getattr(sys.modules.get(name), "__file__", None)
        if name in found or not file:
            continue
        source = Path(file).read_bytes()
        found[name] = _code(source)
        left += [o for o in _absolute(source, name, file) if f"{o}.".startswith(f"{package}.")]
    return hashlib.sha256("".join(found.values()).encode()).hexdigest()[:16] if found else ""


def _absolute(source: bytes, name: str, file: str) -> list[str]:
    """Full names of what a module's source imports, modules and perhaps names in them."""
    here = name if Path(file).name == "__init__.py" else name.rpartition(".")[0]
    names: list[str] = []
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # changed since it was imported
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here.split(".")[: len(here.split(".")) - (node.level - 1)] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return names


def modules(name: str) -> tuple[str, ...]:
    """The modules that a part is made of, as paths below the package without their ending.

    >>> modules("augment.mixup")
    ('augment/mix',)
    """
    if name in _ALWAYS:
        return _ALWAYS[name]
    kind, _, own = name.partition(".")
    if kind == "term":
        return (*_with_siblings(f"terms/{own}"), *_OF_TERMS)
    if kind == "start":
        return ("recovery/initial_images", "recovery/starts", *_STARTS.get(own, ()))
    if kind == "protocol":
        return _OF_PROTOCOLS
    if kind == "learned":  # its methods share most of their modules
        return _OF_LEARNING
    if kind == "model":
        files = next((f for begin, f in _NETWORKS.items() if own.startswith(begin)), None)
        if files is None:  # a network that is not ours may be defined anywhere among them
            return ("models",)
        return tuple(f"models/{file}" for file in (*files, *_OF_NETWORKS))
    return tuple(f"augment/{module}" for module in _AUGMENTATIONS.get(own, (own,)))


def _with_siblings(module: str) -> tuple[str, ...]:
    """A module and the modules of its folder that it imports, and those that they import."""
    folder, found, left = module.rpartition("/")[0], [], [module]
    package = "delt_jax." + folder.replace("/", ".")
    while left:
        found.append(left.pop(0))
        for file in _files(found[-1]):
            for sibling in _imported(file, package):
                path = f"{folder}/{sibling}"
                if path not in (*found, *left) and _exists(path):
                    left.append(path)
    return tuple(found)


def _imported(file: Path, package: str) -> list[str]:
    """Names that a file imports from a package, whether by its full name or relatively."""
    names: list[str] = []
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [a.name.removeprefix(f"{package}.") for a in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.level or node.module == package):
            names += [(node.module or "").split(".")[0]] if node.level and node.module else []
            names += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            names.append((node.module or "").removeprefix(f"{package}."))
    return [name.split(".")[0] for name in names if name]


def _exists(module: str) -> bool:
    return (_PACKAGE / f"{module}.py").is_file() or (_PACKAGE / module).is_dir()


def _files(module: str) -> list[Path]:
    """Source files of a module, or of all modules of a package.

    Raises:
      OSError: if there is none.
    """
    folder = _PACKAGE / module
    found = sorted(folder.rglob("*.py")) if folder.is_dir() else [_PACKAGE / f"{module}.py"]
    if not found:
        raise FileNotFoundError(folder)
    return found


@functools.cache
def statements(module: str) -> str:
    """The statements of a module that compute: no imports, docstrings, comments or layout.

    Raises:
      OSError: if there is no source.
    """
    return "".join(_code(file.read_bytes()) for file in _files(module))


def _code(source: bytes) -> str:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # changed since it was imported; every byte counts
        return source.hex()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _is_silent(s)]  # type: ignore[attr-defined]
    return dump(tree)


def dump(node: object) -> str:
    """Syntax as text, the same from every version of Python, unlike that of `ast.dump`."""
    if isinstance(node, list):
        return f"[{','.join(map(dump, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if name not in _NOT_CODE]
    filled = [f"{name}={dump(value)}" for name, value in fields if value not in (None, [])]
    return f"{type(node).__name__}({','.join(filled)})"


def _is_silent(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return True
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def package() -> str:
    """Digest of all sources of this package."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(_PACKAGE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
