"""Names from data and files as words in pictures: never a line break or a mile long."""

import unicodedata
from collections.abc import Sequence

_MOST = 32  # characters of a name in a picture


def printed(name: str, most: int = _MOST) -> str:
    """A name on one line: what cannot be printed becomes a space, and what is too long an ellipsis.

    >>> printed("a\\nb")
    'a b'
    """
    kept = "".join(c if c.isprintable() and not _is_mark(c) else " " for c in name)
    return kept if len(kept) <= most else kept[: most - 1] + "…"


def all_printed(names: Sequence[str]) -> list[str]:
    """`printed` of each name."""
    return [printed(name) for name in names]


def _is_mark(character: str) -> bool:
    """Whether a character only changes how others are drawn, as direction marks do."""
    return unicodedata.category(character) in ("Cf", "Cs", "Co", "Cn")
