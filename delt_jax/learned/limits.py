"""Limits of what a method can learn with, said in sentences.

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


def one_of(setup: Setup, name: str, *values: float) -> str:
    """Of a number that is none of these."""
    value = setup.option(name)
    if value in values:
        return ""
    return f"{name}={value:g} must be {' or '.join(f'{known:g}' for known in values)}"


def between(setup: Setup, name: str, least: float, below: float) -> str:
    """Of a number that is not at least `least` and below `below`."""
    value = setup.option(name)
    if least <= value < below:
        return ""
    return f"{name}={value:g} must be at least {least:g} and below {below:g}"


def fixed_labels(setup: Setup) -> str:
    """Of a rate of labels, where the method's loss reads classes."""
    if not setup.label_rate:
        return ""
    return f"learn.label_rate={setup.label_rate:g} must be 0, as its labels are the classes"


def undivided(setup: Setup) -> str:
    """Of several images in one, where the method's loss reads an image as it is stored."""
    if setup.factor == 1:
        return ""
    return f"learn.factor={setup.factor} must be 1, as it does not take images apart"
