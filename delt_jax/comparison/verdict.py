"""What a comparison says, in two sentences: who leads by which labels, and whether chance could."""

from collections import Counter
from collections.abc import Sequence

from delt_jax.comparison.names import listed, shared_parts
from delt_jax.comparison.tables import CellResult, Line, lines
from delt_jax.evaluation import verdict
from delt_jax.evaluation.verdict import Gain

_MOST = 4  # recipes that one clause names


def sentences(cells: Sequence[CellResult]) -> list[str]:
    """The verdict on the first student, at the images per class that most recipes have.

    It names the student where there are several. Of several such numbers of images it is the
    largest. Only cells of one data set are compared.

    Args:
      cells: that are finished, at least one.

    Returns:
      A sentence on recipes, and one on as many real images; each only where there is something to
      compare.
    """
    classes = cells[0].summary["class_names"]
    found = lines([cell for cell in cells if cell.summary["class_names"] == classes])
    students = list(dict.fromkeys(each.row.student for each in found))
    found = [each for each in found if each.row.student == students[0]]
    ours = [each for each in found if not each.is_baseline and each.row.ipc == each.cell.ipc]
    if not ours:
        return []
    counts = Counter(each.row.ipc for each in ours)
    ipc = max(counts, key=lambda number: (counts[number], number))
    ours = [each for each in ours if each.row.ipc == ipc]
    real = [each for each in found if each.is_baseline and each.row.ipc == ipc]
    regimes = list(dict.fromkeys(each.row.regime for each in ours))
    shared = shared_parts([each.cell.method for each in ours])
    leading, against = [], []
    for regime in regimes:
        ranked = _ranked(ours, regime)
        best_real = _ranked(real, regime)[:1]
        leading.append(shared.short(_of_recipes(ranked)))
        if best_real:
            against.append(shared.short(_of_real(ranked[0], best_real[0])))
    which = verdict.of_first(students[0], students)
    head = f"At {ipc} image{'s' * (ipc != 1)} per class, " + (f"{which}, " if which else "")
    said = [f"{head}{'; '.join(leading)}."]
    if against:
        said.append(f"Beside the best of as many real images: {'; '.join(against)}.")
    return said


def _ranked(found: Sequence[Line], regime: str) -> list[Line]:
    """Those with these labels, the best first."""
    members = [each for each in found if each.row.regime == regime]
    return sorted(members, key=lambda each: -each.row.last_mean)


def _percent(line: Line) -> str:
    return f"{100 * line.row.last_mean:.1f} %"


def _points(gain: Gain) -> str:
    spread = "" if gain.error is None else f" ± {gain.error:.1f}"
    return f"{abs(gain.points):.1f}{spread} points"


def _of_recipes(ranked: Sequence[Line]) -> str:
    """Which recipe leads, or which are level."""
    first, *others = ranked
    with_labels = f"with {verdict.labels(first.row.regime)}"
    if not others:
        return f"{first.row.image_set} has {_percent(first)} {with_labels}"
    lead = verdict.gain(first.row, others[0].row)
    if lead.judged == "unknown":
        return (
            f"{first.row.image_set} is {_points(lead)} above {others[0].row.image_set} "
            f"{with_labels} ({_percent(first)}), of which one seed cannot tell chance"
        )
    if lead.judged == "more":
        return (
            f"{first.row.image_set} leads {with_labels} ({_percent(first)}, {_points(lead)} above "
            f"{others[0].row.image_set}), beyond chance"
        )
    level = [first] + [each for each in others if _is_level(first, each)]
    if len(level) > _MOST:
        names = [level[0].row.image_set, f"{len(level) - 1} others"]
    else:
        names = [each.row.image_set for each in level]
    return (
        f"{listed(names)} are level at the top {with_labels} ({_percent(level[0])} to "
        f"{_percent(level[-1])})"
    )


def _is_level(first: Line, other: Line) -> bool:
    return verdict.gain(first.row, other.row).judged == "level"


def _of_real(first: Line, real: Line) -> str:
    """Whether the first recipe teaches more than real images."""
    gain = verdict.gain(first.row, real.row)
    with_labels = f"with {verdict.labels(first.row.regime)}"
    name = f"{first.row.image_set}"
    if gain.judged == "level":
        return f"{with_labels} {name} is level with {real.row.image_set} ({_percent(real)})"
    where = "above" if gain.points > 0 else "below"
    sure = "beyond chance" if gain.judged != "unknown" else "with one seed"
    return (
        f"{with_labels} {name} is {_points(gain)} {where} {real.row.image_set} "
        f"({_percent(real)}), {sure}"
    )
