"""The report's page: the verdict, then images, then scores, then how the set was made."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from delt_jax.evaluation import verdict
from delt_jax.evaluation.metrics import ScoreRow
from delt_jax.reporting import tables, templates
from delt_jax.reporting.figures import Strip
from delt_jax.reporting.svg import Chart
from delt_jax.reporting.tables import Section, Table

_UNKNOWN = "No students were trained, so how well the images teach is not known."
_STARTS = {"random": "random real images"}
_WHITENED = "; networks see whitened images"
_SEEN = {  # by preprocessing
    "unit": "; networks see images of unit length",
    "zca": _WHITENED,
    "unit_zca": "; networks see images of unit length, whitened",
    "kornia": _WHITENED,
}
_JUDGED = {
    "more": "beyond chance",
    "fewer": "beyond chance",
    "level": "within chance",
    "unknown": "1 seed, which cannot tell chance",
}


class Shown(NamedTuple):
    """The pictures of a page.

    Attributes:
      sheet: images of the set.
      nearest: images beside the real ones nearest to them; none where these were not sought.
      scores: charts of what students learn.
      making: charts of how the set was made.
      beside_real: whether random real images stand above those of the set.
    """

    sheet: Sequence[Strip]
    nearest: Sequence[Strip]
    scores: Sequence[Chart]
    making: Sequence[Chart]
    beside_real: bool = False


def page(
    summary: Mapping[str, Any],
    rows: Sequence[ScoreRow],
    sections: Sequence[Section],
    shown: Shown,
) -> str:
    """The whole page.

    Args:
      summary: content of summary.json.
      rows: those of the evaluation.
      sections: tables of the scores, without ids.
      shown: pictures; one that is missing leaves its place out.
    """
    return templates.render(
        "report.html",
        title=f"{summary['data']}, {_counted(summary['ipc'], 'image')} per class",
        verdict=summary["verdict"] or [_UNKNOWN],
        gains=_gains(rows),
        warnings=[f"{w['stage']}: {w['sentence']}" for w in summary["warnings"]],
        sheet_words=_sheet_words(summary, shown.beside_real),
        sheet=shown.sheet,
        nearest_words=_nearest_words(summary) if shown.nearest else "",
        nearest=shown.nearest,
        score_charts=shown.scores,
        tables=sections,
        facts=_facts(summary),
        command=_lines_of(summary["command"]),
        making_charts=shown.making,
        hashes=_hashes(summary, rows),
    )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _gains(rows: Sequence[ScoreRow]) -> list[dict[str, str]]:
    """What the first student gains over random images, as a large number and words on it."""
    found = verdict.gains(rows)
    return [
        {
            "value": f"{gain.points:+.1f}".replace("-", "−"),
            "error": "" if gain.error is None else f"± {gain.error:.1f}",
            "words": f"points over random real images with {verdict.labels(gain.regime)}",
            "judged": _JUDGED[gain.judged],
        }
        for gain in found
        if gain.student == found[0].student
    ]


def _lines_of(command: str) -> str:
    """A command line in as many lines as it has flags, as a shell takes it, too."""
    is_plain = not set("'\"\\") & set(command)
    return command.replace(" --", " \\\n  --") if is_plain else command


def _sheet_words(summary: Mapping[str, Any], beside_real: bool) -> str:
    """What the images are, and what stands below them."""
    if "imported" in summary or "learned" in summary:
        above = "Random real images above those of the set." if beside_real else "The set's images."
    elif summary["select"].get("start") == "noise":
        above = "Recovered images, in joining order."
    else:
        above = "Start images above recovered ones, in joining order."
    recover = summary.get("recover", {})
    if recover.get("round_iterations") and summary["image_iterations"]:
        above += " The first ones of a class are optimised longest, the last ones least."
    if "clipped" in summary:
        above += (
            f" They are floats, shown through the inverse of their preprocessing, with the "
            f"{summary['clipped']:.1%} of the values that are beyond black or white clipped."
        )
    if "teacher" not in summary:
        return above
    return f"{above} Below, the teacher's probability of the class, mean over fresh views."


def _nearest_words(summary: Mapping[str, Any]) -> str:
    """What pairs of images show, and how near copies they are."""
    n = summary["nearest"]
    return (
        f"Synthetic images above the real training images nearest in pixels, and the root mean "
        f"square difference of pixels in [0, 1]: below {n['threshold']} for "
        f"{100 * n['near_copies']:.1f} % of the synthetic images (median {n['median_rms']:.3f}), "
        f"and for {100 * n['near_copies_among_real']:.1f} % of {n['real_sample']} real ones among "
        f"themselves (median {n['median_rms_among_real']:.3f})."
    )


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Terms and words on the making of the set; what is not known is left out."""
    classes = len(summary["class_names"])
    count = classes * summary["ipc"]
    others = [
        f"{other['model']} {tables.percent(other['accuracy'])}"
        for other in summary.get("other_teachers", ())
    ]
    spent = [f"{k} {_duration(v)}" for k, v in summary["seconds"].items() if v is not None]
    made = summary.get("made") or {}
    facts = [
        ("Images", f"{count:,}: {summary['ipc']} of each of {_classes(classes)}"),
        ("Teacher", _teacher(summary)),
        ("Other teachers", ", ".join(others)),
        ("Making", _making(summary)),
        ("Time", ", ".join(spent)),
        ("Made on", ", ".join(filter(None, (made.get("date"), made.get("machine"))))),
    ]
    return [(term, words) for term, words in facts if words]


