"""Names from data and files as words in pictures: never a formula, a line break or a mile long."""

import contextlib
import unicodedata
import warnings
from collections.abc import Iterator, Sequence

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


def charted(name: str, most: int = _MOST) -> str:
    """`printed` for matplotlib, which would read what lies between two dollar signs as a formula.

    It would also leave a label that begins with an underscore out of the legend.
    """
    text = printed(name, most).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def all_charted(names: Sequence[str]) -> list[str]:
    """`charted` of each name."""
    return [charted(name) for name in names]


@contextlib.contextmanager
def missing_glyphs_unsaid() -> Iterator[None]:
    """Lets matplotlib draw a box for a character that its font lacks, without a word on stderr."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(Glyph|Matplotlib currently does not support)")
        yield
