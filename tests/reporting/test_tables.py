"""Tables: cells, alignment, numbered protocols, and that ids travel along."""

import csv
import io

import numpy as np
import pytest

from delt_jax.evaluation import dd_ranking
from delt_jax.evaluation.metrics import ScoreRow
from delt_jax.reporting import tables


def row(student="conv3", **changed) -> ScoreRow:
    values = {
        "regime": "online",
        "image_set": "recovered",
        "ipc": 10,
        "learning_rate": 1e-3,
        "protocol": "delt: 300 epochs",
        "seeds": 3,
        "last_mean": 0.5,
        "last_std": 0.0,
        "best_mean": 0.5,
        "best_std": 0.0,
        "per_class": [0.5, 0.5],
        "calibration": 0.25,
        "scores": ["0a1b", "2c3d"],
    }
    return ScoreRow(student=student, **(values | changed))


def test_scores_are_aligned_markdown():
    rows = [
        row(last_mean=0.87654, last_std=0.0123, best_mean=0.9, best_std=0.00005),
        row(
            "resnet18_modified", image_set="full", ipc=0, last_mean=1.0, best_mean=0.09876, seeds=12
        ),
    ]
    table = tables.markdown(tables.scores(rows))
    assert len(table) == 4
    bars = [[i for i, character in enumerate(line) if character == "|"] for line in table]
    assert bars[0] == bars[1] == bars[2] == bars[3]
    assert set(table[1]) == {"|", "-"}
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    assert cells[0] == [
        *("student", "labels", "images", "IPC", "last epoch", "best epoch", "calibration", "seeds")
    ]
    assert cells[2] == [
        *("conv3", "online", "recovered", "10", "87.65 ± 1.23", "90.00 ± 0.01", "25.00", "3")
    ]
    assert cells[3] == [
        *("resnet18_modified", "online", "full", "all"),
        *("100.00 ± 0.00", "9.88 ± 0.00", "25.00", "12"),
    ]


def test_scores_without_rows():
    assert len(tables.markdown(tables.scores([]))) == 2
    assert tables.as_text(tables.sections([], [], [])) == []


def test_one_protocol_stands_above_and_several_are_numbered():
    assert tables.protocols([row(), row("vgg11")]) == ["Protocol delt: 300 epochs."]
    other = row("vgg11", protocol="delt: AdamW 0.0005")
    rows = [row(), other, row(regime="hard"), other]
    assert tables.protocols(rows) == [
        "Protocol 1, delt: 300 epochs.",
        "Protocol 2, delt: AdamW 0.0005.",
    ]
    table = tables.scores(rows, ids=True)
    assert table.head[-2:] == ("protocol", "scores")
    assert [line[-2] for line in table.body] == ["1", "2", "1", "2"]
    assert table.body[0][-1] == "0a1b 2c3d"
    assert "protocol" not in tables.scores([row()]).head


def test_students_side_by_side():
    rows = [
        row("a", last_mean=0.1),
        row("b", last_mean=0.2),
        row("a", ipc=1, last_mean=0.3),
        row("b", image_set="full", ipc=0, regime="hard", last_mean=0.4, last_std=0.01),
    ]
    table = tables.across_students(rows)
    assert table.head == ("labels", "images", "IPC", "a", "b")
    assert table.body == [
        ("online", "recovered", "10", "10.00 ± 0.00", "20.00 ± 0.00"),
        ("online", "recovered", "1", "30.00 ± 0.00", "–"),
        ("hard", "full", "all", "–", "40.00 ± 1.00"),
    ]
    assert tables.across_students([row("a"), row("a", regime="hard")]).body == []


def robustness(epoch="last", **changed) -> dd_ranking.Robustness:
    values = {"hlr": 0.5, "ior": 0.05, "lrs": 0.2, "ars": None, "scores": ["0a1b"]}
    values["missing"] = {"ARS": "not trained on random images (plain)"}
    return dd_ranking.Robustness("conv3", epoch, "online", **(values | changed))


def test_robustness_and_what_is_missing():
    values = [robustness(), robustness("best", ars=np.nan)]
    table = tables.robustness(values)
    assert table.head == ("student", "epoch", "HLR", "IOR", "IOR's labels", "LRS", "ARS")
    assert table.body == [
        ("conv3", epoch, "0.5000", "0.0500", "online", "0.2000", "–") for epoch in ("last", "best")
    ]
    assert tables.missing(values) == ["conv3 has no ARS: not trained on random images (plain)."]
    assert tables.missing([]) == []


