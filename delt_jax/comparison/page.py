"""The page of a comparison: its verdict, its charts and images, and then its tables."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from delt_jax.comparison import tables as comparison_tables
from delt_jax.comparison.names import SharedParts, listed, shared_parts
from delt_jax.comparison.tables import CellResult
from delt_jax.reporting import figures, templates
from delt_jax.reporting.svg import Chart
from delt_jax.reporting.tables import Section, Table

_NAMED = 3  # recipes, up to which the title names them


class ComparedImages(NamedTuple):
    """The same classes of several sets.

    Attributes:
      ipc: images per class of the sets.
      class_names: of the classes that are shown.
      rows: uint8 [classes, n, S, S, C] by the set's name.
    """

    ipc: int
    class_names: Sequence[str]
    rows: Mapping[str, np.ndarray]


def page(
    cells: Sequence[CellResult],
    missing: Sequence[str],
    verdict: Sequence[str],
    charts: Mapping[str, Chart],
    images: Sequence[ComparedImages],
) -> str:
    """One HTML file.

    Args:
      cells: that are finished.
      missing: names of those that are not.
      verdict: sentences.
      charts: by name.
      images: a group for each IPC and data set.
    """
    methods = list(dict.fromkeys(cell.method for cell in cells))
    shared = shared_parts(methods)
    short = [shared.short(method) for method in methods]
    title = listed(short) if len(short) <= _NAMED else f"{len(short)} recipes"
    return templates.render(
        "comparison.html",
        title=title,
        names=f"{shared.head}NAME{shared.tail}" if any(shared) else "",
        verdict=verdict,
        missing=missing,
        warnings=comparison_tables.warnings(cells),
        charts=list(charts.values()),
        sheets=[_sheet(group) for group in images],
        tables=[
            _shortened(part, shared) for part in comparison_tables.sections(cells, for_page=True)
        ],
        commands=comparison_tables.commands(cells).table,
        hashes=comparison_tables.hashes(cells),
    )


def _shortened(part: Section, shared: SharedParts) -> Section:
    """A table with short names of recipes."""
    body = [tuple(map(shared.short, row)) for row in part.table.body]
    above, below = (list(map(shared.short, words)) for words in (part.above, part.below))
    return Section(part.title, above, Table(part.table.head, body), below)


def _sheet(group: ComparedImages) -> dict[str, Any]:
    """A group as a row of strips for each set."""
    shared = shared_parts([name for name in group.rows if name != "real"])
    rows = [
        {
            "name": shared.short(name),
            "strips": [
                figures.strip(name, f"{class_name} by {shared.short(name)}", [images[c]])
                for c, class_name in enumerate(group.class_names)
            ],
        }
        for name, images in group.rows.items()
    ]
    plural = "s" * (group.ipc != 1)
    title = f"{group.ipc} image{plural} per class, those that join first on the left of each class"
    return {"title": title, "class_names": group.class_names, "rows": rows}
