"""Pages: with every optional part and with none, nothing from outside, and no name runs as code."""

import html.parser
import re

import numpy as np
import pytest
from compared_cells import cell
from compared_cells import row as line

from delt_jax.comparison import charts, verdict
from delt_jax.comparison import page as comparison_page
from delt_jax.comparison.page import ComparedImages
from delt_jax.evaluation.metrics import ScoreRow
from delt_jax.reporting import figures, learning_charts, page, run_charts, tables
from delt_jax.reporting.page import Shown

EVIL = "<script>alert('1')</script>\" onload=\"x"
VOID = {"meta", "img", "br", "path", "rect", "circle", "polyline"}


def row(image_set="recovered", mean=0.8, **changed) -> ScoreRow:
    values = {"std": 0.01, "seeds": 3, "regime": "hard"} | changed
    std, seeds, regime = values["std"], values["seeds"], values["regime"]
    scores = [f"id-{image_set}-{k}" for k in range(seeds)]
    accuracies = (mean, std, mean, std)
    return ScoreRow(
        *("conv3", regime, image_set, 2, 0.1, "delt", seeds), *accuracies, [mean], 0.1, scores
    )


def summary(**changed):
    """What a set of one class has at least."""
    least = {
        "data": "pets",
        "class_names": ["cat"],
        "ipc": 2,
        "teacher": {"model": "conv3", "accuracy": None, "hash": "7ea"},
        "distilled": "d15",
        "imported": {"layout": "new000"},
        "seconds": {"recover": None},
        "command": "",
        "scored_on": "test images",
        "verdict": [],
        "warnings": [],
    }
    return least | changed


def full_summary(name="cat"):
    found = summary(
        class_names=[name],
        image_iterations=12_000,
        fraction_of_full=0.75,
        recover={"iterations": 4, "round_iterations": 2},
        select={"start": "real"},
        teacher={"model": name, "accuracy": 0.9, "hash": "7ea"},
        other_teachers=[{"model": name, "accuracy": 0.8, "hash": "07e"}],
        made={"date": "2026-11-27", "machine": name},
        seconds={"squeeze": 12_345.0, "recover": 500.0, "evaluate": 3.0},
        command=f"make {name}",
        verdict=[f"{name} is weak.", "Second."],
        warnings=[{"stage": "squeeze", "sentence": name}],
        nearest={
            **{"threshold": 0.05, "near_copies": 0.1, "near_copies_among_real": 0.0},
            **{"median_rms": 0.2, "median_rms_among_real": 0.3, "real_sample": 500},
        },
    )
    del found["imported"]
    return found


def shown(name="cat", alt="two cats above two cats"):
    pixels = np.zeros((2, 8, 8, 1), np.uint8)
    strip = figures.strip(name, alt, [pixels, pixels], [name, "90%"])
    rows = [row(), row("random", 0.7)]
    of_scores = [
        run_charts.accuracy_chart(rows, 2),
        run_charts.per_class_chart({"recovered": np.array([0.5])}, [name]),
    ]
    return Shown([strip], [strip], of_scores, of_scores[1:])


def full(name="cat") -> str:
    rows = [row(), row("random", 0.7)]
    return page.page(full_summary(name), rows, tables.sections(rows, [], []), shown(name))


def learned(name="cat") -> str:
    """Of a set that was learned without a teacher, and validated twice."""
    chart = learning_charts.learning(np.linspace(2, 1, 500), [(250, 0.5), (500, 0.25)], "best")
    told = {"method": "frepo", "steps": 500, "network": "conv3", "start": "random"}
    said = summary(learned=told | {"preprocessing": "zca"}, command="a --b=1 --c=2")
    del said["imported"], said["teacher"]
    rows = [row("learned", regime="learned"), row("random", 0.7, regime="learned")]
    pictures = Shown(shown(name).sheet, [], [run_charts.accuracy_chart(rows, 2)], [chart], True)
    return page.page(said, rows, tables.sections(rows, [], []), pictures)


def least() -> str:
    return page.page(summary(), [], [], Shown(shown().sheet, [], [], []))


