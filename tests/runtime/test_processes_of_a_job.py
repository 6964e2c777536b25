"""Several processes on one work directory: asked for, they share the work; unasked, refused."""

import contextlib
import signal

import pytest
from processes import assert_same, config, ended, start_job, unrecovered, wait_for_step

from delt_jax import main
from delt_jax.config import cli, from_config
from delt_jax.errors import UserError
from delt_jax.recovery.run import checkpoint
from delt_jax.runtime import compile_cache
from delt_jax.runtime import processes as hosts
from delt_jax.stages import pipeline, recover
from delt_jax.store.workdir import WorkDir


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts") / "run"
    main.run(config(), str(folder), ["squeeze", "rank", "recover"])
    return folder


def test_two_processes_of_four_devices_make_the_same_images(whole, tmp_path):
    workdir = unrecovered(whole, tmp_path)
    first, second = start_job(workdir)
    status, out, errors = ended(first)
    assert status == 0, errors
    assert "recovered 30 images" in out
    status, out, errors = ended(second)
    assert status == 0, errors
    assert "process 1 of 2: takes part in recover" in out
    assert "recovered" not in out
    assert_same(workdir, whole)


def test_killed_processes_are_followed_by_one(whole, tmp_path):
    workdir = unrecovered(whole, tmp_path)
    first, second = start_job(workdir)
    wait_for_step(workdir, second, 1, batches=(1, 3))
    first.send_signal(signal.SIGKILL)
    assert ended(first)[0] == -signal.SIGKILL
    assert ended(second)[0] != 0  # it ends with the first, which would have put the set together
    partial = workdir / "distilled.partial"
    assert any(
        checkpoint.step_of(partial, i) or checkpoint.finished_batch(partial, i).exists()
        for i in (1, 3)
    )
    main.run(config(), str(workdir), ["recover"])
    assert_same(workdir, whole)


def test_the_batches_of_a_silent_process_are_taken_over(whole, tmp_path, monkeypatch, capsys):
    workdir = unrecovered(whole, tmp_path)
    monkeypatch.setattr(hosts, "_SECONDS_BETWEEN_LOOKS", 0.01)
    real, finished = recover.finish, []
    monkeypatch.setattr(hosts, "share", lambda items: list(items[::2]))
    monkeypatch.setattr(recover, "finish", lambda w, i, s: (finished.append(i), real(w, i, s))[1])
    main.run(config(), str(workdir), ["recover"])
    assert finished == [[0, 2, 4], [1, 3]]
    out = capsys.readouterr().out
    assert "waiting for 2 batches of other processes" in out
    assert "no sign of the others" in out
    assert_same(workdir, whole)


@pytest.mark.parametrize("fails", [False, True])
def test_a_process_takes_leave_before_the_first_may_end(whole, monkeypatch, fails):
    """Which waits until none is joined; the others' farewell needs it."""
    seen = []

    def assist(*_):
        seen.append("assist")
        if fails:
            raise UserError("The disk is full.")

    def leave():
        seen.append(("leave", WorkDir(whole).is_joined(1)))

    monkeypatch.setattr(hosts, "index", lambda: 1)
    monkeypatch.setattr(pipeline, "assist", assist)
    monkeypatch.setattr(hosts, "leave", leave)
    outcome = pytest.raises(UserError, match="disk") if fails else contextlib.nullcontext()
    with outcome:
        main.run(config(), str(whole), ["recover"])
    assert seen == ["assist", ("leave", True)]
    assert not WorkDir(whole).is_joined(1)


def test_alone_there_is_nobody_to_take_leave_of():
    hosts.leave()
    assert hosts.count() == 1


def test_shares_are_disjoint_and_complete():
    for among in (1, 2, 3, 8):
        shares = [hosts.share(range(7), of, among) for of in range(among)]
        assert sorted(i for s in shares for i in s) == list(range(7))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert hosts.share("abc") == ["a", "b", "c"]  # alone


def test_one_job_at_a_time(tmp_path):
    settings = from_config(config())
    opened, joined, other = (WorkDir(tmp_path / "run") for _ in range(3))
    assert not joined.is_begun(settings)
    opened.open(settings)
    assert joined.is_begun(settings)
    joined.join(1)
    assert other.is_joined(1)
    assert not other.is_joined(2)
    with pytest.raises(UserError, match="Another process is at work"):
        other.open(settings)
    with pytest.raises(UserError, match="Another process is at work"):
        other.join(1)
    joined.close()
    opened.close()
    assert not other.is_joined(1)
    other.open(settings)
    other.close()


def test_waiting_ends_in_time_and_forgives_files_that_are_not_there(monkeypatch):
    monkeypatch.setattr(hosts, "_SECONDS_BETWEEN_LOOKS", 0.01)
    looks = []

    def third_time():
        looks.append(0)
        if len(looks) == 1:
            raise UserError("not there")
        return len(looks) == 3

    assert hosts.wait_until(third_time)
    assert not hosts.wait_until(lambda: False, seconds=0.05)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num_processes=2"], "all three or none"),
        (["--coordinator_address=a:1", "--num_processes=2"], "all three or none"),
        (["--distributed=auto", "--process_id=0"], "leave out --coordinator_address"),
        (
            ["--coordinator_address=a:1", "--num_processes=2", "--process_id=2"],
            r"below --num_processes \(2\), not 2",
        ),
        (["--distributed=yes"], "distributed"),
        (["--num_processes=0"], "num_processes"),
    ],
)
def test_flags_that_do_not_fit(flags, words):
    with pytest.raises(UserError, match=words):
        cli.parse(["main", "--config=configs/digits.py", "--workdir=x", *flags])


def test_nothing_is_started_unasked(monkeypatch):
    def never(*arguments, **named):
        raise AssertionError

    monkeypatch.setattr(hosts.jax.distributed, "initialize", never)
    assert (
        cli.parse(["main", "--config=configs/digits.py", "--workdir=x"]).job == cli.ProcessFlags()
    )
    hosts.start(*cli.ProcessFlags())


def test_a_job_that_cannot_be_joined_is_a_sentence(monkeypatch):
    def fails(*arguments, **named):
        raise ValueError("coordinator_address should be defined.\nmore")

    monkeypatch.setattr(hosts.jax.distributed, "initialize", fails)
    monkeypatch.setattr(hosts.jax.config, "update", lambda *arguments: None)
    with pytest.raises(UserError, match=r"could not be joined \(coordinator_address should be"):
        hosts.start(True)


def test_compiled_programs_are_kept_where_the_environment_says(monkeypatch, tmp_path):
    chosen = {}
    monkeypatch.setattr(compile_cache.jax.config, "update", chosen.__setitem__)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compile_cache.use()
    assert chosen == {"jax_compilation_cache_dir": f"{tmp_path}/delt_jax/compiled"}
    chosen.clear()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    compile_cache.use()
    assert not chosen
