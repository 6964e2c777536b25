"""benchmarks/search.py: its trials, its tables, which trials go on, and a search in miniature."""

import csv
import io
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import search
import search_table

from delt_jax.data.validation import SCORED
from delt_jax.errors import UserError
from delt_jax.store import files

TINY = """
from delt_jax.config import default_config, vary


def get_config(variants=""):
    config = default_config()
    config.ipc = 2
    config.data.flip = False
    config.teacher.width = 8
    config.teacher.epochs = 1
    config.recover.learning_rate = 0.03
    config.recover.iterations = 2
    config.recover.round_iterations = 2
    config.recover.batch_size = config.evaluate.batch_size = 10
    config.relabel.rand_augment = ""
    config.relabel.mix = "none"
    vary(config, variants, {}, __file__)
    return config
"""


def result(trial, images="recovered", labels="online", last=0.5, stage="short", **changes):
    """A line of results.json."""
    return {
        "stage": stage,
        "trial": trial,
        "asked": "a1",
        "labels": labels,
        "images": images,
        "seeds": 1,
        "last_mean": last,
        "last_std": 0.0,
        "scored_on": SCORED,
        "seconds": 12.3,
        "image_iterations": 51000,
        "teacher": "t1",
        "teacher_accuracy": 0.9,
        "student": "conv3",
        "protocol": "p: 50 epochs",
        "distilled": "d1",
        "scores": ["s1"],
        "command": "make it",
        "machine": "two cores",
        "date": "2026-11-22",
    } | changes


@pytest.fixture
def results():
    """Three trials with two kinds of labels, which disagree about the best."""
    listed = []
    for labels, lasts in {"online": (0.6, 0.7, 0.5), "hard": (0.3, 0.2, 0.4)}.items():
        listed += [
            result(name, labels=labels, last=last)
            for name, last in zip(("base", "a", "b"), lasts, strict=True)
        ]
        listed += [result("base", "random", labels, 0.55), result("base", "selected", labels, 0.5)]
        # Another teacher's labels: no yardstick for anyone.
        listed.append(result("a", "random", labels, 0.1))
    return listed


def test_every_trial_can_be_run_and_differs_from_the_base(tmp_path):
    options = search.choose(["--workdir", str(tmp_path)])
    trials = search.chosen_trials(options.groups)
    assert len(trials) == 1 + sum(map(len, search.TRIALS.values()))  # no name twice
    assert set(options.groups) == set(search.TRIALS)
    (tmp_path / "tiny.py").write_text(TINY)  # of data that are always there
    (tmp_path / "methods").symlink_to(ROOT / "configs/methods")
    options = search.choose(
        [f"--workdir={tmp_path}", f"--config={tmp_path}/tiny.py", "--config.data.image_size=16"]
    )  # a ConvNet-4 halves the image four times
    sources: dict = {}
    cells = [search.cell_of(t, search.STAGES["short"], options, sources) for t in trials.values()]
    assert len(sources) == 1
    assert len({search.asked(cell) for cell in cells}) == len(cells)
    for cell in cells:
        assert cell.recipe.data.validation_share == 0.1
        assert cell.recipe.evaluate.seeds == 1
        assert cell.source.scored == SCORED
    rates = {c.recipe.recover.learning_rate for c in cells}
    assert {0.02, 0.25} < rates


def test_gains_are_over_the_bases_random_images_the_largest_first(results):
    gains = search_table.gains(results, "base", "short")
    assert [row["trial"] for row in gains["online"]] == ["a", "base", "b"]
    assert [row["trial"] for row in gains["hard"]] == ["b", "base", "a"]
    assert gains["online"][0]["gain"] == pytest.approx(0.15)
    assert gains["online"][0]["gain_over_selected"] == pytest.approx(0.2)
    assert search_table.gains(results, "base", "long") == {}
    page = search_table.page([*results, *(r | {"stage": "long"} for r in results)], "base")
    assert "| a | 70.00 | +15.00 | +20.00 | 12 | 51,000 |" in page
    assert f"Accuracy on {SCORED}" in page
    assert page.index("## long, online") < page.index("## short, online")
    rows = list(csv.DictReader(io.StringIO(search_table.as_csv(results, "base").decode())))
    assert [(r["labels"], r["trial"]) for r in rows[:2]] == [("online", "a"), ("online", "base")]
    assert float(rows[0]["gain"]) == pytest.approx(0.15)
    several = [r | {"seeds": 2, "last_std": 0.01} for r in results]
    assert "| a | 70.00 ± 1.00 |" in search_table.page(several, "base")


