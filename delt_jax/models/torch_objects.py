"""What torch's pickles can name: tensors and their storages. All else is a placeholder.

Nothing here imports or calls what a name stands for.
"""

from dataclasses import dataclass
from typing import Any

from delt_jax.store.foreign import ForeignFileError

_MOST_PARTS_OF_A_KEY = 8
_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2")
_PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
# A file that calls these beside its weights is an attack on those who load it with torch.
_HOSTILE_MODULES = (
    *("os", "posix", "nt", "subprocess", "sys", "socket", "shutil", "runpy", "importlib", "ctypes"),
    *("pty", "commands", "code", "webbrowser", "multiprocessing", "asyncio", "pdb", "timeit"),
)
_HOSTILE_BUILTINS = ("eval", "exec", "compile", "__import__", "open", "execfile", "breakpoint")


class RefusedPickleError(ForeignFileError):
    """A pickle refers to what is no tensor; the message is its dotted name."""


@dataclass(frozen=True)
class Storage:
    """Numbers of a file that tensors share.

    Attributes:
      kind: of the numbers: torch's name of a dtype or of a class of storages.
      key: names them in the file.
      count: of the numbers in the whole storage; bytes where the kind is `UntypedStorage`.
      start, length: the part of it that is meant; files before 1.6 have such parts.
    """

    kind: str
    key: str
    count: int
    start: int
    length: int


@dataclass(frozen=True)
class Tensor:
    """A tensor that has not been read.

    Attributes:
      storage: its numbers.
      kind: of its numbers, as `Storage.kind`.
      offset, shape, stride: where in the storage, in elements.
    """

    storage: Storage
    kind: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Placeholder:
    """Anything but plain data and tensors: the dotted name that a pickle has for it."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        """Remembers the name."""
        self.name = name


def named(module: str, attribute: str) -> Placeholder:
    """What a pickle refers to; raises a ForeignFileError for the operating system's functions."""
    top = module.partition(".")[0]
    builtin = module in ("builtins", "__builtin__") and attribute in _HOSTILE_BUILTINS
    if top in _HOSTILE_MODULES or builtin:
        raise RefusedPickleError(f"{module}.{attribute}")
    return Placeholder(f"{module}.{attribute}")


def set_items(target: dict, values: list) -> dict:
    """Sets items of a dictionary from keys and values in turn."""
    if len(values) % 2:
        raise ForeignFileError("its pickle is damaged: a key has no value")
    for key, value in zip(values[::2], values[1::2], strict=True):
        parts = key if isinstance(key, tuple) else (key,)
        # Python hashes a nested tuple by recursion in C, which a deep one overflows.
        if len(parts) > _MOST_PARTS_OF_A_KEY or not all(_is_plain(part) for part in parts):
            if isinstance(key, Placeholder):
                continue  # such as a member of an enumeration, in a dictionary beside the weights
            raise ForeignFileError(
                f"its pickle has a {type(key).__name__} as a key that is no text, number or short "
                f"tuple of these"
            )
        target[key] = value
    return target


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool, bytes))


def result(called: Any, arguments: list) -> Any:
    """What a call gives: tensors for the functions that make them, else a placeholder."""
    if not isinstance(called, Placeholder):
        raise ForeignFileError(
            f"its pickle is damaged: it calls a {type(called).__name__}, which is no function"
        )
    module, _, function = called.name.rpartition(".")
    if called.name == "collections.OrderedDict":
        return _ordered(arguments)
    if module == "torch._utils" and function in _TENSORS and len(arguments) >= 4:
        storage, offset, shape, stride = arguments[:4]
        return _tensor(storage, offset, shape, stride, None)
    if called.name == "torch._utils._rebuild_tensor_v3" and len(arguments) >= 7:
        storage, offset, shape, stride = arguments[:4]
        return _tensor(storage, offset, shape, stride, arguments[6])
    if module == "torch._utils" and function in _PARAMETERS and arguments:
        return arguments[0]
    if called.name == "torch._tensor._rebuild_from_type_v2":
        match arguments:  # a function, the type of its result, its arguments, its attributes
            case [Placeholder() as makes, _, tuple(given), *_] if makes.name != called.name:
                return result(makes, list(given))
    if called.name == "torch.Size" and arguments and isinstance(arguments[0], tuple):
        return arguments[0]
    return Placeholder(called.name)


def _ordered(arguments: list) -> dict:
    """An OrderedDict, empty or of a list of pairs, as before Python 3."""
    made: dict = {}
    for pair in arguments[0] if arguments and isinstance(arguments[0], list) else ():
        if isinstance(pair, list | tuple) and len(pair) == 2:
            set_items(made, list(pair))
    return made


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, dtype: Any) -> Any:
    if not isinstance(storage, Storage):
        return storage if isinstance(storage, Placeholder) else Placeholder("an unknown storage")
    kind = dtype.name.removeprefix("torch.") if isinstance(dtype, Placeholder) else storage.kind
    if not all(isinstance(numbers, tuple | list) for numbers in (shape, stride)):
        raise ForeignFileError("its pickle is damaged: a tensor has no shape")
    numbers = (offset, *shape, *stride)
    if not all(type(n) is int for n in numbers) or len(shape) != len(stride):
        raise ForeignFileError("its pickle is damaged: a tensor has no whole numbers as its shape")
    if min(numbers) < 0 or len(shape) > 32 or max(numbers) >= 2**63:
        raise ForeignFileError(f"its pickle has a tensor of {len(shape)} impossible dimensions")
    return Tensor(storage, kind, offset, tuple(shape), tuple(stride))


def storage_of(pid: Any) -> Storage | Placeholder:
    """What a persistent id stands for: the numbers of a storage, or the source of a module."""
    if isinstance(pid, tuple) and pid and pid[0] == "module":
        return pid[1] if len(pid) > 1 and isinstance(pid[1], Placeholder) else Placeholder("module")
    match pid:
        case ("storage", Placeholder(name=str(name)), key, _, int(count), *rest) if (
            isinstance(key, str | int) and 0 <= count < 2**63
        ):
            start, length = 0, count
            if rest and rest[0] is not None:
                match rest[0]:
                    case (_, int(start), int(length)) if 0 <= start <= start + length <= count:
                        pass
                    case _:
                        raise ForeignFileError("its pickle has an unknown view of a storage")
            kind = name.rpartition(".")[2]
            return Storage(kind, str(key), count, start, length)
    raise ForeignFileError("it holds a storage that is unknown")
