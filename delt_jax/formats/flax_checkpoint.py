"""Checkpoints of FRePo and RCIG: Flax's msgpack with `x_proto` and `y_proto` among its parameters.

Nothing in such a file is run: it holds maps, numbers and arrays of named types.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax.errors import UserError
from delt_jax.formats.stored import Stored, channels_last
from delt_jax.store import regular
from delt_jax.store.foreign import ForeignFileError, available_bytes

_ARRAY, _SCALAR = 1, 3  # Flax's types of msgpack extensions
_TYPES = ("float32", "float64", "float16", "int32", "int64", "uint8", "uint32", "bool")
_NAMES = ("checkpoint_", "best_ckpt", "saved_ckpt")


def detect(path: Path) -> bool:
    """Whether this is a file that is called as checkpoints of Flax are, without an ending."""
    return path.is_file() and not path.suffix and path.name.startswith(_NAMES)


def read(path: Path) -> Stored:
    """Reads images and labels, values of a squared error whose largest are the classes.

    Raises:
      UserError: if the file is damaged or has no such arrays.
    """
    import msgpack

    try:
        content = regular.read_bytes(path, available_bytes() // 4)
        tree = msgpack.unpackb(content, ext_hook=_extension, raw=False, strict_map_key=False)
    except ForeignFileError as e:
        raise UserError(f"{path} cannot be read: {e}.") from e
    except MemoryError:
        raise
    except Exception as e:  # msgpack raises many types at a damaged file
        raise UserError(f"{path} is no checkpoint of Flax, or damaged ({type(e).__name__}).") from e
    found = _parameters(tree)
    images, labels = (_whole(found.get(name)) for name in ("x_proto", "y_proto"))
    if images is None or labels is None or labels.ndim != 2 or len(labels) != len(images):
        raise UserError(
            f"{path} holds no images x_proto with labels y_proto, as FRePo and RCIG store them."
        )
    if not np.isfinite(labels).all():
        raise UserError(f"{path} has labels that are not finite.")
    return Stored(
        channels_last(images, False, str(path)),
        labels.argmax(1),
        learned_labels=labels,
        label_form="centred",
    )


def _parameters(tree: Any) -> dict[Any, Any]:
    """The map of images and labels that the release's own evaluation takes.

    That is the average over steps where RCIG keeps one, else the parameters, and not an optimiser's
    moments, which have the same names.
    """
    state = tree if isinstance(tree, dict) else {}
    parameters = _holder(state.get("params"))
    is_rcig = "log_temp" in parameters
    return (_holder(state.get("ema_average")) if is_rcig else {}) or parameters or _holder(tree)


def _holder(tree: Any) -> dict[Any, Any]:
    """The map that has `x_proto`, wherever it is; empty where there is none."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "x_proto" in node:
                return node
            waiting += node.values()
    return {}


def _whole(value: Any) -> np.ndarray | None:
    """An array, put together where Flax cut it into chunks."""
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, dict) or "__msgpack_chunked_array__" not in value:
        return None
    try:
        shape = [value["shape"][str(i)] for i in range(len(value["shape"]))]
        chunks = [value["chunks"][str(i)] for i in range(len(value["chunks"]))]
        return np.concatenate(chunks).reshape(shape)
    except (KeyError, TypeError, ValueError):
        return None


def _extension(code: int, data: bytes) -> Any:
    """An array of plain numbers; what else there may be is left out."""
    import msgpack

    if code not in (_ARRAY, _SCALAR):
        return None
    shape, name, content = msgpack.unpackb(data, raw=True)
    kind = name.decode("ascii", "replace")
    if kind not in _TYPES:
        raise ForeignFileError(f"it has an array of the type {kind}")
    dtype = np.dtype(kind).newbyteorder("<")
    if any(type(n) is not int or n < 0 for n in shape):
        raise ForeignFileError("it has an array without a shape")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ForeignFileError(f"it claims an array {shape[:6]} that its bytes do not hold")
    return np.frombuffer(content, dtype).astype(kind).reshape(shape)