def _classes(number: int) -> str:
    return f"{number:,} class{'es' * (number != 1)}"


def _duration(seconds: float) -> str:
    """Seconds as a person says them: "48 s", "12 min", "3 h 05 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


def _teacher(summary: Mapping[str, Any]) -> str:
    """Words on the run's first teacher."""
    teacher = summary.get("teacher")
    if teacher is None:
        return ""
    if teacher["accuracy"] is None:
        return f"{teacher['model']}, whose accuracy was not measured"
    accuracy = tables.percent(teacher["accuracy"])
    return f"{teacher['model']} with {accuracy} of the {summary['scored_on']}"


def _making(summary: Mapping[str, Any]) -> str:
    """Words on how the set was made."""
    if "imported" in summary:
        return f"imported from the layout {summary['imported'].get('layout')}"
    if "learned" in summary:
        return _learning(summary["learned"])
    if not summary["image_iterations"]:
        return "nothing was optimised: the images are those that recovery would start from"
    return (
        f"{summary['image_iterations']:,} image-iterations, "
        f"{100 * summary['fraction_of_full']:.2f} % of full optimisation"
    )


def _learning(learned: Mapping[str, Any]) -> str:
    """Words on how a set was learned, as far as its manifest tells."""
    words = f"learned by {learned.get('method')} in {learned.get('steps') or 0:,} steps"
    if learned.get("network"):
        words += f" through {learned['network']}"
    if learned.get("start"):
        words += f", from {_STARTS.get(learned['start'], learned['start'])}"
    words += _SEEN.get(learned.get("preprocessing", ""), "")
    return words


def _hashes(summary: Mapping[str, Any], rows: Sequence[ScoreRow]) -> Table:
    """What traces everything on the page back to its files."""
    body = [("distilled set", summary["distilled"])]
    body += [("teacher", summary["teacher"]["hash"])] if "teacher" in summary else []
    body += [
        (f"teacher {other['model']}", other["hash"]) for other in summary.get("other_teachers", ())
    ]
    body += [
        (f"scores of {r.student}, {r.regime}, {r.image_set}, {r.ipc or 'all'}", " ".join(r.scores))
        for r in rows
    ]
    return Table(("what", "hash"), body)
