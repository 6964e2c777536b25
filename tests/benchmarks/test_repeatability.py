"""Two runs of one seed are compared file by file, and the cost of equal bits is a quotient."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import repeatability


@pytest.fixture
def runs(monkeypatch):
    """Runs that only write what they are told to; each takes the next values."""
    teachers, calls = iter("abab"), []

    def run(flags, workdir, cache, xla_flags=""):
        calls.append((flags, cache.name, xla_flags))
        (workdir / "teacher").mkdir(parents=True)
        (workdir / "distilled").mkdir()
        (workdir / "metrics.jsonl").write_text(f"{len(calls)}")
        (workdir / "distilled/images.bin").write_text("same")
        seconds = 3.0 if xla_flags else 3.3
        manifest = {"hash": next(teachers), "seconds": seconds + len(calls)}
        (workdir / "teacher/manifest.json").write_text(json.dumps(manifest))

    monkeypatch.setattr(repeatability, "run", run)
    return calls


def test_a_difference_is_named_and_times_make_none(runs, tmp_path):
    assert repeatability.twice(["--config=c"], tmp_path) == [
        "- distilled: identical",
        "- teacher: DIFFERENT in teacher/manifest.json",
    ]
    assert [cache for _, cache, _ in runs] == ["cache_first", "cache_second"]
    assert all(flags == ["--config=c", f"--stages={repeatability.STAGES}"] for flags, *_ in runs)


def test_the_cost_is_measured_in_turns_after_a_run_that_compiles(runs, tmp_path):
    line = repeatability.cost(["--config=c"], tmp_path, 1)
    assert [flags for *_, flags in runs] == ["", repeatability.WITHOUT] * 2
    # The third and the fourth run: 6.3 s and 7.0 s.
    assert line.endswith("6.3 (6.3..6.3) s with equal bits, 7.0 (7.0..7.0) s without: -10.0 %")
