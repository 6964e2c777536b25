"""The colours of pages and charts, each for a light and a dark screen."""

COLOURS: dict[str, tuple[str, str]] = {  # by role: on a light screen, on a dark one
    "paper": ("#ffffff", "#14171a"),
    "card": ("#f4f6f8", "#1d2126"),
    "ink": ("#1b1e22", "#e8eaed"),
    "soft": ("#545b65", "#aeb6c0"),  # of what is less important
    "line": ("#d5dae0", "#3b424a"),
    "accent": ("#0a5a94", "#7cc3f2"),  # of links, and of what to look at first
    "warning": ("#a33b00", "#f6a06a"),
    "heat": ("#56b4e9", "#0b5c96"),  # of the fullest cell of a matrix
    # Series, which people with any kind of colour blindness tell apart; shapes differ, too.
    "s0": ("#0072b2", "#56b4e9"),
    "s1": ("#c9520a", "#f0894a"),
    "s2": ("#00805c", "#2fbf92"),
    "s3": ("#a3327a", "#e48fc0"),
    "s4": ("#8a6d00", "#e6c229"),
    "s5": ("#5a3fb5", "#b0a3f2"),
    "s6": ("#30353b", "#dfe3e8"),
    "s7": ("#6b7280", "#98a1ac"),
}
SERIES = tuple(name for name in COLOURS if name[0] == "s" and name[1:].isdigit())


def rules() -> str:
    """CSS for a file of its own: the class of each role sets its colour, in both modes."""
    light, dark = (
        "".join(f".{name}{{color:{both[mode]}}}" for name, both in COLOURS.items())
        for mode in (0, 1)
    )
    return f"{light}@media(prefers-color-scheme:dark){{{dark}}}"