def test_correlations():
    ranks = dd_ranking.RankCorrelation("hard", "best", ["a", "b", "c"], 0.5, None, [])
    assert tables.correlations([ranks]).body == [("hard", "best", "3", "0.5000", "–")]


def test_ddrankings_table_needs_its_rows():
    """IOR alone stands in the table of scores."""
    nothing = robustness(hlr=None, lrs=None)
    assert [p.title for p in tables.sections([row()], [nothing], [])] == ["Scores"]
    (_, ranked) = tables.sections([row()], [nothing, robustness()], [])
    assert len(ranked.table.body) == 1
    by_ars = robustness(hlr=None, lrs=None, ars=0.3)
    assert [p.title for p in tables.sections([row()], [by_ars], [])] == ["Scores", "Robustness"]


def test_a_run_ends_with_its_protocol_and_scores():
    rows = [row("a"), row("b", protocol="delt: 20 epochs")]
    table = tables.markdown(tables.scores(rows))
    protocols = ["Protocol 1, delt: 300 epochs.", "Protocol 2, delt: 20 epochs."]
    assert tables.last_lines(rows) == [*protocols, "", *table]
    lines = tables.last_lines(rows, "validation images")
    assert lines == [*protocols, "Accuracy on validation images, in %.", "", *table]


@pytest.mark.parametrize("ids", [True, False])
def test_text_has_every_table_in_paragraphs(ids):
    rows = [row("a"), row("b")]
    ranks = dd_ranking.RankCorrelation("hard", "best", ["a", "b", "c"], 0.5, 0.5, [])
    parts = tables.sections(rows, [robustness()], [ranks], ids)
    assert [p.title for p in parts] == [
        *("Scores", "Students side by side", "Robustness", "Order of architectures")
    ]
    text = "\n".join(tables.as_text(parts))
    assert text.startswith("Protocol delt: 300 epochs.\n\nTest accuracy in %")
    assert text.count("\n\n| ") == 4
    assert ("0a1b 2c3d" in text) == ids
    assert "\n\nconv3 has no ARS" in text


def test_csv_has_fractions_in_full_and_the_ids():
    rows = [row(last_mean=1 / 3, protocol="delt with epochs 2: a, b"), row("vgg11")]
    lines = list(csv.DictReader(io.StringIO(tables.as_csv(rows).decode())))
    assert [line["student"] for line in lines] == ["conv3", "vgg11"]
    assert float(lines[0]["last_mean"]) == 1 / 3
    assert lines[0]["protocol"] == "delt with epochs 2: a, b"
    assert lines[0]["scores"] == "0a1b 2c3d"


def test_markdown_to_the_letter():
    table = tables.Table(("a", "long"), [("xyz", "1"), ("", "2")])
    assert tables.markdown(table) == [
        "| a   | long |",
        "|-----|------|",
        "| xyz | 1    |",
        "|     | 2    |",
    ]


def test_ids_are_only_where_they_are_asked_for():
    (scores,) = tables.sections([row()], [], [])
    assert scores.table.head[-1] == "seeds"
    assert tables.scores([row()]) == scores.table


def test_a_student_without_soft_labels_has_a_dash_for_their_name():
    values = [dd_ranking.Robustness("vgg11", "last", "", 0.25, None, None, 0.75, {}, [])]
    assert tables.robustness(values).body == [("vgg11", "last", "0.2500", "–", "–", "–", "0.7500")]


def test_csv_to_the_letter():
    one = row(last_mean=0.25, last_std=0.125, best_mean=0.75, best_std=0.0625)
    assert tables.as_csv([one]).decode() == (
        "student,regime,images,ipc,learning_rate,seeds,last_mean,last_std,best_mean,best_std,"
        "calibration,protocol,scores\n"
        "conv3,online,recovered,10,0.001,3,0.25,0.125,0.75,0.0625,0.25,delt: 300 epochs,"
        "0a1b 2c3d\n"
    )


def test_spreads_are_those_of_their_means():
    (line,) = tables.scores([row(last_mean=0.1, last_std=0.02, best_mean=0.3, best_std=0.04)]).body
    assert line[4:7] == ("10.00 ± 2.00", "30.00 ± 4.00", "25.00")