class Reader(html.parser.HTMLParser):
    """Elements in order, and whether they are nested as they should be."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [given for name, given in self.elements if name == tag]


def compared(name="cat", images=True) -> str:
    cells = [
        cell(method, 4, [line("recovered", 4, method, mean), line("random", 4, "r", 0.4)])
        for method, mean in ((f"a:{name},p", 0.6), ("a:b,p", 0.5))
    ]
    pixels = np.zeros((1, 3, 8, 8, 1), np.uint8)
    groups = [ComparedImages(4, [name], {"real": pixels, f"a:{name},p": pixels})] * images
    said = verdict.sentences(cells)
    return comparison_page.page(cells, [name], said, charts.of_cells(cells), groups)


@pytest.mark.parametrize("made", [least, full, learned, compared])
def test_a_page_is_whole_and_reads_well(made):
    text = made()
    assert text.startswith("<!doctype html>")
    read = Reader(text)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in read.all(
        "meta"
    )
    assert len(read.all("h1")) == len(read.all("main")) == 1
    ids = [given["id"] for _, given in read.elements if "id" in given]
    assert len(ids) == len(set(ids))
    assert {given["aria-labelledby"] for given in read.all("section")} == set(ids)
    regions = [given["aria-label"] for given in read.all("div") if given.get("role") == "region"]
    assert len(regions) == len(set(regions))
    assert all(given["alt"] for given in read.all("img"))
    assert all(given["role"] == "img" and given["aria-label"] for given in read.all("svg"))
    assert not re.search(r"[{}]{2}|\{%", text.partition("</style>")[2])  # of the template
    assert made() == text


@pytest.mark.parametrize("made", [least, full, compared])
def test_nothing_is_loaded_from_outside_and_nothing_runs(made):
    text = made()
    read = Reader(text)
    tags = {tag for tag, _ in read.elements}
    assert not tags & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "image",
        "use",
    }
    for _, given in read.elements:
        for name, value in given.items():
            assert not name.startswith("on")
            assert name not in ("href", "srcset", "xlink:href", "action")
            assert name != "src" or value.startswith("data:image/png;base64,")
    assert not re.search(r"url\(|@import|https?:|//[a-z]", text)


@pytest.mark.parametrize("made", [full, compared])
def test_names_that_are_code_are_words(made):
    text = made(EVIL)
    assert "<script" not in text
    assert "&lt;script" in text
    read = Reader(text)
    assert not any("onload" in given for _, given in read.elements)
    assert [tag for tag, _ in read.elements] == [tag for tag, _ in Reader(made()).elements]


def test_what_is_not_known_is_left_out():
    text = least()
    for words in ("Made on", "Scores made by", "Other teachers", "Nearest", "What students learn"):
        assert words not in text
        assert words in full()
    assert '<aside class="warning"' not in text
    assert "how well the images teach is not known" in text
    assert "imported from the layout new000" in text
    assert "conv3, whose accuracy was not measured" in text


def test_what_is_known_is_said():
    text = full()
    assert "<dd>2026-11-27, cat</dd>" in text
    assert "squeeze 3 h 26 min, recover 8 min, evaluate 3 s" in text
    assert "12,000 image-iterations, 75.00 % of full optimisation" in text
    assert "<b>+10.0</b> ± 0.8" in text
    assert 'note">beyond chance' in text
    assert text.index("Second.") < text.index("squeeze: cat") < text.index("<h2")
    assert text.index("<details>") < text.index("id-recovered-0")
    assert text.count("id-recovered-0") == text.count("d15") == 1


def test_a_learned_set_is_called_so_and_shows_how_it_was_learned():
    text = learned()
    assert "recover" not in text.partition("</style>")[2].lower()
    assert "learned by frepo in 500 steps through conv3, from random real images; netw" in text
    assert "Random real images above those of the set." in text
    assert "Loss over 500 steps: from 2 at first to 1 at last." in text
    assert "25.0 % after the last step, at best 50.0 % after step 250." in text
    assert "The set is the one that was best on validation images." in text
    assert "a \\\n  --b=1 \\\n  --c=2</pre>" in text
    assert learning_charts.learning(np.zeros(0), [], "last") is None


def test_one_seed_has_no_spread():
    rows = [row(seeds=1, std=0.0), row("random", 0.7, seeds=1, std=0.0)]
    text = page.page(full_summary(), rows, tables.sections(rows, [], []), shown())
    assert "80.00 (1 seed)" in text
    assert "± 0.0" not in text
    assert "1 seed, which cannot tell chance" in text


def test_alternatives_do_not_repeat_what_stands_beside_them():
    read = Reader(full())
    alts = [given["alt"] for given in read.all("img")]
    alts += [given["aria-label"] for given in read.all("svg")]
    captions = {chart.caption for chart in shown().scores}
    assert not captions & set(alts)
    assert all(len(alt) > 10 for alt in alts)
