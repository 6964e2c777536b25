"""Shapes that values of JSON files must have, before anything reads them."""

from typing import Any

_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def mismatch(value: Any, shape: Any, where: str = "it") -> str:
    """What is wrong with a value, as a phrase; empty if it has the shape.

    Args:
      value: of a JSON file.
      shape: a type; `[shape]` for a list of any length; `{name: shape}` for an object that has at
        least these names, but for those that end in "?"; or a tuple of shapes to choose from. A
        whole number is a number, and true is neither.
      where: names the value.

    >>> mismatch({"ipc": 3, "names": ["a"]}, {"ipc": int, "names": [str], "seed?": int})
    ''
    >>> mismatch({"ipc": "3"}, {"ipc": int})
    'ipc is no whole number'
    """
    if isinstance(shape, tuple):
        wrong = [mismatch(value, one, where) for one in shape]
        return wrong[0] if all(wrong) else ""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is no list"
        return next(
            filter(None, (mismatch(v, shape[0], f"an entry of {where}") for v in value)), ""
        )
    if isinstance(shape, dict):
        return _mismatch_of_object(value, shape, where)
    expected = (int, float) if shape is float else shape
    if isinstance(value, expected) and (shape is bool or not isinstance(value, bool)):
        return ""
    return f"{where} is no {_NAMES[shape].removeprefix('a ').removeprefix('an ')}"


def _mismatch_of_object(value: Any, shape: dict[str, Any], where: str) -> str:
    if not isinstance(value, dict):
        return f"{where} is no object"
    for name, own in shape.items():
        key = name.removesuffix("?")
        if key not in value:
            if key == name:
                return f"{key} is missing"
        elif wrong := mismatch(value[key], own, key):
            return wrong
    return ""
