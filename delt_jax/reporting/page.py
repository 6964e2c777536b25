"""The report's page: one HTML file with its pictures inside."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from delt_jax.recovery.schedule import chart
from delt_jax.reporting import tables
from delt_jax.reporting.tables import Section

_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; color: #222; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
img { max-width: 100%; }
figure { margin: 1.5rem 0; }
figcaption { color: #555; }
.verdict { font-size: 1.2rem; margin: .5rem 0; }
.warning { border: 2px solid #d55e00; padding: .3rem 1rem; margin: 1rem 0; }
pre { overflow-x: auto; line-height: 1.15; }"""
# Titles and captions of the pictures of scores, in the order of the page.
_SCORE_CHARTS = {
    "per_class.png": (
        "Classes",
        "Accuracy of each class after the last epoch: first student, first labels.",
    ),
    "confusion.png": (
        "Confusion",
        "Answers of the first student on recovered images after the last epoch, % of each class.",
    ),
    "ipc.png": (
        "Fewer images",
        "Accuracy after the last epoch, trained on the first images of every class.",
    ),
}


def page(
    name: str,
    summary: Mapping[str, Any],
    sections: Sequence[Section],
    pictures: Mapping[str, bytes],
) -> str:
    """The whole page.

    Args:
      name: name of the data.
      summary: content of summary.json.
      sections: tables of the scores.
      pictures: PNG by file name; a missing picture leaves its section out.
    """
    command = summary["command"]
    spent = ", ".join(f"{k} {v:.0f} s" for k, v in summary["seconds"].items() if v is not None)
    parts = [
        f"<h1>{html.escape(name)}, {summary['ipc']} images per class</h1>",
        *(f'<p class="verdict">{html.escape(each)}</p>' for each in summary.get("verdict", ())),
        f"<p>{html.escape(_teacher(summary))}; {html.escape(_others(summary))}"
        f"{html.escape(_making(summary))}; {spent}.</p>",
        *_warnings(summary),
        *([f"<p>Scores made by</p><pre>{html.escape(command)}</pre>"] if command else []),
        *map(section, sections),
        *(
            f"<h2>{title}</h2>\n{picture(pictures[file], caption)}"
            for file, (title, caption) in _SCORE_CHARTS.items()
            if file in pictures
        ),
        *_images(summary, pictures),
    ]
    return document(f"delt_jax: {name}", parts)


def document(title: str, parts: Sequence[str]) -> str:
    """A whole HTML file with these parts as its body."""
    body = "\n".join(parts)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>
{_STYLE}
</style></head><body>
{body}
</body></html>
"""


def _warnings(summary: Mapping[str, Any]) -> list[str]:
    """A box with what stages warned of; none where they did not."""
    lines = [
        f"<p>{html.escape(warning['stage'])}: {html.escape(warning['sentence'])}</p>"
        for warning in summary.get("warnings", ())
    ]
    return [f'<div class="warning"><p><b>Warnings</b></p>{"".join(lines)}</div>'] if lines else []


def _teacher(summary: Mapping[str, Any]) -> str:
    """Words on the run's first teacher."""
    teacher = summary["teacher"]
    if teacher["accuracy"] is None:
        return f"Teacher {teacher['model']}, whose accuracy was not measured"
    accuracy = tables.percent(teacher["accuracy"])
    return f"Teacher {teacher['model']} with {accuracy} of the {summary['scored_on']}"


def _others(summary: Mapping[str, Any]) -> str:
    """Words on the run's other teachers, if it has any."""
    named = [
        f"{other['model']} {tables.percent(other['accuracy'])}"
        for other in summary.get("other_teachers", ())
    ]
    return f"other teachers {', '.join(named)}; " if named else ""


def _making(summary: Mapping[str, Any]) -> str:
    """Words on how the set was made."""
    if "imported" in summary:
        return f"the set was imported from the layout {summary['imported'].get('layout')}"
    if not summary["image_iterations"]:
        return "nothing was optimised: the images are those that recovery would start from"
    return (
        f"{summary['image_iterations']:,} image-iterations, "
        f"{100 * summary['fraction_of_full']:.2f} % of full optimisation"
    )


def section(part: Section) -> str:
    """A table with its title and the words around it."""

    def lines(texts: Sequence[str]) -> str:
        return "".join(f"<p>{html.escape(text)}</p>\n" for text in texts)

    return (
        f"<h2>{html.escape(part.title)}</h2>\n{lines(part.above)}"
        f'<div class="wide">{tables.as_html(part.table)}</div>\n{lines(part.below)}'
    )


def _images(summary: Mapping[str, Any], pictures: Mapping[str, bytes]) -> list[str]:
    """Sections on the images and on how they were made."""
    above = "Start images above recovered ones, in joining order."
    if "imported" in summary:
        above = "Images of the set, below random real ones where there are any."
    elif summary["select"].get("start") == "noise":
        above = "Recovered images, in joining order."
    above += " Below, the teacher's probability of the class, mean over fresh views."
    parts = ["<h2>Images</h2>", picture(pictures["sheet.png"], above)]
    if "nearest.png" in pictures:
        n = summary["nearest"]
        caption = (
            f"Synthetic images above the real training images nearest in pixels, and the root mean "
            f"square difference of pixels in [0, 1]: below {n['threshold']} for "
            f"{100 * n['near_copies']:.1f} % of the synthetic images (median "
            f"{n['median_rms']:.3f}), and for {100 * n['near_copies_among_real']:.1f} % of "
            f"{n['real_sample']} real ones among themselves (median "
            f"{n['median_rms_among_real']:.3f})."
        )
        parts += ["<h2>Nearest real images</h2>", picture(pictures["nearest.png"], caption)]
    if "schedule.png" in pictures:
        r = summary["recover"]
        drawn = "\n".join(chart(summary["ipc"], r["iterations"], r["round_iterations"]))
        bars = "Iterations in which each image of the first batch is optimised."
        curves = "Terms of the objective, mean over batches; grey lines: a group joins."
        parts += [
            f"<h2>Schedule</h2>\n<pre>{drawn}</pre>",
            picture(pictures["schedule.png"], bars),
            f"<h2>Losses</h2>\n{picture(pictures['losses.png'], curves)}",
        ]
    if "diversity.png" in pictures:
        caption = "Similarity of teacher features within a class; lower is more diverse."
        parts.append(f"<h2>Diversity</h2>\n{picture(pictures['diversity.png'], caption)}")
    return parts


def picture(content: bytes, caption: str) -> str:
    """A PNG inside the page, with its caption."""
    data = base64.b64encode(content).decode()
    return (
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
