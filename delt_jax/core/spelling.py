"""Names that are near to a misspelt one."""

import difflib
from collections.abc import Sequence

_NEAR = 0.6  # ratio of equal letters; below it a guess misleads, as frepo for foo


def nearest(name: str, known: Sequence[str]) -> str:
    """Ends a sentence about a misspelt name: with a "did you mean", or just a full stop."""
    match = [k for k in known if k.endswith(f".{name}")][:1]
    match = match or difflib.get_close_matches(name, known, n=1, cutoff=_NEAR)
    if not match:  # compares the last part alone, e.g. `ierations` with `recover.iterations`
        tails = {k.rsplit(".", 1)[-1]: k for k in known}
        found = difflib.get_close_matches(name.rsplit(".", 1)[-1], list(tails), n=1, cutoff=0.7)
        match = [tails[f] for f in found]
    return f"; did you mean {match[0]}?" if match else "."
