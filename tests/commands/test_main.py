"""The command line as a user meets it: in processes of its own where they matter."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from delt_jax import main

ROOT = Path(__file__).parents[2]
CONFIG = "--config=configs/digits.py"
SHORT = (
    "--config.ipc=2",
    "--config.teacher.width=8",
    "--config.teacher.epochs=2",
    "--config.recover.iterations=4",
    "--config.recover.round_iterations=2",
    "--config.evaluate.width=8",
    "--config.relabel.rand_augment=",
    "--config.evaluate.epochs=1",
    "--config.evaluate.batch_size=10",
    "--config.evaluate.seeds=1",
    "--config.evaluate.regimes=hard",
    "--config.evaluate.images=recovered,random",
)


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "delt_jax.main", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def here(capsys, monkeypatch):
    """The same in this process, which costs no start."""
    monkeypatch.chdir(ROOT)

    def call(*arguments):
        status = main.main(["delt_jax.main", *map(str, arguments)])
        out, errors = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, out, errors)

    return call


def refused(result, status, *words):
    """One sentence on stderr, no traceback, the right exit status."""
    assert result.returncode == status, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("delt_jax: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.exhaustive  # runtime/test_processes_of_a_job.py runs all stages, too
def test_run_then_skip(tmp_path, here):
    workdir = tmp_path / "run"
    first = command(CONFIG, f"--workdir={workdir}", *SHORT)
    assert first.returncode == 0, first.stderr
    assert "| conv3   | hard   | recovered |" in first.stdout
    assert str(workdir / "report" / "report.html") in first.stdout
    settings = json.loads((workdir / "config.json").read_text())["settings"]
    assert settings["recover.iterations"] == 4
    assert settings["evaluate.images"] == ["recovered", "random"]
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    stages = [json.loads(line)["stage"] for line in lines]
    assert set(stages) == {"squeeze", "rank", "recover", "relabel", "evaluate"}
    second = here(CONFIG, f"--workdir={workdir}", *SHORT)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("done, nothing changed") == 6


# A shell's background job ignores SIGINT and hands that on; a terminal's does not.
AS_IN_A_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "delt_jax.main", *sys.argv[1:]])
"""


def test_interrupted_run_says_how_to_go_on(tmp_path, here):
    workdir = tmp_path / "run"
    arguments = [CONFIG, f"--workdir={workdir}", "--config.teacher.epochs=100000"]
    arguments.append("--config.teacher.width=8")
    process = subprocess.Popen(
        [sys.executable, "-c", AS_IN_A_TERMINAL, *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        log = workdir / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.2)
        refused(here(CONFIG, f"--workdir={workdir}"), 1, "Another process is at work")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    assert not (workdir / "teacher").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([CONFIG], ["--workdir is missing"]),
        (["--config=configs/digit.py"], ["configs/digit.py", "no such file"]),
        (["--config=/dev/full"], ["/dev/full", "no such file"]),  # it has no end
        (["--config=configs"], ["configs", "no such recipe", "`delt_jax configs` lists"]),
        (["--config=" + "x/" * 2100], ["no such file"]),
        (["--config", "digts:cda"], ["no such recipe", "did you mean digits?"]),
        ([CONFIG, "--config.recover.iteratons=5"], ["did you mean recover.iterations?"]),
        ([CONFIG, "--config.recover.iterations=many"], ["recover.iterations", "'many'"]),
        ([CONFIG, "--config.recover.iterations=1.5"], ["recover.iterations"]),
        ([CONFIG, "--workdri=x"], ["workdri"]),
        ([CONFIG, "digits"], ["Unexpected argument 'digits'"]),
        ([CONFIG, "--stages=a\nb"], ["a b"]),  # in one line
        ([f"{CONFIG}:a\nb\x1b[31m"], ["a"]),
    ],
)
def test_bad_flags(arguments, words, here):
    refused(here(*arguments), 2, *words)


@pytest.mark.exhaustive  # test_environment.py has others
def test_a_refusal_by_a_process(tmp_path):
    """Whose libraries say nothing beside it."""
    refused(command(), 2, "--config is missing")
    done = command(CONFIG, f"--workdir={tmp_path}/run", "--config.ipc=1000")
    refused(done, 1, "ipc is 1000", "lower ipc")
    assert not (tmp_path / "run").exists()


def test_config_file_with_an_unknown_key(tmp_path, here):
    (tmp_path / "mine.py").write_text(
        "from delt_jax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.recover.lerning_rate = 1.0\n"
        "    return config\n"
    )
    result = here(f"--config={tmp_path}/mine.py", f"--workdir={tmp_path}/run")
    refused(result, 2, "'lerning_rate'", "did you mean")


def test_bad_input_leaves_nothing_behind(tmp_path, here):
    workdir = tmp_path / "run"
    refused(here(CONFIG, f"--workdir={workdir}", "--stages=recovre"), 1, "did you mean recover?")
    refused(
        here(
            "--config=configs/fashion_mnist.py",
            f"--workdir={workdir}",
            f"--config.data.path={tmp_path}",
        ),
        1,
        "train-images-idx3-ubyte",
        "missing",
    )
    assert not workdir.exists()


def test_foreign_and_unusable_work_directories(tmp_path, here):
    (tmp_path / "thesis.tex").write_text("mine")
    refused(here(CONFIG, f"--workdir={tmp_path}"), 1, "not a delt_jax run's")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    refused(here(CONFIG, f"--workdir={tmp_path}/thesis.tex"), 1, "is a file")
    refused(here(CONFIG, f"--workdir={tmp_path}/thesis.tex/run"), 1, "lies in", "thesis.tex")


def test_dry_run(tmp_path, here):
    result = here(
        CONFIG,
        f"--workdir={tmp_path}/run",
        "--dry_run",
        "--config.ipc=50",
        "--config.recover.iterations=4000",
        "--config.recover.round_iterations=500",
    )
    assert result.returncode == 0, result.stderr
    assert "57.75% of full optimisation (42.25% saved)" in result.stdout
    assert "images 0-6 " in result.stdout
    assert "device memory of recover: about" in result.stdout
    assert not (tmp_path / "run").exists()
