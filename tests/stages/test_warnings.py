"""A run that fails without an error says so: in its log, manifests, summary and report."""

import html
import json
import shutil

import pytest
from tiny_run import read_json, tiny

from delt_jax import main
from delt_jax.comparison import tables as comparison_tables

FAILING = {
    "teacher.learning_rate": 1e-7,
    "teacher.epochs": 1,
    "data.mean": (0.9,),
    "data.std": (0.4,),
    "recover.learning_rate": 1e30,
    "evaluate.learning_rates": (1e30,),
    "evaluate.images": ("recovered",),
    "evaluate.regimes": ("hard",),
    "evaluate.seeds": 1,
    "evaluate.epochs": 1,
    "report.nearest": False,
}
MANIFESTS = {
    "squeeze": "teacher/manifest.json",
    "rank": "ranking.json",
    "recover": "distilled/manifest.json",
    "relabel": "soft_labels/manifest.json",
    "evaluate": "evaluation/manifest.json",
    "report": "report/manifest.json",
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("failed") / "run"
    main.run(tiny(**FAILING), str(folder))
    return folder


def test_every_stage_records_what_it_warned_of(failed):
    kept = {stage: read_json(failed / name)["warnings"] for stage, name in MANIFESTS.items()}
    assert "no better than chance (10.2%)" in kept["squeeze"][0]
    assert "normalised with mean 0.9 and std 0.4" in kept["squeeze"][1]
    assert kept["rank"] == kept["report"] == []
    assert "pixels are saturated" in kept["recover"][0]
    assert "no better than chance" in kept["relabel"][-1]
    assert kept["evaluate"][0].startswith("conv3, hard, recovered 3: the outputs of students are")


def test_summary_and_report_have_all_of_them(failed):
    summary = read_json(failed / "summary.json")
    listed = [(w["stage"], w["sentence"]) for w in summary["warnings"]]
    kept = [
        (stage, sentence)
        for stage, name in MANIFESTS.items()
        for sentence in read_json(failed / name)["warnings"]
    ]
    assert listed == kept
    page = (failed / "report/report.html").read_text(encoding="utf-8")
    box = page.index('<aside class="warning"')
    assert box < page.index("<h2")
    for stage, sentence in listed:
        assert f"<p>{html.escape(f'{stage}: {sentence}')}</p>" in page[box:]
    cell = comparison_tables.read(failed, "digits")
    above = comparison_tables.sections([cell])[0].above
    assert above[-1].startswith(f"Warning, {failed.name}, evaluate: conv3, hard")
    assert sum(line.startswith("Warning, ") for line in above) == len(listed)


def test_the_log_names_them_at_the_stage_and_at_the_end(failed, tmp_path, capfd):
    run = shutil.copytree(failed, tmp_path / "run")
    for name in ("evaluation", "report"):
        shutil.rmtree(run / name)
    main.run(tiny(**FAILING), str(run), ["evaluate", "report"])
    text = "".join(capfd.readouterr())
    assert "  warning: conv3, hard, recovered 3: the outputs of students are not finite" in text
    assert "warning of squeeze: The teacher conv3 gets" in text


def test_artefacts_of_older_versions_have_kept_none(failed, tmp_path):
    run = shutil.copytree(failed, tmp_path / "run")
    for name in MANIFESTS.values():
        manifest = read_json(run / name)
        for newer in ("warnings", "files", "checksum", "random_numbers"):
            del manifest[newer]
        (run / name).write_text(json.dumps(manifest), encoding="utf-8")
    shutil.rmtree(run / "report")
    main.run(tiny(**FAILING), str(run), ["report"])
    assert read_json(run / "summary.json")["warnings"] == []
    page = (run / "report/report.html").read_text(encoding="utf-8")
    assert '<aside class="warning"' not in page
    old = comparison_tables.read(run, "digits")
    del old.summary["warnings"]
    assert not [s for s in comparison_tables.sections([old])[0].above if "Warning" in s]
