"""Charts: marks lie where their numbers are, words say what is seen, colours can be told apart."""

import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from delt_jax.evaluation.metrics import ScoreRow
from delt_jax.recovery.schedule import make_schedule
from delt_jax.recovery.types import Losses
from delt_jax.reporting import charts, colours, run_charts, svg
from delt_jax.reporting.charts import Axes, Curve, Dot
from delt_jax.reporting.svg import Look

SVG = "{http://www.w3.org/2000/svg}"


def row(image_set, mean, std=0.01, regime="online", ipc=10, student="conv3") -> ScoreRow:
    values = (mean, std, mean, std)
    return ScoreRow(student, regime, image_set, ipc, 0.1, "p", 3, *values, [mean] * 3, 0.1, [])


def drawn(panel: svg.Panel, tag: str, role: str = "") -> list[dict[str, str]]:
    """Attributes of the shapes of a kind, groups included."""
    root = ElementTree.Element("svg")
    root.extend(panel.shapes)
    return [e.attrib for e in root.iter(tag) if not role or e.get("class") == role]


def words(panel: svg.Panel) -> list[str]:
    root = ElementTree.Element("svg")
    root.extend(panel.shapes)
    return [e.text or "" for e in root.iter("text")]


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    light = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(light, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1])
def test_all_words_can_be_read_in_both_modes(mode):
    of = {name: both[mode] for name, both in colours.COLOURS.items()}
    for ground, ink in itertools.product(("paper", "card"), ("ink", "soft", "accent", "warning")):
        assert contrast(of[ground], of[ink]) >= 4.5, (ground, ink)
    assert contrast(of["heat"], of["ink"]) >= 4.5  # numbers in the fullest cell
    for ground, series in itertools.product(("paper", "card"), colours.SERIES):
        assert contrast(of[ground], of[series]) >= 3, series
    assert len({of[series] for series in colours.SERIES}) == 8


def test_a_file_has_all_colours_and_needs_nothing_else():
    chart = run_charts.per_class_chart({"recovered": np.array([0.5, 1.0])}, ["a", "b"])
    content = svg.as_file(chart)
    root = ElementTree.fromstring(content)
    assert root.tag == f"{SVG}svg"
    roles = {e.get("class") for e in root.iter() if e.get("class")}
    rules = root.find(f"{SVG}style").text
    for role in roles:
        assert rules.count(f".{role}{{color:#") == 2  # light and dark
    assert content == svg.as_file(
        run_charts.per_class_chart({"recovered": np.array([0.5, 1.0])}, ["a", "b"])
    )
    assert not re.search(rb"href|url\(|@import", content)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1200, 21000, [2000, 5000, 10000, 20000]),
        (3, 5000, [10, 100, 1000]),
        (10, 10, [10]),
        (11, 19, [12, 14, 16, 18]),
    ],
)
def test_ticks_are_round_numbers(low, high, ticks):
    assert svg.round_numbers(low, high) == ticks


def test_steps_of_a_linear_axis():
    assert svg.round_steps(0.3, 10.2) == [2, 4, 6, 8, 10]
    assert svg.round_steps(96.98, 97.04) == pytest.approx([96.98, 97.0, 97.02, 97.04][:4])
    assert svg.round_steps(-0.5, 0.5) == pytest.approx([-0.4, -0.2, 0, 0.2, 0.4])


def test_scales_map_their_ends_and_zero():
    log = svg.logarithmic([0, 10, 1000], 0, 100)
    assert (log(0), log(10), log(1000)) == pytest.approx((0, 14, 100))
    assert log(100) == pytest.approx(57)
    assert log.ticks()[0] == 0
    assert svg.logarithmic([0, 0], 0, 100)(0) == pytest.approx(50)
    down = svg.linear([1, 3], 100, 0)  # as heights are
    assert down(1) > down(2) > down(3)
    assert down(2) == pytest.approx(50)


