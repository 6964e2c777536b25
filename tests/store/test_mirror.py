"""The mirror of a work directory: what is copied, in which order, and what is left alone."""

import pytest

from delt_jax.errors import UserError
from delt_jax.store import artefact, files, mirror

URL = "gs://b/runs/one"


def artefact_at(folder, name, **contents):
    with artefact.replacing(folder / name) as made:
        for file, content in contents.items():
            (made / file).parent.mkdir(parents=True, exist_ok=True)
            (made / file).write_text(content)
        artefact.seal(made / "manifest.json", {"hash": str(contents)})


@pytest.fixture
def run(tmp_path):
    """A work directory with two artefacts, and much that no mirror has."""
    folder = tmp_path / "run"
    artefact_at(folder, "teacher", weights="w1")
    artefact_at(folder, "distilled", a="a1", b="b1", c="c1")
    files.write_json(folder / "config.json", {})
    (folder / "metrics.jsonl").write_text("{}\n")
    for name in ("cache/pixels", "evaluation.partial/part", ".lock", "teacher/.weights.tmp"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no")
    return folder


def shown(bucket):
    return {name: content.decode() for name, content in bucket.below(URL).items()}


def test_finished_files_are_copied_once(run, bucket):
    assert mirror.copy(run, URL) == 8
    there = shown(bucket)
    kept = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    left_out = {"cache/pixels", "evaluation.partial/part", ".lock", "teacher/.weights.tmp"}
    assert there.keys() == kept - left_out
    assert all((run / name).read_text() == c for name, c in there.items() if name != "mirror.json")
    puts = bucket.calls["put"]
    assert mirror.copy(run, URL) == 0
    assert bucket.calls["put"] == puts
    with open(run / "metrics.jsonl", "a") as log:
        log.write("{}\n")
    assert mirror.copy(run, URL) == 1
    del bucket.objects["b/runs/one/distilled/b"]  # somebody's mistake
    assert mirror.copy(run, URL) == 2
    assert shown(bucket)["distilled/b"] == "b1"


def test_a_replaced_artefact_is_whole_or_has_no_manifest(run, bucket):
    mirror.copy(run, URL)
    bucket.objects["b/runs/one/distilled/mine"] = b"not the mirror's"
    artefact_at(run, "distilled", a="a1", b="b2", d="d2")
    real, seen = bucket.works, []

    def looked(call, path):
        held = shown(bucket)
        whole = held.get("distilled/manifest.json")
        new = (run / "distilled/manifest.json").read_text()
        files_there = {n: c for n, c in held.items() if n.startswith("distilled/")}
        files_there.pop("distilled/manifest.json", None)
        files_there.pop("distilled/mine")
        old_files = {"distilled/a": "a1", "distilled/b": "b1", "distilled/c": "c1"}
        new_files = {"distilled/a": "a1", "distilled/b": "b2", "distilled/d": "d2"}
        assert whole is None or files_there == (new_files if whole == new else old_files)
        seen.append(whole is None)
        return real(call, path)

    bucket.works = looked
    before = bucket.calls["put"]
    assert mirror.copy(run, URL) == 3  # b, d and the manifest; a is as it was
    assert bucket.calls["put"] - before == 3
    assert any(seen)
    assert shown(bucket)["distilled/mine"] == "not the mirror's"
    assert "distilled/c" not in shown(bucket)


@pytest.mark.parametrize("fails", range(3, 24, 2))
def test_a_copy_that_was_killed_is_completed(run, bucket, fails, monkeypatch):
    monkeypatch.setattr(mirror, "_AT_ONCE", 2)
    mirror.copy(run, URL)
    artefact_at(run, "distilled", a="a1", b="b2", d="d2", e="e2", f="f2")
    artefact_at(run, "evaluation", scores="s")
    calls = []

    def works(call, path):
        calls.append(call)
        return len(calls) < fails

    bucket.works = works
    try:
        mirror.copy(run, URL)
    except UserError as e:
        assert "503" in str(e)  # noqa: PT017
    bucket.works = lambda call, path: True
    uploads = bucket.calls["put"]
    mirror.copy(run, URL)
    there = shown(bucket)
    left_out = ("cache", ".lock", "teacher/.weights.tmp", "evaluation.partial")
    here = (path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    assert there.keys() == {name for name in here if not name.startswith(left_out)}
    assert all((run / name).read_text() == c for name, c in there.items() if name != "mirror.json")
    assert bucket.calls["put"] - uploads <= 8
    assert mirror.copy(run, URL) == 0


def test_places_of_others_are_left_alone(run, bucket, tmp_path):
    bucket.objects["b/runs/one/notes.txt"] = b"mine"
    with pytest.raises(UserError, match=f"--mirror {URL} holds files that no mirror .* empty"):
        mirror.copy(run, URL)
    bucket.objects.clear()
    mirror.copy(run, URL)
    other = tmp_path / "other"
    artefact_at(other, "teacher", weights="w9")
    with pytest.raises(UserError, match="is the mirror of another work directory than"):
        mirror.copy(other, URL)
    assert shown(bucket)["teacher/weights"] == "w1"
    # A work directory that was lost is copied back, and its mirror goes on.
    back = tmp_path / "back"
    for name, content in bucket.below(URL).items():
        (back / name).parent.mkdir(parents=True, exist_ok=True)
        (back / name).write_bytes(content)
    assert mirror.copy(back, URL) == 0
    bucket.objects["b/runs/one/mirror.json"] = b"{}"
    with pytest.raises(UserError, match=r"mirror.json that is no mirror's"):
        mirror.check(back, URL)