def test_the_best_of_each_kind_of_labels_go_on(results):
    assert search.promoted(results, "short", 1) == ["base", "a", "b"]
    assert search.promoted([r for r in results if r["labels"] == "hard"], "short", 1) == [
        "base",
        "b",
    ]
    with pytest.raises(UserError, match="no results of --stage=middle"):
        search.promoted(results, "middle", 1)


def test_flags(tmp_path, capsys):
    for wrong in (["--stage", "last"], ["--groups", "rates"]):
        with pytest.raises(SystemExit):
            search.choose(["--workdir", str(tmp_path), *wrong])
        assert "only" in capsys.readouterr().err
    config = ["--config", str(ROOT / "configs/digits.py"), "--groups", "rate"]
    command = ["--workdir", str(tmp_path / "w"), *config]
    with pytest.raises(UserError, match="test images would choose"):
        search.run([*command, "--config.data.validation_share=0"])
    search.run([*command, "--dry_run", "--config.recover.iterations=100"])
    said = capsys.readouterr().out
    assert "short: 1 student(s) of 50 epochs a row, all trials" in said
    assert "learning_rate_0.02                      4,000  not done yet" in said
    search.run([*command, "--dry_run", "--config.evaluate.seeds=2", "--config.evaluate.epochs=300"])
    assert "short: 2 student(s) of 300 epochs a row" in capsys.readouterr().out
    assert not (tmp_path / "w").exists()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A search of three trials and two stages, one of which diverges."""
    (tmp_path / "tiny.py").write_text(TINY)
    trials = [
        search.Trial("start_only", {"recover.iterations": 0, "recover.round_iterations": 0}),
        search.Trial("diverges", {"recover.bn_weight": 1e9}),
    ]
    run_trial = search.run_trial

    def run(cell):
        if cell.name == "diverges":
            raise UserError("The images of batch 0 are no numbers.")
        run_trial(cell)

    monkeypatch.setattr(search, "run_trial", run)
    monkeypatch.setattr(search, "TRIALS", {"tiny": trials})
    stages = {"short": search.Stage(1, 1, 0), "long": search.Stage(2, 1, 1)}
    monkeypatch.setattr(search, "STAGES", stages)
    monkeypatch.setattr(search.measured.host_memory, "keep_freed", lambda: True)
    return [
        f"--workdir={tmp_path / 'search'}",
        f"--config={tmp_path / 'tiny.py'}",
        "--config.evaluate.width=8",
        "--config.evaluate.regimes=('hard',)",
    ]


@pytest.mark.exhaustive  # its parts are tested above
def test_a_search_resumes_shares_what_is_equal_and_takes_the_best_on(tiny, tmp_path, capsys):
    folder = tmp_path / "search"
    search.run([*tiny, "--stage=short"])
    said = capsys.readouterr()
    text = said.out + said.err
    assert "squeeze: taken from base" in text
    assert "search: short, trial 3 of 3, diverges" in text
    found = files.read_json(folder / "results.json")
    assert {row["trial"] for row in found} == {"base", "start_only"}
    assert {row["scored_on"] for row in found} == {SCORED}
    ids = {r["trial"]: r["scores"] for r in found if r["images"] == "random"}
    assert ids["base"] == ids["start_only"]  # trained once
    assert len(list((folder / "scores").iterdir())) == 3  # random, selected = the start, recovered

    search.run(tiny)
    said = capsys.readouterr()
    assert "short, trial 2 of 3, start_only: finished before" in said.out + said.err
    found = files.read_json(folder / "results.json")
    assert {(r["stage"], r["seeds"]) for r in found} == {("short", 1), ("long", 2)}
    assert {r["trial"] for r in found if r["stage"] == "long"} == {"base", "start_only"}
    table = (folder / "search.md").read_text()
    assert table in said.out
    assert table.index("## long, hard labels") < table.index("## short, hard labels")
    assert len((folder / "search.csv").read_text().splitlines()) == 5

    with pytest.raises(UserError, match="with another --config or other settings"):
        search.run([*tiny, "--config.seed=1"])