def test_dots_lie_in_their_rows_in_order_of_value():
    look = Look("s0")
    rows = [
        ("low", [Dot(1.0, look)]),
        ("high", [Dot(3.0, look, 0.5)]),
        ("none", [Dot(np.nan, look)]),
    ]
    panel = charts.dots(rows, "%", "alt")
    low, high = drawn(panel, "circle")
    assert float(low["cx"]) < float(high["cx"])
    assert float(high["cy"]) - float(low["cy"]) == pytest.approx(20)
    assert words(panel)[-4:] == ["low", "high", "none", "%"]
    error = drawn(panel, "path", "s0")[0]["d"]  # from end to end
    start, end = (float(x) for x in re.match(r"M([\d.]+) [\d.]+H([\d.]+)", error).groups())
    assert start < float(high["cx"]) < end


def test_equal_values_are_both_seen():
    """A full mark lies within an outline, whichever comes first."""
    for looks in itertools.permutations((Look("s0"), Look("s1", "square", True))):
        panel = charts.dots([("a", [Dot(1.0, look) for look in looks])], "%", "alt")
        marks = [s.get("class") for s in panel.shapes if s.tag == "circle" or s.get("transform")]
        assert marks == ["card", "s1", "s0"]


def test_curves_pass_through_their_points_and_long_ones_are_thinned():
    points = [(float(i), float(i % 7), 0.0) for i in range(4000)]
    panel = charts.curves(
        [Curve("a", Look("s0"), points)], Axes("x", has_marks=False, marks=[1000]), "alt"
    )
    (line,) = drawn(panel, "polyline")
    xs = [float(pair.split(",")[0]) for pair in line["points"].split()]
    assert len(xs) == 300
    assert xs == sorted(xs)
    marked = charts.curves(
        [Curve("a", Look("s0"), [(1, 1.0, 0.5), (10, 2.0, 0), (100, 3.0, 0)])],
        Axes("x", log_x=True, x_ticks=[1, 10, 100]),
        "alt",
    )
    xs, ys = zip(
        *((float(c["cx"]), float(c["cy"])) for c in drawn(marked, "circle", "s0")[-3:]), strict=True
    )
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.02)
    assert list(ys) == sorted(ys, reverse=True)
    assert {"1", "10", "100"} <= set(words(marked))


def test_per_class_chart_names_the_ends():
    names = ["cat", "dog", "cow"]
    values = {"recovered": np.array([0.9, 0.5, np.nan]), "random": np.array([0.8, 0.7, np.nan])}
    (panel,) = run_charts.per_class_chart(values, names).panels
    assert "recovered: from 50.0 for dog to 90.0 for cat." in panel.alt
    assert len(drawn(panel, "circle", "s0")) == 2 + 1  # and the legend's
    many = np.linspace(0, 1, 60)
    (panel,) = run_charts.per_class_chart({"recovered": many}, [f"c{i}" for i in range(60)]).panels
    assert not drawn(panel, "circle", "s0")[1:]
    heights = [float(p.split(",")[1]) for p in drawn(panel, "polyline")[0]["points"].split()]
    assert heights == sorted(heights)  # from the best class down


def test_accuracies_stand_in_order_a_panel_for_each_kind_of_labels():
    rows = [
        row("recovered", 0.7),
        row("random", 0.8),
        row("recovered", 0.6, regime="hard"),
        row("recovered", 0.1, ipc=1),
        row("full", 0.95, ipc=0, regime="hard"),
        row("random", 0.5, regime="plain"),
    ]
    chart = run_charts.accuracy_chart(rows, 10)
    online, hard = chart.panels
    assert words(online)[0] == "conv3, labels for every view"
    assert [w for w in words(online) if w in ("random", "recovered")] == ["random", "recovered"]
    assert "all real images 95.0, recovered 60.0" in hard.alt
    assert run_charts.accuracy_chart([row("random", 0.5)], 10) is None


