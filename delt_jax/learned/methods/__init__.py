"""Methods of learning a set, each a value that the engine runs."""

from delt_jax.core.spelling import nearest
from delt_jax.errors import UserError
from delt_jax.learned.method import Method
from delt_jax.learned.methods.dm import DM
from delt_jax.learned.methods.frepo import FREPO
from delt_jax.learned.methods.gradient_matching import DC, DSA
from delt_jax.learned.methods.idc import IDC

_METHODS = {method.name: method for method in (DM, DC, DSA, IDC, FREPO)}
NAMES = tuple(_METHODS)


def find(name: str) -> Method:
    """The method of a name.

    Raises:
      UserError: if there is none.
    """
    if name not in _METHODS:
        raise UserError(
            f"learn.method is {name!r}, but sets are learned by {', '.join(NAMES[:-1])} or "
            f"{NAMES[-1]}{nearest(name, NAMES)}"
        )
    return _METHODS[name]


_VERSIONS: dict[str, int] = {}  # of methods whose results have changed; 1 if not listed


def version(name: str) -> int:
    """Version of a method, part of the identity of everything made with it."""
    return _VERSIONS.get(name, 1)
