"""Reads torch's pickles as data: a small stack machine that imports and calls nothing.

A pickle is a program that may call any function. This machine knows the few names that tensors
need. Whatever else a pickle names, calls or builds becomes a `Placeholder`, which only remembers
the name; so a record of arguments beside the weights does no harm, and neither does an attack.
"""

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from delt_jax.models.torch_objects import Placeholder, Storage, named, result, set_items, storage_of
from delt_jax.store.foreign import ForeignFileError

MOST_STEPS = 3_000_000  # a network of a thousand layers with its optimizer takes 200,000
_MOST_DEPTH = 200
_MARK = object()


class Pickle(NamedTuple):
    """A pickle's content.

    Attributes:
      content: dictionaries, lists, tuples, text, bytes and numbers, with `Tensor`, `Storage` and
        `Placeholder` in them.
      storages: by key, all that it names, also within what became a placeholder.
    """

    content: Any
    storages: dict[str, Storage]


class Lines(Protocol):
    """What is read of a stream."""

    def read(self, count: int, /) -> bytes:
        """At most so many bytes."""
        ...

    def readline(self) -> bytes:
        """The rest of a line."""
        ...


def parse(stream: Lines) -> Pickle:
    """Reads one pickle and leaves the stream behind it.

    Raises:
      ForeignFileError: if it is damaged, too large or too deep, calls the operating system, or
        a key of a dictionary is no text, number or short tuple of these.
    """
    machine = _Machine()
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):  # type: ignore
            if step > MOST_STEPS:
                raise ForeignFileError(f"its pickle has more than {MOST_STEPS} steps")
            if opcode.name == "STOP":
                return Pickle(machine.pop(), machine.storages)
            machine.step(opcode.name, argument)
    except ForeignFileError:
        raise
    except Exception as e:  # a damaged pickle can fail anywhere
        reason = (str(e).strip().splitlines() or [""])[0][:100]
        raise ForeignFileError(f"its pickle is damaged ({type(e).__name__}: {reason})") from e
    raise ForeignFileError("its pickle has no end")


