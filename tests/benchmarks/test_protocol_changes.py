"""benchmarks/protocol_changes.py: its changes, its table, and what it asks the package for."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import measured
import protocol_changes
from protocol_changes import CHANGES

from delt_jax.config import default_config, from_config
from delt_jax.errors import UserError
from delt_jax.evaluation.metrics import ScoreRow
from delt_jax.recipe import Recipe, flatten
from delt_jax.training.protocols import EvalSetting, resolve


def protocol_of(change):
    """What students of ten images of 28 px a class train by."""
    config = default_config()
    config.evaluate.protocol = change.protocol
    config.update_from_flattened_dict(change.settings)
    rates = change.settings.get("evaluate.learning_rates", (None,))
    return resolve(from_config(config), EvalSetting("conv3", 10, 10, 28), *rates)


def test_every_change_is_of_known_settings_and_changes_the_protocol():
    known = flatten(Recipe())
    assert all(set(change.settings) <= known.keys() for change in CHANGES)
    assert len({change.name for change in CHANGES}) == len(CHANGES)
    found = [protocol_of(change) for change in CHANGES]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])


def test_twice_and_half_are_of_what_delt_has():
    base, by_name = protocol_of(CHANGES[0]), {c.name: protocol_of(c) for c in CHANGES}
    assert 2 * by_name["half the batch"].batch_size == base.batch_size
    for name in ("twice the rate", "twice the rate, to zero"):
        assert by_name[name].learning_rate == 2 * base.learning_rate


def row(change, mean=0.8, **changes):
    """A row of protocol_changes.py."""
    return {
        "change": change,
        "looked_at": "validation",
        "data": "digits",
        "ipc": 10,
        "epochs": 300,
        "mean": mean,
        "std": 0.005,
        "seeds": 3,
        "scores": ["a", "b", "c"],
        "student": "conv3 of width 32",
        "machine": "two cores",
        "date": "2026-11-22",
    } | changes


def test_changes_stand_in_their_order_beside_delt():
    none, calm, ours = CHANGES[0].name, CHANGES[1].name, CHANGES[-1].name
    rows = [row(ours, 0.79), row(calm, 0.8125), row(none), row("gone")]
    assert protocol_changes.table(rows) == [
        "| change | accuracy, % | more |",
        "|---|---|---|",
        "| none: `delt` | 80.00 ± 0.50 | – |",
        "| no RandAugment | 81.25 ± 0.50 | +1.25 |",
        "| all of `delt_jax` | 79.00 ± 0.50 | -1.00 |",
        "",
        "digits, IPC 10, recovered images, conv3 of width 32, 300 epochs, online labels, 3 seeds, "
        "validation images; two cores, 2026-11-22.",
    ]
    assert "| no RandAugment | 81.25 ± 0.50 | – |" in protocol_changes.table(rows[1:2])


@pytest.mark.parametrize(
    "other",
    [{"data": "moons"}, {"epochs": 20}, {"ipc": 50}, {"looked_at": "test"}, {"student": "vit"}],
)
def test_what_was_measured_otherwise_has_a_table_of_its_own(other):
    none, calm = CHANGES[0].name, CHANGES[1].name
    lines = protocol_changes.table([row(none), row(none, 0.5, **other), row(calm, 0.7, **other)])
    assert [line for line in lines if line.startswith("| n")] == [
        "| none: `delt` | 80.00 ± 0.50 | – |",
        "| none: `delt` | 50.00 ± 0.50 | – |",
        "| no RandAugment | 70.00 ± 0.50 | +20.00 |",
    ]


@pytest.fixture
def finished(tmp_path):
    """What the benchmark takes of a finished run."""
    folder = tmp_path / "given"
    for name in ("teacher", "distilled"):
        (folder / name).mkdir(parents=True)
    for name in ("ranking.csv", "ranking.json"):
        (folder / name).write_text("{}")
    settings = {"ipc": 3, "evaluate.students": ["conv3", "vit"], "data.validation_share": 0.1}
    (folder / "config.json").write_text(json.dumps({"settings": settings}))
    return folder


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """Runs of the package as the benchmark asks for them; every one is better than the last."""
    asked = []

    def run(config, workdir, stages, command):
        assert command.startswith("python ")
        assert stages == ("relabel", "evaluate")
        assert (Path(workdir) / "ranking.json").exists()
        asked.append(flatten(from_config(config)))
        (regime,), (images,), means = config.evaluate.regimes, config.evaluate.images, [0.0] * 4
        means[0] = 0.5 + 0.01 * len(asked)
        made = ScoreRow("conv3", regime, images, 3, 1e-3, "p", 2, *means, [], 0.1, ["a", "b"])
        (Path(workdir) / "evaluation").mkdir(exist_ok=True)
        path = Path(workdir) / "evaluation" / "manifest.json"
        path.write_text(json.dumps({"rows": [made.as_dict()]}))

    monkeypatch.setattr(protocol_changes.main, "run", run)
    monkeypatch.setattr(protocol_changes.host_memory, "keep_freed", lambda: True)
    monkeypatch.setattr(measured, "_RESULTS", tmp_path / "results")
    return asked


def test_each_change_is_one_evaluation_of_the_same_set(
    finished, pretended, tmp_path, monkeypatch, capsys
):
    pages = []
    monkeypatch.setattr(measured, "publish", lambda *given: pages.append(given))
    flags = ["--workdir", str(finished), "--out", str(tmp_path / "out"), "--seeds", "2"]
    protocol_changes.run([*flags, "--epochs", "5", "--write"])
    assert len(pretended) == len(CHANGES)
    for settings, change in zip(pretended, CHANGES, strict=True):
        expected = pretended[0] | change.settings | {"evaluate.protocol": change.protocol}
        assert settings == expected
    first = pretended[0]
    assert first["evaluate.scores_folder"] == str(tmp_path / "out/scores")
    assert (first["evaluate.students"], first["data.validation_share"]) == (("conv3",), 0.1)
    assert (first["evaluate.seeds"], first["evaluate.epochs"], first["ipc"]) == (2, 5, 3)
    ((page, lines, name),) = pages
    assert (page, name) == (protocol_changes.PAGE, "protocol_changes")
    assert "| no RandAugment | 52.00 ± 0.00 | +1.00 |" in lines
    assert "2 seeds, validation images" in lines[-1]
    assert "\n".join(lines) in capsys.readouterr().out
    (kept,) = (tmp_path / "results").iterdir()
    assert kept.name == "protocol_changes_digits.json"
    protocol_changes.run([*flags, "--epochs", "5", "--write", "--only", "1"])
    assert len(json.loads(kept.read_text())) == len(CHANGES)  # measured again, not once more


def test_what_cannot_be_asked_for(finished, tmp_path, capsys):
    flags = ["--workdir", str(finished), "--out", str(tmp_path / "out")]
    for wrong in (["--seeds", "0"], ["--epochs", "0"], ["--only", str(len(CHANGES))]):
        with pytest.raises(SystemExit):
            protocol_changes.run([*flags, *wrong])
    assert f"--only takes numbers from 0 to {len(CHANGES) - 1}" in capsys.readouterr().err
    (finished / "ranking.csv").unlink()
    with pytest.raises(UserError, match=r"has no ranking\.csv"):
        protocol_changes.run(flags)
