"""Cases of a parametrised test that `make test` leaves to `make test_rest`."""

import pytest


def costly(*values, when=True, **named):
    """A case of a kind of which the test has a cheaper or plainer one; `when` picks it by name."""
    marks = [pytest.mark.exhaustive] * bool(when)
    return pytest.param(*values, marks=marks, **named)
