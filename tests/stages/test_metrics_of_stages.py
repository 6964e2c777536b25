"""What stages log: the points of an undisturbed run, once each, however often it is stopped."""

import json
import shutil

import pytest
from tiny_run import losses_of, read_json, stop_after, tiny

from delt_jax import main

STAGES = ["recover", "relabel", "evaluate"]


def points(folder):
    """What is logged, without the time and the seconds that it took."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in ("time", "seconds")} for line in lines]


@pytest.fixture(scope="module")
def whole(tiny_ranked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics") / "whole"
    shutil.copytree(tiny_ranked, folder)
    main.run(tiny(), str(folder), STAGES)
    return folder


def test_a_stopped_run_logs_what_an_undisturbed_one_does(whole, tiny_ranked, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(tiny_ranked, folder)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            main.run(tiny(), str(folder), STAGES)
    main.run(tiny(), str(folder), STAGES)
    assert points(folder) == points(whole)
    recovered = [p for p in points(whole) if p["stage"] == "recover"]
    assert {p["step"] for p in recovered} == {2, 4}
    assert all(p.keys() >= {"loss", "cross_entropy", "bn"} for p in recovered)


def test_the_logged_losses_are_those_of_the_file(whole):
    losses = losses_of(whole)
    for point in points(whole):
        if point["stage"] == "recover":
            mean = losses["bn"][point["batches"], point["step"] - 1].mean()
            assert point["bn"] == pytest.approx(float(mean), rel=1e-6)


def test_an_evaluation_that_is_made_again_from_its_scores_logs_nothing_new(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "evaluation")
    main.run(tiny(), str(folder), ["evaluate"])
    assert points(folder) == points(whole)
    curves = [p for p in points(folder) if p["stage"] == "evaluate" and "accuracy" in p]
    scores = read_json(folder / "evaluation/scores.json")
    assert len(curves) == sum(len(score["history"]) for score in scores) > 0


def test_writers_are_no_input_of_any_stage(whole, tmp_path, capsys):
    pytest.importorskip("tensorboardX")
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    main.run(tiny(writers=("tensorboard",)), str(folder), STAGES)
    assert capsys.readouterr().out.count("done, nothing changed") == len(STAGES)
    assert list((folder / "tensorboard").glob("*tfevents*"))
