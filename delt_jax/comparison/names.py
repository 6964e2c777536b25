"""Names of recipes without what all of them share, which pictures and sentences need not repeat."""

import itertools
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple


class SharedParts(NamedTuple):
    """What several names have in common.

    Attributes:
      head: their beginning, which ends with ":" or ","; or nothing.
      tail: their end, which begins with ","; or nothing.
    """

    head: str
    tail: str

    def short(self, name: str) -> str:
        """A name, or words with such names in them, without these parts."""
        for part in filter(None, self):
            name = name.replace(part, "")
        return name


def shared_parts(methods: Collection[str]) -> SharedParts:
    """Common beginning and end of several recipes' names.

    >>> shared_parts(["a:row,cda,p=1", "a:row,sre2l,p=1"])
    SharedParts(head='a:row,', tail=',p=1')
    """
    names = sorted(set(methods))
    if len(names) < 2:
        return SharedParts("", "")
    head = re.sub(r"[^:,]*$", "", _beginning(names))
    rests = [name[len(head) :] for name in names]
    tail = _beginning([rest[::-1] for rest in rests])[::-1]
    return SharedParts(head, "".join(tail.partition(",")[1:]))


def _beginning(names: Sequence[str]) -> str:
    equal = itertools.takewhile(lambda at: len(set(at)) == 1, zip(*names, strict=False))
    return "".join(at[0] for at in equal)


def listed(names: Sequence[str]) -> str:
    """Names as a part of a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
