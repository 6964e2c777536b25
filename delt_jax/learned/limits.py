"""Limits of the numbers that a method alone has (`learn.options`), said in sentences.

A function here gives what is wrong, as the end of a sentence, or the empty string.
"""

from delt_jax.learned.method import Setup


def whole(setup: Setup, least: int, *names: str) -> str:
    """Of the first of these numbers that is not whole, or below the least."""
    for name in names:
        value = setup.option(name)
        if value != int(value) or value < least:
            return f"{name}={value:g} must be a whole number of at least {least}"
    return ""


def not_negative(setup: Setup, *names: str) -> str:
    """Of the first of these numbers that is below 0."""
    for name in names:
        if setup.option(name) < 0:
            return f"{name}={setup.option(name):g} must be at least 0"
    return ""
