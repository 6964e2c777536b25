"""Commands do the same whatever the user's environment says, or answer in a sentence."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from costly import costly

from delt_jax import compare, export, main

ROOT = Path(__file__).parents[2]


def run(module, *flags, **environment):
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", f"delt_jax.{module}", *flags],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def called(capsys):
    """A command in this process, which costs no start."""

    def call(module, *flags):
        status = module.main([f"delt_jax.{module.__name__}", *flags])
        out, errors = capsys.readouterr()
        return subprocess.CompletedProcess(flags, status, out, errors)

    return call


def refused(done, *words):
    """Asserts one sentence and no traceback."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode in (1, 2), done.stderr
    assert len([line for line in lines if line.startswith("delt_jax: ")]) == 1
    assert "Traceback" not in done.stderr
    assert all(word in lines[-1] for word in words), lines


PLAN = (f"--config={ROOT}/configs/digits.py", "--workdir=never_made", "--dry_run")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("JAX_PLATFORMS", "cuda", ("JAX_PLATFORMS='cuda'", "unset it")),
        ("JAX_ENABLE_X64", "maybe", ("'maybe'", "JAX_ENABLE_X64", "unset")),
    ],
)
def test_an_environment_that_jax_cannot_start_in(name, value, words):
    refused(run("main", *PLAN, **{name: value}), *words)


def test_a_cache_folder_that_nothing_can_read(called, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "az://c")
    refused(called(main, *PLAN), "JAX_COMPILATION_CACHE_DIR az://c", "URL")


def test_urls_are_answered_by_every_command(called, bucket):
    url, recipe = "gs://bucket/none", PLAN[0]
    for done, *words in (
        (called(main, recipe, f"--workdir={url}", "--dry_run"), "--workdir", f"--mirror={url} "),
        (
            called(main, f"--config={url}.py:x", PLAN[1]),
            f"{url}.py is a URL, and a recipe",
        ),
        (called(main, *PLAN, "--mirror=here"), "--mirror here is a local path"),
        (called(compare, recipe.replace("config=", "configs="), f"--workdir={url}"), "--mirror="),
        (called(compare, f"--configs={url}.py", "--workdir=w"), f"--configs {url}.py is a URL"),
        (called(export, "--to=npz", f"{url}", "--out=x.npz"), f"There is nothing at {url}"),
    ):
        refused(done, *words)
    assert not (ROOT / "gs:").exists()


def test_a_home_folder_is_expanded(called, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    done = called(main, PLAN[0], "--workdir=~/run", "--dry_run")
    assert f"Plan for {tmp_path}/run" in done.stdout
    recipe = tmp_path / "digits.py"
    recipe.write_text("from delt_jax.config import default_config as get_config\n")
    done = called(main, "--config=~/digits.py", "--workdir=~/run", "--dry_run")
    assert f"Plan for {tmp_path}/run" in done.stdout
    assert compare.split_configs("~/digits.py:a,b") == (f"{recipe}:a,b",)
    refused(called(main, PLAN[0], "--workdir=~nobody_here/run"), "no such user")
    assert not (ROOT / "~").exists()


@pytest.mark.parametrize("name", ["x" * 300, "a\nb", os.fsdecode(b"\xff\xfe")])
def test_names_that_cannot_be_files(called, name):
    refused(called(main, PLAN[0], f"--workdir={name}"), "--workdir")
    refused(called(main, *PLAN, f"--config.data.path={name}"), "data.path")
    refused(called(export, "--to=npz", name), "The path")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("config.recover.iterationz = 3", ("line 4", "'iterationz'", "recover.iterations")),
        ("import sys; sys.exit(0)", ("line 4", "ends the program")),
        ("1 / 0", ("line 4", "ZeroDivisionError")),
        ("int('x')", ("line 4", "ValueError")),
        ("open('/nowhere')", ("/nowhere",)),
        ("config = (", ("line", "SyntaxError")),
        ("return 5", ("returned no ConfigDict",)),
        ("raise RuntimeError", ("line 4", "RuntimeError")),
    ],
)
def test_a_config_file_that_fails_is_named_with_its_line(called, tmp_path, body, words):
    file = tmp_path / "recipe.py"
    file.write_text(
        "from delt_jax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        f"    {body}\n"
        "    return config\n"
    )
    done = called(main, f"--config={file}", "--workdir=never_made")
    refused(done, *words)
    assert "line" not in words[0] or f"{file}, line" in done.stderr


SLOW_IMPORT = """
import sys, time
print("importing", flush=True)
time.sleep(1)
sys.path.remove({folder!r})
del sys.modules["absl"]
import absl
"""


@pytest.mark.parametrize("words", [".main", *map(costly, (".compare", ".export", " run"))])
def test_a_signal_while_a_command_starts_is_obeyed(tmp_path, words):
    (tmp_path / "absl.py").write_text(SLOW_IMPORT.format(folder=str(tmp_path)))
    process = subprocess.Popen(
        [sys.executable, "-m", *f"delt_jax{words}".split()],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("delt_jax: stopped")


def test_nothing_is_imported_before_a_command_listens():
    script = (
        "import sys; before = set(sys.modules); import delt_jax; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "delt_jax delt_jax.errors\n"


def test_a_bug_is_one_sentence_and_a_file(called, monkeypatch, tmp_path):
    def fail(*arguments):
        raise KeyError("nobody thought of this")

    monkeypatch.setattr(main, "run", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = called(main, *PLAN)
    assert done.returncode == 70
    (line,) = done.stderr.splitlines()
    (report,) = tmp_path.iterdir()
    assert "This is a bug of delt_jax: KeyError" in line
    assert line.endswith(f"please report it with {report}.")
    assert "nobody thought of this" in report.read_text()