class _Machine:
    """The stack and the memo of a pickle.

    Each entry of the stack is a value and how deep it is nested. A container that is filled after
    it was stored may be deeper than its entry says, so readers of the result bound their depth.
    """

    def __init__(self) -> None:
        self._stack: list[tuple[Any, int]] = []
        self._memo: dict[int, tuple[Any, int]] = {}
        self.storages: dict[str, Storage] = {}

    def pop(self) -> Any:
        return self._pop()[0]

    def step(self, name: str, argument: Any) -> None:
        """Obeys one opcode."""
        if name in _PLAIN:
            self._push(argument)
        elif name in _CONSTANTS:
            self._push(_CONSTANTS[name]())
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise ForeignFileError(f"its pickle has the step {name}, which tensors do not need")

    def _push(self, value: Any, depth: int = 0) -> None:
        if depth > _MOST_DEPTH:
            raise ForeignFileError(f"its pickle is nested more than {_MOST_DEPTH} deep")
        self._stack.append((value, depth))

    def _pop(self) -> tuple[Any, int]:
        entry = self._stack.pop()
        if entry[0] is _MARK:
            raise ForeignFileError("its pickle is damaged: a mark is out of place")
        return entry

    def _to_mark(self) -> list[tuple[Any, int]]:
        """What lies above the last mark, which is taken away too."""
        entries = []
        while (entry := self._stack.pop())[0] is not _MARK:
            entries.append(entry)
        return entries[::-1]

    def _gather(self, entries: list[tuple[Any, int]], make: Callable[[list], Any]) -> None:
        depth = 1 + max((depth for _, depth in entries), default=0)
        self._push(make([value for value, _ in entries]), depth)

    def _fill(self, entries: list[tuple[Any, int]]) -> Any:
        """The container on top, its depth raised to hold the entries."""
        container, depth = self._pop()
        self._push(container, max([depth, *(1 + d for _, d in entries)]))
        return container

    def mark(self, _: Any) -> None:
        self._stack.append((_MARK, 0))

    def drop(self, _: Any) -> None:
        self._stack.pop()

    def drop_to_mark(self, _: Any) -> None:
        self._to_mark()

    def copy_top(self, _: Any) -> None:
        self._push(*self._stack[-1])

    def put(self, key: Any) -> None:
        self._memo[len(self._memo) if key is None else int(key)] = self._stack[-1]

    def get(self, key: Any) -> None:
        if int(key) not in self._memo:
            raise ForeignFileError("its pickle is damaged: it recalls what it did not store")
        self._push(*self._memo[int(key)])

    def tuple_of(self, count: int) -> None:
        entries = [self._pop() for _ in range(count)][::-1]
        self._gather(entries, tuple)

    def tuple_to_mark(self, _: Any) -> None:
        self._gather(self._to_mark(), tuple)

    def list_to_mark(self, _: Any) -> None:
        self._gather(self._to_mark(), list)

    def dict_to_mark(self, _: Any) -> None:
        self._gather(self._to_mark(), lambda values: set_items({}, values))

    def set_to_mark(self, _: Any) -> None:
        self._gather(self._to_mark(), lambda values: Placeholder("builtins.frozenset"))

    def append(self, _: Any) -> None:
        self._append([self._pop()])

    def appends(self, _: Any) -> None:
        self._append(self._to_mark())

    def _append(self, entries: list[tuple[Any, int]]) -> None:
        container = self._fill(entries)
        if isinstance(container, list):
            container.extend(value for value, _ in entries)
        elif not isinstance(container, Placeholder):
            raise ForeignFileError("its pickle is damaged: it appends to what is no list")

    def set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def set_items(self, _: Any) -> None:
        self._set(self._to_mark())

    def _set(self, entries: list[tuple[Any, int]]) -> None:
        container = self._fill(entries)
        if isinstance(container, dict):
            set_items(container, [value for value, _ in entries])
        elif not isinstance(container, Placeholder):
            raise ForeignFileError("its pickle is damaged: it sets items of what is no dictionary")

    def add_items(self, _: Any) -> None:
        self._to_mark()  # of a set, which is a placeholder

    def global_named(self, argument: str) -> None:
        module, _, attribute = argument.partition(" ")
        self._push(named(module, attribute))

    def global_of_stack(self, _: Any) -> None:
        attribute, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise ForeignFileError("its pickle is damaged: a name is no text")
        self._push(named(module, attribute))

    def instance_named(self, argument: str) -> None:
        self.global_named(argument)
        called = self.pop()
        self._call(called, self._to_mark())

    def instance_to_mark(self, _: Any) -> None:
        called, *entries = self._to_mark()
        self._call(called[0], entries)

    def call(self, _: Any) -> None:
        arguments, depth = self._pop()
        entries = [(a, depth) for a in arguments] if isinstance(arguments, tuple) else []
        self._call(self.pop(), entries)

    def call_with_names(self, _: Any) -> None:
        self._pop()
        self.call(_)

    def _call(self, called: Any, entries: list[tuple[Any, int]]) -> None:
        depth = max((depth for _, depth in entries), default=0)
        self._push(result(called, [value for value, _ in entries]), depth)

    def build(self, _: Any) -> None:
        self._pop()  # the state of an object, such as the metadata of a state dict

    def persistent(self, _: Any) -> None:
        storage = storage_of(self.pop())
        if isinstance(storage, Storage):
            self.storages[storage.key] = storage
        self._push(storage)

    def nothing(self, _: Any) -> None:
        pass


# Opcodes whose argument is the value.
_PLAIN = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
        *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Placeholder("builtins.set"),
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": _Machine.drop_to_mark,
    "DUP": _Machine.copy_top,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": _Machine.tuple_to_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_to_mark,
    "DICT": _Machine.dict_to_mark,
    "FROZENSET": _Machine.set_to_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.add_items,
    "GLOBAL": _Machine.global_named,
    "STACK_GLOBAL": _Machine.global_of_stack,
    "INST": _Machine.instance_named,
    "OBJ": _Machine.instance_to_mark,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_names,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
    "PROTO": _Machine.nothing,
    "FRAME": _Machine.nothing,
}