def test_confusion_is_darkest_where_most_answers_are():
    confusion = np.array([[90, 10, 0], [0, 100, 0], [0, 50, 50]])
    (panel,) = run_charts.confusion_chart(confusion, ["cat", "dog", "cow"]).panels
    cells = drawn(panel, "rect", "heat")
    assert [cell["fill-opacity"] for cell in cells] == ["0.9", "0.1", "1", "0.5", "0.5"]
    assert "cow taken for dog, 50% of its images" in panel.alt
    assert [w for w in words(panel) if w.isdigit()] == ["90", "10", "100", "50", "50"]
    (right,) = run_charts.confusion_chart(np.eye(60, dtype=int), ["x"] * 60).panels
    assert "All images lie on the diagonal" in right.alt
    assert words(right) == ["answer"]  # too many to name


def test_the_schedule_has_a_bar_for_each_group():
    (panel,) = run_charts.schedule_chart(make_schedule(2, 4, 400, 100, 100)).panels
    bars = [(float(b["x"]), float(b["height"])) for b in drawn(panel, "rect", "s0")]
    assert len(bars) == 4
    assert bars == sorted(bars)
    assert len({height for _, height in bars}) == 1
    assert "the first from iteration 0 to 400, the last from 300 to 400" in panel.alt
    (full,) = run_charts.schedule_chart(make_schedule(2, 4, 400, 0, 100)).panels
    assert len(drawn(full, "rect", "s0")) == 1
    one, two = (run_charts.schedule_chart(make_schedule(n, 10, 400, 50, 10)) for n in (1, 2))
    assert svg.as_file(one) == svg.as_file(two)  # it is that of the first batch


def losses() -> Losses:
    draw = np.random.default_rng(0)
    values = [draw.uniform(1, 2, (2, 30)).astype(np.float32) for _ in range(3)]
    values[2][1, 20:] = np.nan  # a shorter batch
    return Losses(*values, np.zeros((2, 30), np.float32))


@pytest.mark.filterwarnings("error")
def test_rising_losses_are_explained_where_images_join():
    chart = run_charts.loss_curves(losses(), [0, 10])
    assert [words(panel)[0] for panel in chart.panels] == ["loss", "cross-entropy", "BN matching"]
    assert run_charts.RISING in chart.caption
    alone = run_charts.loss_curves(losses(), [0])
    assert run_charts.RISING not in alone.caption
    lines = [
        [len(drawn(panel, "path", "line")) for panel in each.panels] for each in (chart, alone)
    ]
    assert np.subtract(*lines).tolist() == [1, 1, 1]


def test_every_term_has_a_panel():
    """Where a file has them; sets of older versions have the sum alone."""
    summed = losses()._replace(further=losses().bn)

    def titles(given):
        return [words(panel)[0] for panel in run_charts.loss_curves(given, [0]).panels][3:]

    two = {"first": losses().bn, "outside.terms:SECOND": -losses().loss}
    assert titles(summed) == ["further terms"]
    assert titles(summed._replace(terms=two)) == ["first", "SECOND"]
    unknown = {"first": np.full_like(losses().bn, np.nan)}
    assert titles(summed._replace(terms=unknown)) == ["further terms"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_losses_that_are_not_finite_are_left_out(value):
    gone = np.full((2, 30), value, np.float32)
    assert run_charts.loss_curves(Losses(gone, gone, gone, np.zeros_like(gone)), [0, 10]) is None
    some = losses()._replace(loss=np.where(np.arange(30) > 3, value, losses().loss))
    assert words(run_charts.loss_curves(some, [0]).panels[0])[0] == "loss"


def test_accuracy_over_ipc_needs_several():
    one, ten = row("recovered", 0.3, ipc=1), row("recovered", 0.6)
    (panel,) = run_charts.ipc_chart([ten, one, row("random", 0.1)]).panels
    assert "conv3, online: from 30.0 with 1 to 60.0 with 10." in panel.alt
    assert len(drawn(panel, "polyline")) == 1
    assert run_charts.ipc_chart([ten]) is None


@pytest.mark.filterwarnings("error")
def test_similarity_shows_what_is_known():
    values = {"recovered": np.array([0.5, np.nan]), "real": np.array([np.nan, np.nan])}
    (panel,) = run_charts.similarity_chart(values, ["a", "b"]).panels
    assert "real: unknown." in panel.alt
    assert "real, mean unknown" in words(panel)
    assert len(drawn(panel, "circle", "s0")) == 1 + 1  # and the legend's
